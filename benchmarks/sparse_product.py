"""Sparse products side by side: ours, torch's and SciPy's, on a graph of ogbn-arxiv's size.

Times A @ Z for 32, 64 and 128 columns on a generated power-law graph (169,343 nodes, 1,166,243
undirected edges: 2.5 million entries with both directions and self-loops), in alternating rounds,
on one thread and on all, and writes the medians and the ratio of ours to the fastest of the
others.

    python benchmarks/sparse_product.py --output results/sparse-product.json

Cost: two minutes on two cores, less than 1 GiB. Needs SciPy, which comes with the extra `train`,
and whose product uses one thread whatever it is given. `load` in the result is that of the machine
when the benchmark began: what is above 0 was other work.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import torch
from machine import machine
from scipy.sparse import csr_array
from torch import Tensor

from cdeq.atomic import write_atomic
from cdeq.data.power_law import power_law, random_features
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.sparse import SparseMatrix, compressed

NODES, EDGES = 169_343, 1_166_243
WIDTHS = (32, 64, 128)
OURS = "SparseMatrix"

Product = Callable[[], object]


def products(adjacency: SparseMatrix, dense: Tensor) -> dict[str, Product]:
    """Each way to compute A Z, with whatever it converts done before.

    Arguments:
        adjacency: A.
        dense: Z.
    """
    starts, columns, values = adjacency.parts()
    rows, places = dense.numpy(), adjacency.matrix.to_sparse_coo()
    shape = (adjacency.shape[0], adjacency.shape[1])
    narrow = compressed(starts.int(), columns.int(), values, shape)
    wide_scipy, narrow_scipy = (
        csr_array((values.numpy(), c.numpy(), s.numpy()), shape=shape)
        for s, c in ((starts, columns), (starts.int(), columns.int()))
    )
    return {
        OURS: lambda: adjacency @ dense,
        "torch CSR": lambda: adjacency.matrix @ dense,
        "torch CSR, 32-bit indices": lambda: narrow @ dense,
        "torch COO": lambda: places @ dense,
        "SciPy CSR": lambda: wide_scipy @ rows,
        "SciPy CSR, 32-bit indices": lambda: narrow_scipy @ rows,
    }


def medians(tasks: Mapping[str, Product], rounds: int) -> dict[str, float]:
    """The median seconds of each task over alternating rounds, after one that is not timed.

    Arguments:
        tasks: By name.
        rounds: At least 1.
    """
    seen: dict[str, list[float]] = {name: [] for name in tasks}
    for k in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if k > 0:
                seen[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seen.items()}


def measure(
    nodes: int, edges: int, widths: Sequence[int], rounds: int, say: Callable[[str], object]
) -> dict[str, object]:
    """The contents of the result file, but for what ran where.

    Arguments:
        nodes: Of the generated graph.
        edges: Of it, undirected.
        widths: Columns of Z.
        rounds: How often each product is timed.
        say: Told what was found.
    """
    adjacency, most = normalised(power_law(nodes, edges), nodes), torch.get_num_threads()
    ratios, meaning, milliseconds = {}, {}, {}
    for threads, width in product(sorted({1, most}), widths):
        torch.set_num_threads(threads)
        times = medians(products(adjacency, random_features(nodes, width)), rounds)
        torch.set_num_threads(most)
        name = f"sparse_product_{width}_threads_{threads}"
        milliseconds[name] = {way: round(1e3 * seconds, 3) for way, seconds in times.items()}
        ours = times.pop(OURS)
        fastest = min(times, key=lambda way: times[way])
        ratios[name] = round(ours / times[fastest], 4)
        meaning[name] = (
            f"a sparse product with {width} columns, {nodes:,} nodes, {edges:,} edges, "
            f"{threads} thread{'s' * (threads > 1)}, over the fastest of torch's and SciPy's "
            f"({fastest})"
        )
        say(f"{ratios[name]:.2f}   {meaning[name]}\n       {milliseconds[name]}")
    return {"ratios": ratios, "meaning": meaning, "milliseconds": milliseconds, "rounds": rounds}


def main() -> None:
    """Measure, tell, write."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--output", type=Path, required=True, help="the result file, JSON")
    options.add_argument("--rounds", type=int, default=15, help="timed repetitions of each")
    given = options.parse_args()
    where = machine("numpy", "scipy")
    contents = measure(NODES, EDGES, WIDTHS, given.rounds, print) | where
    contents["command"] = "python benchmarks/sparse_product.py " + shlex.join(sys.argv[1:])
    write_atomic(given.output, (json.dumps(contents, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
