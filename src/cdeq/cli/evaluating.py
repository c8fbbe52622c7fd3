"""The stage of a run that measures: what was measured before, and has not changed, is kept."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import nn

from cdeq.cli.baselines import explicit_models, few_step_models
from cdeq.cli.distilling import student_stage
from cdeq.cli.measuring import measure, score_students
from cdeq.cli.measuring_baselines import Baselines, measure_baselines, score_baselines
from cdeq.cli.run_folder import DONE, RESULTS, Stage, versions
from cdeq.cli.stages import Run
from cdeq.data.indexed import IndexedData
from cdeq.digest import digest_of
from cdeq.evaluation.sweep import Measurement
from cdeq.models.base import EquilibriumModel
from cdeq.recipes.variants import AnyDistilled
from cdeq.report import Results, Row


class _Share(NamedTuple):
    """What is measured in one go."""

    folder: str
    models: Mapping[str, nn.Module]
    """What decides the numbers."""
    measure: Callable[[IndexedData], Iterator[Measurement]]
    """On one of the recipe's parts of the data."""
    score: Callable[[IndexedData], Iterator[Measurement]]
    """On data besides."""


def evaluate(run: Run) -> Results:
    """Score the teacher, its solvers, and every trained student and baseline on the test set.

    Networks that were trained on labels are measured apart from the teacher and its students, so
    that a new one of these does not repeat the others.

    Raises:
        CDEQError: When there is no teacher yet.
        StoreError: When something in the folder was made with other settings.
    """
    teacher, path = run.teacher(), run.folder / RESULTS
    parts = [_measured(run, share, _stage(run, share)) for share in _shares(run, teacher)]
    rows = tuple(row for part in parts for row in part.rows)
    if not run.fresh and path.exists() and (before := Results.load(path)).rows == rows:
        run.console.print(f"Evaluation: already done, see {path}.")
        return before
    costs = _costs(run, teacher_parameters=sum(p.numel() for p in teacher.parameters()))
    results = _results(run, rows, costs)
    results.save(path)
    return results


def _shares(run: Run, teacher: EquilibriumModel) -> Iterator[_Share]:
    students = trained_students(run, teacher)
    baselines = Baselines(few_step_models(run), explicit_models(run))
    yield _Share(
        "evaluation",
        {"teacher": teacher, **students},
        lambda part: measure(run, teacher, students, part),
        lambda part: score_students(run, teacher, students, part),
    )
    if baselines.named():
        yield _Share(
            "evaluation-baselines",
            {"teacher": teacher, **baselines.named()},
            lambda part: measure_baselines(run, teacher, baselines, part),
            lambda part: score_baselines(run, baselines, part),
        )


def _stage(run: Run, share: _Share) -> Stage:
    recipe = run.recipe
    return run.stage(
        share.folder,
        evaluation=recipe.evaluation,
        inference=recipe.student.inference,
        data={
            name: recipe.data_digest(getattr(run.data, name)) for name in ("validation", "test")
        },
        further={name: recipe.data_digest(part) for name, part in recipe.further_data().items()}
        or None,
    )


def _digests(share: _Share) -> dict[str, dict[str, str]]:
    return {"models": {name: digest_of(model) for name, model in share.models.items()}}


def _kept(run: Run, share: _Share, stage: Stage) -> bool:
    """Whether the numbers are there, of these models and settings."""
    return run.finished(stage) == _digests(share) and (stage.folder / RESULTS).exists()


def _measured(run: Run, share: _Share, stage: Stage) -> Results:
    """The numbers of a share."""
    path, recipe = stage.folder / RESULTS, run.recipe
    if _kept(run, share, stage):
        return Results.load(path)
    run.begin(stage)
    found = [
        (name, measurement)
        for name in recipe.evaluation.splits
        for measurement in share.measure(getattr(run.data, name))
    ] + [
        (name, measurement)
        for name, part in recipe.further_data().items()
        for measurement in share.score(part)
    ]
    rows = (
        Row(m.model, m.nfe, m.metric, name, m.value, None, (recipe.seed,)) for name, m in found
    )
    results = _results(run, tuple(rows), {})
    results.save(path)
    stage.finish(_digests(share))
    return results


def _results(run: Run, rows: tuple[Row, ...], costs: dict[str, float]) -> Results:
    return Results(
        task=run.recipe.task,
        recipe=run.name,
        rows=rows,
        costs=costs,
        versions=versions(),
        command=run.command,
    )


def trained_students(run: Run, teacher: EquilibriumModel) -> dict[str, AnyDistilled]:
    """The finished ones."""
    students = run.recipe.students
    stages = {name: student_stage(run, name, teacher) for name in students}
    return {
        name: students[name].read(stage.folder, teacher).to(teacher.device)
        for name, stage in stages.items()
        if stage.outcome() is not None
    }


def _costs(run: Run, teacher_parameters: int) -> dict[str, float]:
    """Training seconds of every finished stage, and sizes."""
    costs: dict[str, float] = {"teacher_parameters": teacher_parameters}
    for path in sorted(run.folder.glob(f"*/{DONE}")):
        outcome = json.loads(path.read_text())["outcome"]
        if "seconds" in outcome:
            costs[f"{path.parent.name}_seconds"] = round(outcome["seconds"], 1)
    return costs
