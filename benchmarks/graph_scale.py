"""How graphs scale: the time of an evaluation, and the memory of an answer, up to ogbn-products.

Generated power-law graphs of 6 thousand to 62 million undirected edges, with the proportions of
ogbn-products (2,449,029 nodes, 61,859,140 edges), and an IGNN with 32 features in and 32 of state.
Measured for each size:

* the seconds of one evaluation of f, and of that for each entry of the adjacency;
* the peak memory (resident set) of inference at 1, 2 and 10 evaluations, graph and features
  included, each in a process of its own: by the teacher's Picard iteration, and by an untied
  student of two learned steps, then Anderson with its window of 6 states twice, or Picard;
* the most bytes of tensors alive at once during inference, in states (nodes × 32 floats): what
  does not depend on the size is linear in nodes.

    OMP_NUM_THREADS=1 python benchmarks/graph_scale.py --output results/graph-scale.json

writes the numbers, and a picture of them next to it (`draw_scale.py` draws it alone). Cost: about
ten minutes on one core, 7 GiB of memory and 2 GiB of temporary files; `--largest 0.01` ends after
the third size. `load` in the result is that of the machine when the benchmark began: what is above
0 was other work.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from alone import GIB, alone, peak_rss
from draw_scale import draw
from machine import machine

from cdeq.atomic import write_atomic
from cdeq.consistency.time import ExponentialSchedule
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.solvers import Anderson, Picard
from cdeq.data.power_law import power_law, random_features
from cdeq.evaluation.memory import peak_bytes
from cdeq.evaluation.sweep import Method, distilled, truncated
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.batch import GraphContext
from cdeq.models.graph.ignn import IGNN, IGNNSpec
from cdeq.models.graph.sparse import SparseMatrix, compressed
from cdeq.report.canvas import save

NODES, EDGES = 2_449_029, 61_859_140
LEAST = 400
"""Nodes that the smallest graph needs so that its edges are at most a tenth of all pairs."""
WIDTH, CLASSES = 32, 47
PARTS = ("starts", "columns", "values")
METHODS = ("picard", "student", "student-picard")
BUDGETS = (1, 2, 10)
LIMIT = 20
"""GiB that the largest graph's inference has to stay below."""

Numbers = dict[str, Any]


def sizes(largest: float) -> list[tuple[int, int]]:
    """Nodes and edges in steps of a decade, up to a share of ogbn-products."""
    shares = [share for share in (1e-4, 1e-3, 1e-2, 1e-1, 1.0) if share <= largest]
    return [(max(round(NODES * s), LEAST), round(EDGES * s)) for s in shares]


def generate(folder: Path, nodes: int, edges: int) -> Numbers:
    """Write the normalised adjacency of a graph to a folder; what that took."""
    start = time.perf_counter()
    adjacency = normalised(power_law(nodes, edges), nodes)
    seconds = time.perf_counter() - start
    for name, part in zip(PARTS, adjacency.parts(), strict=True):
        np.save(folder / f"{name}.npy", part.numpy())
    peak = {"generation_seconds": seconds, "generation_peak_gib": peak_rss()}
    return {"nodes": nodes, "edges": edges, "entries": adjacency.entries, **peak}


def load(folder: Path) -> GraphContext:
    """The graph in a folder, with features of noise."""
    starts, columns, values = (torch.from_numpy(np.load(folder / f"{n}.npy")) for n in PARTS)
    nodes = len(starts) - 1
    matrix = compressed(starts, columns, values, (nodes, nodes))
    return GraphContext(random_features(nodes, WIDTH), SparseMatrix(matrix, None))


def teacher() -> IGNN:
    """An untrained one: what it computes does not depend on its weights."""
    torch.manual_seed(0)
    return IGNN(IGNNSpec(inputs=WIDTH, hidden=WIDTH, classes=CLASSES)).eval()


def method(name: str, model: IGNN) -> Method:
    """One of `METHODS`: the model's Picard iteration, or its untrained student."""
    if name == "picard":
        return truncated(Picard())
    tail = Anderson() if name == "student" else Picard()
    student = UntiedDEQ.from_teacher(model, tail=tail).merged()
    return distilled(student, ExponentialSchedule())


@torch.no_grad()
def evaluation(folder: Path, rounds: int, least: float = 0.5) -> Numbers:
    """The median time of f, over some rounds and at least half a second."""
    x, model = load(folder), teacher()
    f = model.bind(x)
    z, seen = f(model.initial(x)), []
    while len(seen) < rounds or sum(seen) < least:
        start = time.perf_counter()
        f(z)
        seen.append(time.perf_counter() - start)
    seconds = statistics.median(seen)
    each = 1e6 * seconds / x.adjacency.entries
    return {"seconds": seconds, "microseconds_per_entry": each, "rounds": len(seen)}


@torch.no_grad()
def inference(folder: Path, name: str, nfe: int) -> Numbers:
    """What an answer of every node takes, from the graph in memory to its classes."""
    x, model = load(folder), teacher()
    run, loaded = method(name, model), peak_rss()

    def answer() -> object:
        states = islice(run(model, x, model.initial(x)), nfe)
        (z,) = deque(states, maxlen=1)  # keeps the last alone
        return model.decode(z, x).argmax(1)

    live, state = peak_bytes(answer), 4 * WIDTH * x.adjacency.shape[0]
    memory = {"loaded_gib": loaded, "peak_gib": peak_rss(), "live_gib": live / GIB}
    parts = {"state_gib": state / GIB, "live_states": live / state}
    return {"method": name, "nfe": nfe, **memory, **parts}


def measure(
    graphs: Sequence[tuple[int, int]],
    budgets: Sequence[int],
    rounds: int,
    say: Callable[[str], object],
) -> Numbers:
    """The contents of the result file, but for what ran where.

    Arguments:
        graphs: Nodes and undirected edges of each.
        budgets: Evaluations of f.
        rounds: How often an evaluation is timed at least.
        say: Told of each number when it is there.
    """
    evaluations, answers = [], []
    for nodes, edges in graphs:
        with TemporaryDirectory() as name:
            made = alone(generate, Path(name), nodes, edges)
            evaluations.append(rounded(made | alone(evaluation, Path(name), rounds)))
            say(str(evaluations[-1]))
            for row in each_answer(Path(name), budgets):
                answers.append(rounded({"nodes": nodes, "edges": edges, **row}))
                say(str(answers[-1]))
    return {"evaluations": evaluations, "inference": answers, "limit_gib": LIMIT}


def each_answer(folder: Path, budgets: Sequence[int]) -> Iterator[Numbers]:
    """Inference by each method at each budget, each in a process of its own."""
    for name in METHODS:
        for nfe in budgets:
            yield alone(inference, folder, name, nfe)


def rounded(numbers: Numbers) -> Numbers:
    """With four digits, which is more than a repetition would confirm."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in numbers.items()}


def main() -> None:
    """Measure, tell, write, draw."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--output", type=Path, required=True, help="the result file, JSON")
    options.add_argument("--rounds", type=int, default=3, help="timed evaluations, at least")
    options.add_argument("--largest", type=float, default=1.0, help="share of ogbn-products")
    given = options.parse_args()
    where = machine("numpy")
    contents = measure(sizes(given.largest), BUDGETS, given.rounds, print) | where
    contents["command"] = "python benchmarks/graph_scale.py " + shlex.join(sys.argv[1:])
    write_atomic(given.output, (json.dumps(contents, indent=2) + "\n").encode())
    save(given.output.with_suffix(".png"), lambda: draw(contents))


if __name__ == "__main__":
    main()
