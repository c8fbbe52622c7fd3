"""What README and docs/results/vision.md claim of the results on CIFAR-10 is in them."""

from itertools import pairwise
from pathlib import Path

import pytest

from cdeq.report import Results

ROOT = Path(__file__).parent.parent
RESULTS = Results.load(ROOT / "results/cifar10.json")
VALUES = {(row.model, row.nfe, row.metric): row.value for row in RESULTS.select(split="test").rows}
BUDGETS = (1, 2, 4, 8)
budgets = pytest.mark.parametrize("nfe", BUDGETS)


def accuracy(model: str, nfe: int | None) -> float:
    return VALUES[model, nfe, "accuracy"]


def test_budgets_seed_and_images_are_those_that_are_spoken_of() -> None:
    scored = {key[1] for key in VALUES if key[0] == "student-best" and key[2] == "accuracy"}
    assert scored == set(BUDGETS)
    assert {row.seeds for row in RESULTS.rows} == {(0,)}
    assert {row.split for row in RESULTS.rows} == {"test", "official-test"}
    widths = [value for (_, _, metric), value in VALUES.items() if metric == "interval_accuracy"]
    assert 0.010 < min(widths) and max(widths) < 0.0145


def test_the_teacher_is_worth_distilling_and_converges() -> None:
    assert accuracy("teacher", None) >= 0.68
    assert VALUES["anderson", None, "certified"] == 1.0
    assert VALUES["anderson", None, "evaluations_certified"] <= 8


@pytest.mark.parametrize(("nfe", "bar"), [(1, 0.88), (2, 0.98), (4, 0.998), (8, 0.995)])
def test_few_evaluations_are_nearly_the_teachers_answer(nfe: int, bar: float) -> None:
    assert VALUES["student-best", nfe, "attained"] >= bar


@budgets
@pytest.mark.parametrize("other", ["anderson", "student-paper"])
def test_neither_anderson_nor_the_papers_student_is_better(other: str, nfe: int) -> None:
    assert accuracy("student-best", nfe) >= accuracy(other, nfe)


@pytest.mark.parametrize(("nfe", "share"), [(1, 0.76), (2, 0.57), (4, 0.48), (8, 0.52)])
def test_the_error_is_a_fraction_of_andersons(nfe: int, share: float) -> None:
    ours, theirs = (VALUES[model, nfe, "relative_error"] for model in ("student-best", "anderson"))
    assert ours <= share * theirs


def test_errors_fall_at_every_step() -> None:
    ours = [VALUES["student-best", nfe, "relative_error"] for nfe in BUDGETS]
    assert all(late < early for early, late in pairwise(ours))


@pytest.mark.parametrize(("nfe", "more"), [(1, 0.044), (2, 0.006)])
def test_hyperdeq_is_better_by_as_much_as_is_said(nfe: int, more: float) -> None:
    gap = accuracy("hyperdeq", nfe) - accuracy("student-best", nfe)
    assert gap == pytest.approx(more, abs=5e-4)


@pytest.mark.parametrize(("nfe", "more"), [(1, 0.035), (2, 0.014), (8, 0.003)])
def test_networks_trained_for_the_budget_win_by_as_much_as_is_said(nfe: int, more: float) -> None:
    gap = accuracy("few-step", nfe) - accuracy("student-best", nfe)
    assert gap == pytest.approx(more, abs=5e-4)


def test_one_resolution_is_not_enough() -> None:
    rows = Results.load(ROOT / "results/table2-cifar10.json").select(split="test").rows
    found = {(row.model, row.nfe): row.value for row in rows if row.metric == "accuracy"}
    assert found["teacher", None] == accuracy("teacher", None)
    assert found["single-stream teacher", None] == pytest.approx(0.654, abs=5e-4)
    assert found["single-stream anderson", 8] < found["anderson", 8]


def test_the_papers_student_stops() -> None:
    assert VALUES["student-paper", 8, "attained"] < 0.94
    assert VALUES["student-paper", 8, "relative_error"] > 0.3
    solvers = ("picard", "anderson", "broyden")
    assert all(accuracy("student-paper", n) < accuracy(s, n) for s in solvers for n in (2, 4, 8))


def test_explicit_networks_are_where_they_are_said_to_be() -> None:
    base = accuracy("teacher", None)
    found = [accuracy(name, None) - base for name in ("bn_inception", "hrnet", "alexnet")]
    assert found == pytest.approx([0.09, 0.005, -0.011], abs=5e-4)


@pytest.mark.parametrize("model", ["student-best", "student-paper", "hyperdeq", "anderson"])
def test_memory_does_not_grow_once_the_window_is_there(model: str) -> None:
    assert VALUES[model, 20, "memory"] == VALUES[model, 8, "memory"]


def test_a_students_steps_cost_what_picards_cost() -> None:
    ours, plain = (VALUES[model, 8, "time"] for model in ("student-best", "picard"))
    assert ours <= 1.01 * plain
