"""What is measured of students: each at the times that it was distilled for."""

from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
import torch
from cli.run import key, rows_of, tiny
from consistency.toys import disturb
from rich.console import Console

from cdeq.cli.distilling import online
from cdeq.cli.measuring import attained, measure
from cdeq.cli.stages import Run
from cdeq.consistency.time import TimeSpan
from cdeq.evaluation.metrics import ACCURACY
from cdeq.evaluation.sweep import Measurement, distilled, sweep
from cdeq.recipes import RECIPES, Recipe


def stretched() -> Recipe:
    """The paper's student lives in another span of virtual time than the best one."""
    recipe, span = RECIPES["digits_tiny"](), TimeSpan(end=5.0)
    student = replace(
        recipe.student,
        boundary=replace(recipe.student.boundary, span=span),
        schedule=replace(recipe.student.schedule, span=span),
        inference=replace(recipe.student.inference, span=span),
    )
    return replace(recipe, student=student, distil=("student-paper", "student-best"))


def test_every_student_is_measured_at_its_own_times(tmp_path: Path) -> None:
    recipe = stretched()
    run = Run("digits_tiny", recipe, tmp_path, Console(quiet=True), "cdeq evaluate digits_tiny")
    torch.manual_seed(0)
    teacher, part = recipe.model().eval(), run.data.test
    students = {name: own.build(teacher).eval() for name, own in recipe.students.items()}
    for student in students.values():
        disturb(student, 0.1)
    rows = measure(run, teacher, students, part)
    swept = list(takewhile(lambda row: row.metric != "attained", rows))
    times = {name: settings.inference for name, settings in recipe.students.items()}
    methods = {name: distilled(student, times[name]) for name, student in students.items()}
    budgets, steps = recipe.evaluation.budgets, recipe.evaluation.reference_steps
    expected = sweep(
        teacher, methods, part, recipe.metric, budgets, reference_steps=steps, reference_tol=None
    )
    assert {row.model for row in expected} == {"teacher", *students}
    assert numbers(swept, *students) == pytest.approx(numbers(expected, *students), rel=1e-3)


def test_ends_stop_at_the_tolerance_of_the_recipe(tmp_path: Path) -> None:
    recipe = RECIPES["digits_tiny"]()
    settings = replace(recipe.trajectories, end_tol=1e-1)
    run = Run("digits_tiny", replace(recipe, trajectories=settings), tmp_path, Console(), "")
    source, _ = online(run, recipe.model())
    assert (source.end_tol, source.max_steps) == (1e-1, settings.max_steps)


def test_another_baseline_does_not_repeat_the_students(copied: Path) -> None:
    whole = {key(row): row.value for row in rows_of(copied)}
    students = copied / "evaluation/results.json"
    before = students.stat().st_mtime_ns
    (copied / "few-step-3").rename(copied.parent / "elsewhere")
    assert tiny("evaluate", copied).code == 0
    less = {key(row): row.value for row in rows_of(copied)}
    assert {row[:2] for row in whole.keys() - less.keys()} == {("few-step", 3)}
    (copied.parent / "elsewhere").rename(copied / "few-step-3")
    assert tiny("evaluate", copied).code == 0
    assert students.stat().st_mtime_ns == before
    again = {key(row): row.value for row in rows_of(copied)}
    timeless = [name for name in whole if "time" not in name]
    assert {name: again[name] for name in timeless} == {name: whole[name] for name in timeless}
    assert again.keys() == whole.keys()


def test_results_are_put_together_again_from_what_was_kept(copied: Path) -> None:
    """Whatever stands there: of a run that was killed before the end, or with more networks."""
    whole = {key(row) for row in rows_of(copied)}
    gone = {row[:2] for row in whole if row[0] == "few-step"}
    for folder in copied.glob("few-step-*"):
        folder.rename(copied.parent / folder.name)
    assert gone and tiny("evaluate", copied).code == 0
    assert {key(row) for row in rows_of(copied)} == {row for row in whole if row[0] != "few-step"}


def test_scores_alone_are_the_same_scores(copied: Path) -> None:
    def scores() -> dict[tuple, float]:
        kinds = {"accuracy", "attained", "relative_error", "relative_residual"}
        return {key(row): row.value for row in rows_of(copied) if row.metric in kinds}

    whole = scores()
    assert tiny("evaluate", copied, "--fresh", "--evaluation.only", "scores").code == 0
    alone = scores()
    assert {row.metric for row in rows_of(copied)}.isdisjoint({"certified", "accuracy_adaptive"})
    dropped = {name for name, *_ in whole.keys() - alone.keys()}
    assert dropped == {"student-paper-then-solver", "student-paper-no-aa-then-solver"}
    assert alone.keys() <= whole.keys()
    assert alone == pytest.approx({each: whole[each] for each in alone}, rel=1e-3, abs=1e-6)


def test_costs_alone_are_costs(copied: Path) -> None:
    words = ("--evaluation.only", "costs", "--evaluation.cost-budgets", 1, 5)
    assert tiny("evaluate", copied, "--fresh", *words).code == 0
    rows = rows_of(copied)
    assert {row.metric for row in rows} == {"time", "memory", "parameters"}
    assert {row.nfe for row in rows if row.model == "student-best"} == {None, 1, 5}


def numbers(rows: list[Measurement], *models: str) -> dict[tuple[str, int | None, str], float]:
    return {(r.model, r.nfe, r.metric): r.value for r in rows if r.model in models}


def test_a_score_is_set_against_its_own_teachers() -> None:
    rows = [
        Measurement("teacher", None, "accuracy", 0.8),
        Measurement("picard", 1, "accuracy", 0.4),
        Measurement("picard", 1, "relative_error", 0.1),
    ]
    assert list(attained(rows, ACCURACY)) == [Measurement("picard", 1, "attained", 0.5)]
