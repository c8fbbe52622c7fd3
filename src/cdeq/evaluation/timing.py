"""What solvers and student steps cost, as ratios measured side by side in one run."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from cdeq.atomic import write_atomic
from cdeq.consistency.increments import merge
from cdeq.consistency.refine import refine
from cdeq.consistency.time import ExponentialSchedule
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.cell import bind
from cdeq.core.solve import solve
from cdeq.core.solvers import Anderson
from cdeq.errors import CDEQError
from cdeq.evaluation.memory import peak_bytes
from cdeq.evaluation.workloads import TransformerWorkload, cheap_map, seeded_tokens
from cdeq.models.base import EquilibriumModel
from cdeq.models.function import FunctionModel
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.typing import Map, State

Task = Callable[[], object]

STEPS = 20
"""Solver steps in a timed run."""
PUBLISHED, USUAL = 68, 4
"""Feed-forward expansion of the DEQ-Transformer as published, and of ordinary transformers."""


@dataclass(frozen=True)
class Ratio:
    """One cost over another.

    Arguments:
        name: As in the result file.
        value: The ratio of medians (or of bytes).
        meaning: What over what.
    """

    name: str
    value: float
    meaning: str


def side_by_side(tasks: tuple[Task, Task], rounds: int) -> float:
    """The time of the first task over that of the second, in alternating rounds.

    Alternation makes slow drifts of the machine hit both; the medians' ratio ignores hiccups.

    Arguments:
        tasks: Two computations.
        rounds: How often each is timed, after one untimed warm-up.

    Raises:
        ValueError: When `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` counts the timed repetitions, at least 1; got {rounds}.")
    times: tuple[list[float], list[float]] = ([], [])
    for task in tasks:
        task()
    for _ in range(rounds):
        for task, seen in zip(tasks, times, strict=True):
            start = time.perf_counter()
            task()
            seen.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


@torch.no_grad()
def solver_ratios(rounds: int) -> list[Ratio]:
    """Anderson against bare evaluations (transformer), and against torchdeq's (cheap map)."""
    x = seeded_tokens(8, 64, 128)
    f, z0 = bind(TransformerWorkload(128, 4, PUBLISHED).eval(), x), torch.zeros_like(x)
    against_bare = side_by_side((lambda: _anderson(f, z0), lambda: _bare(f, z0)), rounds)
    results = []
    for batch in (1, 64):
        large = seeded_tokens(batch, 5_000_000 // batch, 1).squeeze(2)
        cheap, start = cheap_map(large), torch.zeros_like(large)
        peer = _torchdeq(cheap, start)
        results.append(side_by_side((lambda: _anderson(cheap, start), peer), rounds))  # noqa: B023
    size = f"{STEPS} Anderson steps, window 5"
    return [
        Ratio(
            "anderson_over_evaluations",
            against_bare,
            f"{size}, over {STEPS} bare evaluations of a transformer layer (d 128, FFN 68 d)",
        ),
        Ratio(
            "anderson_over_torchdeq",
            max(results),
            f"{size}, over torchdeq 0.1.0's anderson (m=6), z/2 + x on 5 million floats; the "
            "worse of one sample and 64 samples",
        ),
    ]


@torch.no_grad()
def student_ratios(rounds: int) -> list[Ratio]:
    """A student step against one evaluation, in time; 40 steps against one, in memory."""
    x = seeded_tokens(8, 64, 128)
    z0 = torch.zeros_like(x)
    ratios = []
    for expansion in (PUBLISHED, USUAL):
        cell = TransformerWorkload(128, 4, expansion).eval()
        f, student, times = bind(cell, x), cell.student(), ExponentialSchedule().times(STEPS)
        value = side_by_side(
            (lambda: _last(refine(student, x, z0, times)), lambda: _bare(f, z0)),  # noqa: B023
            rounds,
        )
        name = "student_step_over_evaluation" + ("" if expansion == PUBLISHED else "_ffn4")
        ratios.append(
            Ratio(
                name,
                value,
                f"a step of {STEPS}-step inference, over a bare evaluation (FFN {expansion} d)",
            )
        )
    cell = TransformerWorkload(128, 4, PUBLISHED).eval()
    student = cell.student()
    held = (x, z0, *student.parameters())
    one, forty = (
        peak_bytes(lambda: _last(refine(student, x, z0, ExponentialSchedule().times(j))), held)  # noqa: B023
        for j in (1, 40)
    )
    memory = "peak bytes of live tensors, weights included, 40 steps over one (FFN 68 d)"
    return [*ratios, Ratio("student_memory_40_over_1", forty / one, memory)]


@torch.no_grad()
def untied_ratios(rounds: int) -> list[Ratio]:
    """Two learned steps of `UntiedDEQ` against two evaluations: the digits f and a transformer.

    Both sides bind their context: the teacher prepares once, the student for each learned step.
    Both have done before what depends on weights alone.
    """
    torch.manual_seed(0)
    images, tokens = torch.rand(64, 1, 8, 8), seeded_tokens(8, 64, 128)
    transformer = FunctionModel(TransformerWorkload(128, 4, PUBLISHED), (64, 128))
    over = "two learned steps of UntiedDEQ, bound and merged, over two evaluations of"
    return [
        Ratio(
            "untied_steps_over_evaluations",
            _untied_ratio(transformer.eval(), tokens, rounds),
            f"{over} a transformer layer (FFN {PUBLISHED} d)",
        ),
        Ratio(
            "untied_steps_over_evaluations_digits",
            _untied_ratio(ContractionDEQ(ContractionSpec()).eval(), images, 10 * rounds),
            f"{over} the digits f (24 channels, 64 images)",
        ),
    ]


def _untied_ratio(teacher: EquilibriumModel, x: Tensor, rounds: int) -> float:
    student = UntiedDEQ.from_teacher(teacher).merged()
    cell = merge(teacher.deq.cell, teacher.deq.cell)
    z, times = torch.rand_like(cast(Tensor, teacher.initial(x))), ExponentialSchedule().times(2)

    def evaluations() -> None:
        f = bind(cell, x)
        f(f(z))

    return side_by_side((lambda: _last(refine(student, x, z, times)), evaluations), rounds)


def bench(output: Path, *, rounds: int, say: Callable[[str], object]) -> list[Ratio]:
    """Measure every ratio and write the result file.

    Raises:
        CDEQError: When torchdeq, which one ratio is against, is not installed.
        StoreError: When the result cannot be written.
    """
    say(f"timing, {rounds} rounds, {torch.get_num_threads()} threads …")
    ratios = solver_ratios(rounds) + student_ratios(rounds) + untied_ratios(rounds)
    for ratio in ratios:
        say(f"{ratio.name:<36}{ratio.value:8.3f}   {ratio.meaning}")
    contents = {
        "ratios": {ratio.name: round(ratio.value, 4) for ratio in ratios},
        "meaning": {ratio.name: ratio.meaning for ratio in ratios},
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "command": f"cdeq bench --output {output} --rounds {rounds}",
    }
    write_atomic(output, (json.dumps(contents, indent=2) + "\n").encode())
    return ratios


def _bare(f: Map, z: State) -> None:
    for _ in range(STEPS):
        z = f(z)


def _anderson(f: Map, z0: State) -> None:
    solve(f, z0, Anderson(window=5), max_steps=STEPS)


def _last(states: object) -> None:
    for _ in states:  # type: ignore[attr-defined]
        pass


def _torchdeq(f: Callable[[Tensor], Tensor], z0: Tensor) -> Task:
    try:
        from torchdeq.solver.anderson import anderson_solver
    except ImportError as error:
        raise CDEQError("`cdeq bench` compares with torchdeq; install cdeq[dev].") from error
    return lambda: anderson_solver(f, z0, max_iter=STEPS, m=6, tol=0.0)
