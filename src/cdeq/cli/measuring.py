"""What a run measures: metrics by evaluations, certified answers, early stopping, costs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import Progress

from cdeq.cli.run_folder import DONE
from cdeq.cli.stages import Run
from cdeq.consistency.anchored import AnchoredDEQ
from cdeq.consistency.refine import Student
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.time import Schedule
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.solvers import Anderson, Broyden, Picard, Solver
from cdeq.data.indexed import IndexedData
from cdeq.evaluation.adaptive import calibrate, stopped_at
from cdeq.evaluation.certification import Start, certification
from cdeq.evaluation.sweep import Measurement, distilled, score_few_step, sweep, truncated
from cdeq.models.base import EquilibriumModel

SOLVERS: Mapping[str, Solver[Any]] = {
    "picard": Picard(),
    "anderson": Anderson(),
    "broyden": Broyden(),
}


class _Ready(NamedTuple):
    """A student as it is used."""

    student: Student
    times: Schedule
    """The virtual times that it was distilled for."""


def measure(
    run: Run,
    teacher: EquilibriumModel,
    students: Mapping[str, ConsistencyDEQ | UntiedDEQ],
    baselines: Mapping[int, EquilibriumModel],
    part: IndexedData,
) -> Iterator[Measurement]:
    """Everything, on one part of the data.

    Arguments:
        run: Its recipe says what to look at.
        teacher: The teacher.
        students: By name.
        baselines: Networks trained for few steps, by their steps.
        part: What to measure on.
    """
    ready = _for_inference(run, students, teacher)
    swept = _swept(run, teacher, ready, part)
    yield from swept
    yield from attained(swept, run.recipe.metric.name)
    yield from _certified(run, teacher, ready, part)
    if part is not run.data.validation:  # which chooses the threshold
        yield from _adaptive(run, teacher, ready, part)
    yield from _efforts(run, students)
    for steps, model in baselines.items():
        yield score_few_step(model, steps, part, run.recipe.metric)


def _for_inference(
    run: Run, students: Mapping[str, ConsistencyDEQ | UntiedDEQ], teacher: EquilibriumModel
) -> dict[str, _Ready]:
    """Students as they are used: weights merged, and the paper's also with the solver behind."""
    ready: dict[str, _Ready] = {}
    steps, recipes = run.recipe.evaluation.certify_steps, run.recipe.students
    for name, student in students.items():
        times = recipes[name].inference
        merged = student.merged() if isinstance(student, UntiedDEQ) else student
        ready[name] = _Ready(merged, times)
        if isinstance(student, ConsistencyDEQ) and name.startswith("student-"):
            anchored = AnchoredDEQ(student, teacher, steps=steps)
            ready[f"{name}-then-solver"] = _Ready(anchored, times)
    return ready


def _swept(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, _Ready], part: IndexedData
) -> list[Measurement]:
    settings = run.recipe.evaluation
    methods = {name: truncated(solver) for name, solver in SOLVERS.items()}
    methods |= {name: distilled(*ready) for name, ready in students.items()}
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
        )


def attained(swept: list[Measurement], metric: str) -> Iterator[Measurement]:
    """Every score as a share of the converged score of the very teacher it belongs to: over
    seeds, teachers differ by more than what a few evaluations lose."""
    scores = [row for row in swept if row.metric == metric]
    (whole,) = (row.value for row in scores if row.nfe is None)
    for row in scores:
        if row.nfe is not None:
            yield row._replace(metric="attained", value=row.value / whole)


def _certified(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, _Ready], part: IndexedData
) -> Iterator[Measurement]:
    """What certified answers cost: by solvers alone, by students, and by one that is random."""
    settings = run.recipe.evaluation
    starts = {name: Start(None, 0, solver=solver) for name, solver in SOLVERS.items()}
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
    run: Run, teacher: EquilibriumModel, students: Mapping[str, _Ready], part: IndexedData
) -> Iterator[Measurement]:
    """Students that stop by themselves, at a threshold that is always chosen on validation."""
    settings, metric = run.recipe.evaluation, run.recipe.metric
    for name, (student, times) in students.items():
        chosen = calibrate(
            teacher,
            student,
            run.data.validation,
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


def _efforts(
    run: Run, students: Mapping[str, ConsistencyDEQ | UntiedDEQ]
) -> Iterator[Measurement]:
    """What each student cost: parameters trained, and its time, with that of the trajectories it
    learned from, over the teacher's."""
    whole, cached = _seconds(run.folder / "teacher"), _seconds(run.folder / "cache")
    for name, student in students.items():
        trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
        yield Measurement(name, None, "parameters_trained", float(trained))
        effort = (cached + _seconds(run.folder / name)) / whole
        yield Measurement(name, None, "effort_distilled", effort)


def _seconds(folder: Path) -> float:
    """What a stage took; nothing where trajectories were recomputed by the students' training."""
    done = folder / DONE
    return float(json.loads(done.read_text())["outcome"]["seconds"]) if done.exists() else 0.0
