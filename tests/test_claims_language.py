"""What README and docs/results/language.md claim of the results on WikiText-2 is in them."""

from itertools import pairwise
from pathlib import Path

import pytest

from cdeq.report import Results

ROOT = Path(__file__).parent.parent
RESULTS = Results.load(ROOT / "results/wikitext2.json")
VALUES = {(row.model, row.nfe, row.metric): row.value for row in RESULTS.rows}
BUDGETS = (1, 2, 3, 4, 6, 8)
OTHERS = ("picard", "anderson", "hyperdeq", "student-paper", "student-paper-no-aa")
EXPLICIT = ("transformer_xl", "tcn", "gated_conv", "qrnn")
WEIGHTS = ("0", "0.2", "0.4", "0.6", "0.8", "1")
budgets = pytest.mark.parametrize("nfe", BUDGETS)


def perplexity(model: str, nfe: int | None) -> float:
    return VALUES[model, nfe, "perplexity"]


def test_budgets_and_seed_are_those_that_are_spoken_of() -> None:
    assert {row.nfe for row in RESULTS.rows if row.model == "student-best"} == {None, *BUDGETS}
    assert {row.seeds for row in RESULTS.rows} == {(0,)}
    assert {row.split for row in RESULTS.rows} == {"test"}


@pytest.mark.parametrize(("nfe", "bar"), [(1, 1.20), (2, 1.04), (8, 1.005)])
def test_few_evaluations_are_nearly_the_teachers_answer(nfe: int, bar: float) -> None:
    assert VALUES["student-best", nfe, "ratio_converged"] <= bar


@budgets
@pytest.mark.parametrize("other", OTHERS)
def test_no_other_use_of_the_teacher_is_better(other: str, nfe: int) -> None:
    assert perplexity("student-best", nfe) <= perplexity(other, nfe)


def test_errors_fall_at_every_step() -> None:
    ours = [VALUES["student-best", nfe, "relative_error"] for nfe in BUDGETS]
    assert all(late < early for early, late in pairwise(ours))


@pytest.mark.parametrize(("nfe", "share"), [(1, 0.44), (2, 0.34), (3, 0.34), (4, 0.34), (8, 0.35)])
def test_the_error_is_a_fraction_of_andersons(nfe: int, share: float) -> None:
    ours, theirs = (VALUES[model, nfe, "relative_error"] for model in ("student-best", "anderson"))
    assert ours <= share * theirs


@pytest.mark.parametrize(
    ("model", "least"), [("student-paper", 1.11), ("student-paper-no-aa", 1.08)]
)
def test_the_papers_student_stops(model: str, least: float) -> None:
    assert VALUES[model, 8, "ratio_converged"] >= least
    assert perplexity(model, 6) - perplexity(model, 8) < 0.3


@pytest.mark.parametrize(("nfe", "less"), [(1, 0.034), (2, 0.020), (8, 0.043)])
def test_networks_trained_for_the_budget_are_better_by_as_much_as_is_said(
    nfe: int, less: float
) -> None:
    share = 1 - perplexity("few-step", nfe) / perplexity("student-best", nfe)
    assert share == pytest.approx(less, abs=5e-4)


def test_the_other_explicit_networks_are_above_teacher_and_transformer_xl() -> None:
    least = max(perplexity("teacher", None), perplexity("transformer_xl", None))
    assert all(perplexity(name, None) > least for name in EXPLICIT[1:])


@pytest.mark.parametrize("model", ["student-best", "student-paper", "hyperdeq", "anderson"])
def test_memory_at_40_evaluations_is_that_at_one(model: str) -> None:
    rows = Results.load(ROOT / "results/table5-memory.json").select(model=model).rows
    used = {row.nfe: row.value for row in rows if row.metric == "memory_scored"}
    assert used.keys() == {1, 10, 20, 30, 40}
    assert used[40] <= 1.05 * used[1]


@pytest.mark.parametrize("task", ["0", "0.05"])
def test_the_global_loss_alone_is_best(task: str) -> None:
    rows = Results.load(ROOT / "results/table4-lambda.json").rows
    ratio = {row.model: row.value for row in rows if row.metric == "ratio_converged"}
    ours = [ratio[f"λ₁ {weight}, λ₂ {task} student-paper"] for weight in WEIGHTS]
    assert all(late < early for early, late in pairwise(ours))
    assert 1.003 <= ours[-2] / ours[-1] <= 1.005
    labelled = [ratio[f"λ₁ {weight}, λ₂ 0.05 student-paper"] for weight in WEIGHTS]
    assert all(with_labels <= without for with_labels, without in zip(labelled, ours, strict=True))


@pytest.mark.parametrize("model", ["student-best", "student-paper", "student-paper-no-aa"])
def test_a_students_step_costs_little_more_than_an_evaluation(model: str) -> None:
    rows = Results.load(ROOT / "results/table5-memory.json").select(model=model).rows
    (time,) = (row.value for row in rows if (row.metric, row.nfe) == ("time", 40))
    assert time <= 1.10 * 40


def test_transformer_xl_is_better_by_as_much_as_is_said() -> None:
    share = perplexity("teacher", None) / perplexity("transformer_xl", None)
    assert share == pytest.approx(1.066, abs=5e-4)
    sizes = [VALUES[model, None, "parameters"] for model in ("teacher", "transformer_xl")]
    assert sizes[0] < sizes[1] < 1.2 * sizes[0]


def test_the_teacher_converges_and_certificates_cost_less_with_the_student() -> None:
    assert VALUES["anderson", None, "certified"] == 1.0
    cost = {m: VALUES[m, None, "evaluations_certified"] for m in ("student-best", *OTHERS[1:])}
    assert cost["anderson"] <= 16 and cost["student-best"] == min(cost.values())


@pytest.mark.parametrize("model", ["student-best", "student-paper", "anderson", "few-step"])
def test_an_answer_with_its_loss_takes_the_same_memory_at_every_budget(model: str) -> None:
    used = [VALUES[model, nfe, "memory_scored"] for nfe in (1, 2, 8)]
    assert max(used) <= 1.05 * min(used)
