"""Sweeps: every evaluation counted, every number by another route, errors that fall to zero."""

import math
import statistics
from collections.abc import Iterator, Mapping
from itertools import islice

import pytest
import torch
from evaluation.sweeps import BUDGETS, SOLVERS, CountedCell, counted, images, methods, model, rows
from problems import Counted
from torch import Tensor

from cdeq import (
    Anderson,
    ConsistencyDEQ,
    ExponentialSchedule,
    Picard,
    solve,
)
from cdeq.evaluation.metrics import ACCURACY, Metric, correct
from cdeq.evaluation.sweep import (
    Method,
    batches,
    distilled,
    score_few_step,
    sweep,
)
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.contraction import ContractionDEQ


def evaluations(methods: Mapping[str, Method], budgets: tuple[int, ...]) -> int:
    """What a sweep over one batch costs in all, the measurements included."""
    built, cell = counted()
    sweep(built, methods, images(), ACCURACY, budgets, reference_steps=3, reference_tol=1e-6)
    return cell.calls


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("budgets", [(1,), (7,), BUDGETS, (3, 9)])
def test_a_method_spends_its_largest_budget(name: str, budgets: tuple[int, ...]) -> None:
    """Besides the search for z* and one residual a reported number, which are measurement."""
    alone = evaluations({}, budgets)
    assert alone == 3 + 1
    assert evaluations({name: methods()[name]}, budgets) == alone + max(budgets) + len(budgets)
    assert evaluations(methods(), budgets) == alone + 3 * (max(budgets) + len(budgets))


@pytest.mark.parametrize("accelerate", [True, False])
@pytest.mark.parametrize("budgets", [(1,), (7,), BUDGETS])
def test_a_student_spends_its_largest_budget(budgets: tuple[int, ...], accelerate: bool) -> None:
    built = model()
    student = ConsistencyDEQ.from_teacher(built, accelerate=accelerate)
    student.cell = cell = CountedCell(student.cell)
    method = distilled(student, ExponentialSchedule())
    sweep(built, {"student": method}, images(), ACCURACY, budgets)
    assert cell.calls == max(budgets)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_baseline_spends_its_steps(steps: int) -> None:
    built, cell = counted()
    score_few_step(built, steps, images(), ACCURACY)
    assert cell.calls == steps


def test_a_method_is_asked_for_no_state_too_many() -> None:
    taken: list[int] = []

    def counting(built: ContractionDEQ, x: Tensor, z0: Tensor) -> Iterator[Tensor]:
        for k in range(1, 100):
            taken.append(k)
            yield z0

    sweep(model(), {"idle": counting}, images(), ACCURACY, (2, 4))
    assert taken == [1, 2, 3, 4]


@pytest.mark.parametrize("name", SOLVERS)
def test_every_number_by_hand(name: str) -> None:
    built, data = model(), images()
    found = sweep(built, methods(), data, ACCURACY, BUDGETS, reference_steps=300)
    batch = data.take(torch.arange(10))
    with torch.no_grad():
        x = built.encode(batch)
        f, z0 = built.bind(x), built.initial(x)
        exact = solve(f, z0, Picard(), max_steps=2000).z.flatten(1)
        for nfe in BUDGETS:
            z = solve(f, z0, SOLVERS[name], max_steps=nfe).z
            right = (built.decode(z, x).argmax(1) == batch.label).double().mean()
            error = (z.flatten(1) - exact).norm(dim=1) / exact.norm(dim=1)
            value = f(z).flatten(1)
            residual = (value - z.flatten(1)).norm(dim=1) / value.norm(dim=1)
            assert rows(found, name, "accuracy")[nfe] == float(right)
            assert rows(found, name, "relative_error")[nfe] == pytest.approx(
                statistics.median(error.tolist()), rel=1e-3, abs=1e-6
            )
            assert rows(found, name, "relative_residual")[nfe] == pytest.approx(
                statistics.median(residual.tolist()), rel=1e-4
            )
        right = (built.decode(exact.view_as(z0), x).argmax(1) == batch.label).double().mean()
    assert rows(found, "teacher", "accuracy") == {None: float(right)}
    assert rows(found, "teacher", "relative_residual")[None] < 1e-5


def test_all_methods_begin_alike() -> None:
    """One evaluation is f(z_0), whoever makes it; a fresh student's too."""
    built = model()
    fresh = distilled(ConsistencyDEQ.from_teacher(built), ExponentialSchedule())
    found = sweep(built, {**methods(), "student": fresh}, images(), ACCURACY, (1,))
    for metric in ("accuracy", "relative_error", "relative_residual"):
        values = {rows(found, name, metric)[1] for name in (*SOLVERS, "student")}
        assert max(values) - min(values) < 1e-6


@pytest.mark.parametrize("name", ["anderson", "broyden"])
def test_the_error_of_acceleration_falls_to_nothing(name: str) -> None:
    budgets = (1, 2, 4, 8)
    found = sweep(model(), methods(), images(), ACCURACY, budgets, reference_steps=100)
    errors = list(rows(found, name, "relative_error").values())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5 < errors[0]


@pytest.mark.parametrize("count", [9, 10])
@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_the_size_of_batches_is_no_part_of_the_result(size: int, count: int) -> None:
    whole, cut = (
        sweep(model(), methods(), images(count), ACCURACY, BUDGETS, batch_size=n)
        for n in (100, size)
    )
    for a, b in zip(whole, cut, strict=True):
        assert a[:3] == b[:3]
        assert a.value == pytest.approx(b.value, rel=1e-3, abs=1e-6)


def scaled(factors: list[float]) -> Method:
    """A state off by a chosen factor for each sample: z* (1 + factor), in batches of any size."""
    left = iter(factors)

    def run(built: ContractionDEQ, x: Tensor, z0: Tensor) -> Iterator[Tensor]:
        exact = solve(built.bind(x), z0, Anderson(), max_steps=300, tol=1e-6).z
        off = torch.tensor([next(left) for _ in range(len(z0))]).view(-1, 1, 1, 1)
        yield torch.where(off.isinf(), off, exact * (1 + off))  # 0 * inf would be NaN

    return run


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    "errors",
    [
        [0.5, 0.125, 4.0, 0.25, 0.0625],
        [0.5, 0.125, 4.0, 0.25],
        [0.25, 100.0],
        [0.125, torch.inf, 0.25],
        [torch.inf, 0.25, torch.inf],
        [torch.inf, 0.25],
    ],
)
def test_the_error_is_the_median_over_samples(errors: list[float], size: int) -> None:
    off = {"off": scaled(errors)}
    found = sweep(model(), off, images(len(errors)), ACCURACY, (1,), batch_size=size)
    expected = statistics.median(errors)
    assert rows(found, "off", "relative_error")[1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_sample_that_is_nan_shows(size: int) -> None:
    off = {"off": scaled([0.25, 0.5, torch.nan, 0.125, 0.25])}
    found = sweep(model(), off, images(5), ACCURACY, (1,), batch_size=size)
    assert math.isnan(rows(found, "off", "relative_error")[1])
    assert math.isnan(rows(found, "off", "relative_residual")[1])


def test_the_task_metric_stays_a_mean() -> None:
    value = Metric("perplexity", lambda out, batch: batch.label.double() ** 3)
    found = sweep(model(), methods(), images(8), value, (1,), batch_size=3)
    expected = statistics.mean((k % 3) ** 3 for k in range(8))
    assert {row.value for row in found if row.metric == "perplexity"} == {expected}


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_batches_are_the_data_in_order(size: int) -> None:
    data = images()
    parts = list(batches(data, size))
    assert torch.equal(torch.cat([part.image for part in parts]), data.image)
    assert torch.equal(torch.cat([part.label for part in parts]), data.label)
    assert max(len(part.label) for part in parts) == min(size, 10)


def test_progress_is_told_after_each_method_on_each_batch() -> None:
    calls = Counted(lambda: None)
    sweep(model(), methods(), images(), ACCURACY, (1,), batch_size=4, advance=calls)
    assert calls.calls == 3 * 3


def test_a_sweep_leaves_no_graph_and_no_training_mode() -> None:
    built = model().train()
    student = ConsistencyDEQ.from_teacher(built)
    sweep(built, {"s": distilled(student, ExponentialSchedule())}, images(), ACCURACY, (2,))
    assert not built.training
    assert all(p.grad is None for p in (*built.parameters(), *student.parameters()))


def test_a_metric_is_finished_once_after_averaging() -> None:
    """The perplexity of a data set is the exponential of its mean loss, not a mean of others."""
    nll = Metric("perplexity", lambda out, batch: out.logsumexp(1) - out[:, 0], torch.exp)
    plain = Metric("nll", nll.score)
    perplexity, mean = (
        score_few_step(model(), 3, images(), metric, batch_size=4).value for metric in (nll, plain)
    )
    assert perplexity == pytest.approx(torch.tensor(mean).exp().item(), rel=1e-5)


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 2.0, 0.0]])
    batch = ImageBatch(torch.zeros(3, 1, 1, 1), torch.tensor([0, 0, 1]))
    assert correct(logits, batch).tolist() == [1.0, 0.0, 1.0]


def test_a_student_is_called_at_the_times_of_its_schedule() -> None:
    seen: list[float] = []

    class Noting:
        def bind(self, x: object) -> object:
            return lambda z, t, memory: (seen.append(float(t)) or z, memory)

    schedule = ExponentialSchedule(rate=0.7)
    run = distilled(Noting(), schedule)(model(), None, torch.zeros(1))
    list(islice(run, 6))
    assert seen == pytest.approx(schedule.times(6).tolist())


def test_an_interval_is_that_of_the_samples_mean() -> None:
    found = {
        (row.model, row.nfe, row.metric): row.value
        for row in sweep(model(), methods(), images(), ACCURACY, (1, 3), intervals=True)
    }
    plain = sweep(model(), methods(), images(), ACCURACY, (1, 3))
    assert {(row.model, row.nfe, row.metric): row.value for row in plain}.items() <= found.items()
    count = len(images())
    for (name, nfe, metric), value in found.items():
        if metric == "accuracy":  # a share: its spread follows from it
            half = 1.96 * math.sqrt(value * (1 - value) / count)
            assert found[name, nfe, "interval_accuracy"] == pytest.approx(half, abs=1e-12)
    assert len(found) == len(plain) + 1 + 2 * len(methods())
