"""What README and docs/results claim of `results/digits.json` is in it."""

from itertools import pairwise
from pathlib import Path

import pytest

from cdeq.report import Results

ROOT = Path(__file__).parent.parent
RESULTS = Results.load(ROOT / "results/digits.json")
VALUES = {(row.model, row.nfe, row.metric): row.value for row in RESULTS.rows}
BUDGETS = sorted({row.nfe for row in RESULTS.rows if row.nfe is not None})
SOLVERS = ("picard", "anderson", "broyden")
TEACHER = VALUES["teacher", None, "accuracy"]


def accuracy(model: str, nfe: int) -> float:
    return VALUES[model, nfe, "accuracy"]


def error(model: str, nfe: int) -> float:
    return VALUES[model, nfe, "relative_error"]


def test_the_budgets_are_those_that_are_spoken_of() -> None:
    assert BUDGETS == [1, 2, 3, 4, 5, 8, 16, 32]
    assert {row.seeds for row in RESULTS.rows} == {(0, 1, 2)}


@pytest.mark.parametrize(("nfe", "share"), [(1, 0.95), (2, 0.985), (4, 0.995)])
def test_few_evaluations_are_nearly_the_teachers_answer(nfe: int, share: float) -> None:
    """Of its own teacher's: over seeds, teachers differ by more than that."""
    assert VALUES["student-best", nfe, "attained"] >= share


def test_more_evaluations_never_cost_accuracy() -> None:
    run = [accuracy("student-best", nfe) for nfe in BUDGETS]
    assert all(value >= max(run[: i + 1]) - 0.01 for i, value in enumerate(run))


@pytest.mark.parametrize("nfe", BUDGETS)
def test_no_solver_and_no_student_of_the_papers_is_better(nfe: int) -> None:
    others = (*SOLVERS, "student-paper", "student-paper-no-aa")
    assert accuracy("student-best", nfe) >= max(accuracy(m, nfe) for m in others) - 0.005


def test_errors_fall_at_every_step_and_stay_below_andersons() -> None:
    ours = [error("student-best", nfe) for nfe in BUDGETS]
    theirs = [error("anderson", nfe) for nfe in BUDGETS]
    assert all(late < early for early, late in pairwise(ours))
    assert all(a <= 0.6 * b for a, b in zip(ours[1:-1], theirs[1:-1], strict=True))
    assert ours[-1] <= theirs[-1]


@pytest.mark.parametrize("nfe", [n for n in BUDGETS if ("few-step", n, "accuracy") in VALUES])
def test_a_network_trained_for_the_budget_is_at_most_three_points_better(nfe: int) -> None:
    reference = min(accuracy("few-step", nfe), TEACHER)
    assert accuracy("student-best", nfe) >= reference - 0.03


@pytest.mark.parametrize("model", ["student-best", "student-random"])
def test_whatever_anderson_certifies_is_certified(model: str) -> None:
    assert VALUES[model, None, "certified"] >= VALUES["anderson", None, "certified"]
    assert VALUES[model, None, "agreement_certified"] == 1.0


def test_certified_answers_cost_less_with_the_student() -> None:
    alone, with_student = (
        VALUES[model, None, "evaluations_certified"] for model in ("anderson", "student-best")
    )
    assert alone >= 1.2 * with_student


def test_distillation_is_cheap() -> None:
    assert VALUES["student-best", None, "effort_distilled"] <= 0.3
