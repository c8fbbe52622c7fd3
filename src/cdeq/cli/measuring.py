"""What a run measures: metrics by evaluations, certified answers, early stopping, costs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from rich.progress import Progress
from torch import nn

from cdeq.cli.run_folder import DONE
from cdeq.cli.stages import Run, SplitName
from cdeq.consistency.anchored import AnchoredDEQ
from cdeq.consistency.refine import Student
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.time import Schedule
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.solvers import Anderson, Broyden, Picard, Solver
from cdeq.data.indexed import IndexedData
from cdeq.evaluation.adaptive import calibrate, stopped_at
from cdeq.evaluation.certification import Start, certification
from cdeq.evaluation.costs import cost_of_teacher, costs, measurements
from cdeq.evaluation.metrics import Judging, Metric, Score
from cdeq.evaluation.sweep import (
    Measurement,
    Method,
    batches,
    distilled,
    sweep,
    truncated,
)
from cdeq.models.base import EquilibriumModel
from cdeq.recipes.variants import AnyDistilled

SOLVERS: Mapping[str, Solver[Any]] = {
    "picard": Picard(),
    "anderson": Anderson(),
    "broyden": Broyden(),
}


class Ready(NamedTuple):
    """A student as it is used."""

    student: Student
    times: Schedule
    """The virtual times that it was distilled for."""


def measure(
    run: Run,
    teacher: EquilibriumModel,
    students: Mapping[str, AnyDistilled],
    part: IndexedData,
) -> Iterator[Measurement]:
    """Everything about a teacher, its solvers and its students, on one part of the data.

    Arguments:
        run: Its recipe says what to look at.
        teacher: The teacher.
        students: By name.
        part: What to measure on.
    """
    ready, only = _for_inference(run, students, teacher), run.recipe.evaluation.only
    if only != "costs":
        yield from _scores(run, teacher, ready, part)
        yield from _efforts(run, students)
    yield from _parameters(teacher, ready)
    if only == "scores":
        return
    split = split_of(run, part)
    probed = run.told(split, teacher, run.recipe.evaluation.probed)
    if only is None:
        yield from _certified(run, teacher, ready, probed)
    if only is None and split == "test":  # whose thresholds are chosen on validation
        yield from _adaptive(run, teacher, ready, probed)
    yield from _costs(run, teacher, ready, probed)


def score_students(
    run: Run,
    teacher: EquilibriumModel,
    students: Mapping[str, AnyDistilled],
    part: IndexedData,
) -> Iterator[Measurement]:
    """Scores alone, on data that are no part of the recipe's three.

    Arguments:
        run: Its recipe says at which budgets.
        teacher: The teacher.
        students: By name.
        part: What to measure on.
    """
    return _scores(run, teacher, _for_inference(run, students, teacher), part)


def split_of(run: Run, part: IndexedData) -> SplitName:
    """Which part of the data it is."""
    return "validation" if part is run.data.validation else "test"


def _scores(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, Ready], part: IndexedData
) -> Iterator[Measurement]:
    """Of the teacher, its solvers and its students."""
    swept = _swept(run, teacher, students, part)
    yield from swept
    yield from attained(swept, run.recipe.metric)


def _for_inference(
    run: Run, students: Mapping[str, AnyDistilled], teacher: EquilibriumModel
) -> dict[str, Ready]:
    """Students as they are used: weights merged, and the paper's also with the solver behind."""
    ready: dict[str, Ready] = {}
    steps, recipes = run.recipe.evaluation.certify_steps, run.recipe.students
    for name, student in students.items():
        times = recipes[name].inference
        merged = student.merged() if isinstance(student, UntiedDEQ) else student
        ready[name] = Ready(merged, times)
        followed = isinstance(student, ConsistencyDEQ) and name.startswith("student-")
        if followed and run.recipe.evaluation.only != "scores":
            anchored = AnchoredDEQ(student, teacher, steps=steps)
            ready[f"{name}-then-solver"] = Ready(anchored, times)
    return ready


def _swept(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, Ready], part: IndexedData
) -> list[Measurement]:
    settings = run.recipe.evaluation
    methods = _methods(run, students)
    rounds = len(methods) * -(-len(part) // settings.batch_size)
    with Progress(console=run.console) as progress:
        bar = progress.add_task("evaluating            ", total=rounds)
        return sweep(
            teacher,
            methods,
            part,
            run.recipe.metric,
            settings.budgets,
            reference_steps=settings.reference_steps,
            reference_tol=settings.reference_tol,
            batch_size=settings.batch_size,
            advance=lambda: progress.advance(bar),
            also=run.recipe.further_metrics,
            intervals=settings.intervals,
        )


def _methods(run: Run, students: Mapping[str, Ready]) -> dict[str, Method]:
    methods = {name: truncated(SOLVERS[name]) for name in run.recipe.evaluation.solvers}
    return methods | {name: distilled(*ready) for name, ready in students.items()}


def _costs(
    run: Run,
    teacher: EquilibriumModel,
    students: Mapping[str, Ready],
    part: IndexedData,
) -> Iterator[Measurement]:
    """What answers to one batch cost, where the recipe asks for it: of every method, and of the
    teacher itself with its own budget and tolerance."""
    settings, rounds = run.recipe.evaluation, run.recipe.evaluation.cost_rounds
    if not settings.cost_budgets:
        return
    batch = next(batches(part, settings.batch_size, teacher.device))
    methods, score = _methods(run, students), own_score(run, teacher)
    yield from costs(teacher, methods, batch, settings.cost_budgets, rounds=rounds, score=score)
    own = cost_of_teacher(teacher, batch, rounds=rounds, score=score)
    yield from measurements("teacher", None, own)


def own_score(run: Run, model: Judging) -> Score | None:
    """A score that is the model's own loss, which may cost more memory than the answer."""
    return model.loss if run.recipe.metric.score is None else None


def _parameters(teacher: EquilibriumModel, students: Mapping[str, Ready]) -> Iterator[Measurement]:
    """The numbers that each model is made of, the head of what has none included."""
    head = size_of(teacher) - size_of(teacher.deq.cell)
    sizes = {"teacher": size_of(teacher)}
    for name, (student, _) in students.items():
        sizes[name] = size_of(cast(nn.Module, student)) + head
    for name, size in sizes.items():
        yield Measurement(name, None, "parameters", float(size))


def size_of(module: nn.Module) -> int:
    """The numbers that it is made of."""
    return sum(parameter.numel() for parameter in module.parameters())


def attained(swept: list[Measurement], metric: Metric) -> Iterator[Measurement]:
    """Every score as a share of the converged score of the very teacher it belongs to, a ratio to
    it where lower is better: over seeds, teachers differ by more than what a few evaluations
    lose."""
    name = "attained" if metric.higher else "ratio_converged"
    scores = [row for row in swept if row.metric == metric.name]
    (whole,) = (row.value for row in scores if row.nfe is None)
    for row in scores:
        if row.nfe is not None:
            yield row._replace(metric=name, value=row.value / whole)


def _certified(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, Ready], part: IndexedData
) -> Iterator[Measurement]:
    """What certified answers cost: by solvers alone, by students, and by one that is random."""
    settings = run.recipe.evaluation
    starts = {name: Start(None, 0, solver=SOLVERS[name]) for name in settings.solvers}
    for name, (student, times) in students.items():
        steps = student.steps if isinstance(student, AnchoredDEQ) else settings.certify_steps
        starts[name] = Start(student, steps, times)
    torch.manual_seed(run.recipe.seed)
    starts["student-random"] = Start(randomised(UntiedDEQ.from_teacher(teacher)), 2)
    return certification(
        teacher,
        starts,
        part,
        run.recipe.metric,
        tol=settings.certify_tol,
        reference_steps=settings.reference_steps,
        reference_tol=settings.reference_tol,
        batch_size=settings.batch_size,
    )


def randomised(student: UntiedDEQ) -> UntiedDEQ:
    """The student with noise in place of what it would have learned."""
    with torch.no_grad():
        for parameter in student.learned.parameters():
            parameter.normal_()
    return student.eval()


def _adaptive(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, Ready], part: IndexedData
) -> Iterator[Measurement]:
    """Students that stop by themselves, at a threshold that is always chosen on validation."""
    settings, metric = run.recipe.evaluation, run.recipe.metric
    validation = run.told("validation", teacher, settings.probed)
    for name, (student, times) in students.items():
        chosen = calibrate(
            teacher,
            student,
            validation,
            metric,
            steps=settings.budgets[-1],
            schedule=times,
            batch_size=settings.batch_size,
        )
        found = stopped_at(
            teacher,
            student,
            part,
            metric,
            chosen.stop,
            steps=settings.budgets[-1],
            schedule=times,
            batch_size=settings.batch_size,
        )
        yield Measurement(name, None, "evaluations_adaptive", found.evaluations)
        yield Measurement(name, None, f"{metric.name}_adaptive", found.score)


def _efforts(run: Run, students: Mapping[str, AnyDistilled]) -> Iterator[Measurement]:
    """What each student cost: parameters trained, and its time, with that of the trajectories it
    learned from, over the teacher's."""
    whole = _seconds(run.folder / "teacher")
    cached = _seconds(run.folder / "cache") + _seconds(run.told_folder("train"))
    for name, student in students.items():
        trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
        yield Measurement(name, None, "parameters_trained", float(trained))
        effort = (cached + _seconds(run.folder / name)) / whole
        yield Measurement(name, None, "effort_distilled", effort)


def _seconds(folder: Path) -> float:
    """What a stage took; nothing where trajectories were recomputed by the students' training."""
    done = folder / DONE
    return float(json.loads(done.read_text())["outcome"]["seconds"]) if done.exists() else 0.0
