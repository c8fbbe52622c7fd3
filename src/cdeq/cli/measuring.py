"""What a run measures: metrics by evaluations, certified answers, early stopping, costs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from rich.progress import Progress

from cdeq.cli.run_folder import DONE
from cdeq.cli.stages import Run
from cdeq.consistency.anchored import AnchoredDEQ
from cdeq.consistency.refine import Student
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.solvers import Anderson, Broyden, Picard
from cdeq.data.indexed import IndexedData
from cdeq.evaluation.adaptive import calibrate, stopped_at
from cdeq.evaluation.certification import Start, certification
from cdeq.evaluation.sweep import Measurement, Method, distilled, score_few_step, sweep, truncated
from cdeq.models.base import EquilibriumModel

SOLVERS: Mapping[str, Method] = {
    "picard": truncated(Picard()),
    "anderson": truncated(Anderson()),
    "broyden": truncated(Broyden()),
}


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
    ready = _for_inference(students, teacher, run.recipe.evaluation.certify_steps)
    yield from _swept(run, teacher, ready, part)
    yield from _certified(run, teacher, ready, part)
    yield from _adaptive(run, teacher, ready, part)
    yield from _efforts(run, students)
    for steps, model in baselines.items():
        yield score_few_step(model, steps, part, run.recipe.metric)


def _for_inference(
    students: Mapping[str, ConsistencyDEQ | UntiedDEQ], teacher: EquilibriumModel, steps: int
) -> dict[str, Student]:
    """Students as they are used: weights merged, and the paper's also with the solver behind."""
    ready: dict[str, Student] = {}
    for name, student in students.items():
        ready[name] = student.merged() if isinstance(student, UntiedDEQ) else student
        if isinstance(student, ConsistencyDEQ) and name.startswith("student-"):
            ready[f"{name}-then-solver"] = AnchoredDEQ(student, teacher, steps=steps)
    return ready


def _swept(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, Student], part: IndexedData
) -> list[Measurement]:
    settings = run.recipe.evaluation
    times = run.recipe.student.inference
    methods = {**SOLVERS, **{name: distilled(g, times) for name, g in students.items()}}
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


def _certified(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, Student], part: IndexedData
) -> Iterator[Measurement]:
    """What certified answers cost: by the solver alone, by students, and by one that is random."""
    settings = run.recipe.evaluation
    starts = {"anderson": Start(None, 0)}
    for name, student in students.items():
        steps = student.steps if isinstance(student, AnchoredDEQ) else settings.certify_steps
        starts[name] = Start(student, steps)
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
    run: Run, teacher: EquilibriumModel, students: Mapping[str, Student], part: IndexedData
) -> Iterator[Measurement]:
    """Students that stop by themselves: the threshold from validation, the numbers from test."""
    settings, metric = run.recipe.evaluation, run.recipe.metric
    times = run.recipe.student.inference
    for name, student in students.items():
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
    """What each student cost: parameters trained, and its training time over the teacher's."""
    whole = _seconds(run.folder / "teacher")
    for name, student in students.items():
        trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
        yield Measurement(name, None, "parameters_trained", float(trained))
        yield Measurement(name, None, "effort_distilled", _seconds(run.folder / name) / whole)


def _seconds(folder: Path) -> float:
    return float(json.loads((folder / DONE).read_text())["outcome"]["seconds"])
