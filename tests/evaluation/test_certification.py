"""What certified answers cost, counted by hand."""

import pytest
import torch
from consistency.toys import Jump, disturb
from torch import Tensor

from cdeq import Anderson, Picard, UntiedDEQ, solve
from cdeq.consistency.certified import certify
from cdeq.consistency.time import ExponentialSchedule, TimeSpan
from cdeq.data.images import ImageSet
from cdeq.evaluation.certification import Start, certification
from cdeq.evaluation.metrics import ACCURACY, Metric
from cdeq.evaluation.sweep import Measurement
from cdeq.models.function import FunctionModel
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec

TOL = 1e-4


class Points:
    """Four numbers, of which one is none."""

    values = torch.tensor([[1.0], [2.0], [torch.nan], [4.0]], dtype=torch.float64)

    def __len__(self) -> int:
        return 4

    def take(self, indices: Tensor) -> Tensor:
        return self.values[indices]


def halving() -> FunctionModel:
    """z ↦ z/2 + x, with z* = 2x: Picard halves the distance, so costs are logarithms."""
    return FunctionModel(lambda z, x: z / 2 + x, (1,), solver=Picard()).to(torch.float64)


SCORE = Metric(
    "a",
    lambda output, batch: (output - 2 * batch).abs().flatten().nan_to_num(nan=0.5),
    finish=lambda mean: mean + 100,
    same=lambda one, other: ((one - other).abs() < 6e-4).flatten(),
)


def by_kind(found: list[Measurement]) -> dict[tuple[str, str], float]:
    assert all(row.nfe is None for row in found)
    return {(row.model, row.metric): row.value for row in found}


@pytest.mark.parametrize("batch_size", (1, 2, 4, 512))
def test_shares_and_means_by_hand(batch_size: int) -> None:
    """The first k with 1/(2^k - 1) ≤ tol, for z_k/2 + x = 2x (1 - 2^-(k+1)), is k = 14 of z_13."""
    starts = {"alone": Start(None, 0), "lost": Start(Lost(), 3), "there": Start(There(), 2)}
    found = by_kind(
        list(
            certification(
                halving(), starts, Points(), SCORE, tol=TOL, max_steps=40, batch_size=batch_size
            )
        )
    )
    assert {name: found[name, "certified"] for name in starts} == dict.fromkeys(starts, 0.75)
    assert {name: found[name, "evaluations_certified"] for name in starts} == {
        "alone": (3 * 14 + 1) / 4,
        "lost": (3 * (3 + 14) + 3 + 1) / 4,
        "there": (3 * (2 + 1) + 2 + 1) / 4,
    }
    misses = 2 * (1 + 2 + 4) * 2.0**-13
    assert found["alone", "a_certified"] == pytest.approx(100 + (misses + 0.5) / 4, abs=1e-12)
    assert found["lost", "a_certified"] == found["alone", "a_certified"]
    assert found["there", "a_certified"] == pytest.approx(100 + 0.5 / 4, abs=1e-12)
    # where x is no number all stay at 0, and so agree; where x = 4 the residual allows too much
    shares = {"alone": 0.75, "lost": 0.75, "there": 1.0}
    assert {name: found[name, "agreement_certified"] for name in starts} == shares


class There:
    """Knows the answer."""

    def bind(self, x: Tensor) -> object:
        return lambda z, t, memory: (2 * x, memory)


class Watch:
    """Stays where it is, and notes when it was asked."""

    def __init__(self) -> None:
        self.seen = list[Tensor]()

    def bind(self, x: Tensor) -> object:
        return self.step

    def step(self, z: Tensor, t: Tensor, memory: None) -> tuple[Tensor, None]:
        self.seen.append(t)
        return z, memory


class Lost:
    """Knows nothing."""

    def bind(self, x: Tensor) -> object:
        return lambda z, t, memory: (z + torch.inf, memory)


def test_a_student_is_called_at_its_own_times() -> None:
    times = ExponentialSchedule.from_ratio(0.25, span=TimeSpan(eps=0.5, end=5.0))
    watch = Watch()
    starts = {"own": Start(watch, 3, times)}
    list(certification(halving(), starts, Points(), SCORE, tol=TOL, batch_size=4))
    assert torch.equal(torch.stack(watch.seen), times.times(3))


def test_a_budget_that_is_too_small_certifies_nobody() -> None:
    found = by_kind(
        list(
            certification(
                halving(), {"alone": Start(None, 0)}, Points(), SCORE, tol=TOL, max_steps=13
            )
        )
    )
    assert found["alone", "certified"] == 0.0
    assert found["alone", "evaluations_certified"] == (3 * 13 + 1) / 4


@pytest.mark.parametrize("same", (True, False))
def test_a_classifier_sample_by_sample(same: bool) -> None:
    torch.manual_seed(0)
    model = ContractionDEQ(ContractionSpec(channels=3, size=4, classes=3, factor=0.9)).eval()
    student = UntiedDEQ.from_teacher(model)
    disturb(student, 0.3)
    draw = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    data = ImageSet(draw, torch.arange(10) % 3)
    metric = ACCURACY if same else Metric("accuracy", ACCURACY.score)
    starts = {"alone": Start(None, 0), "student": Start(student, 2)}
    found = by_kind(list(certification(model, starts, data, metric, tol=TOL, batch_size=4)))
    batch = data.take(torch.arange(10))
    for name, start in starts.items():
        answer = certify(model, start.student, model.encode(batch), tol=TOL, steps=start.steps)
        x = model.encode(batch)
        with torch.no_grad():
            exact = solve(model.bind(x), model.initial(x), Anderson(), max_steps=200, tol=1e-6).z
            given, truth = (model.decode(z, x).argmax(1) for z in (answer.z, exact))
        assert found[name, "certified"] == 1.0
        assert found[name, "evaluations_certified"] == float(answer.steps.double().mean())
        right = float((given == batch.label).double().mean())
        assert found[name, "accuracy_certified"] == pytest.approx(right, abs=1e-12)
        agreed = {name: float((given == truth).double().mean())} if same else {}
        assert {
            k[0]: v for k, v in found.items() if k[1].startswith("agree") and k[0] == name
        } == (pytest.approx(agreed))


def test_no_starts_are_no_numbers() -> None:
    assert list(certification(halving(), {}, Points(), SCORE, tol=TOL)) == []
    wrong = {"wrong": Start(Jump(torch.zeros(4, 2, dtype=torch.float64)), 1)}
    with pytest.raises(ValueError, match="another model's student"):
        list(certification(halving(), wrong, Points(), SCORE, tol=TOL))


def test_a_start_may_have_a_solver_of_its_own() -> None:
    """Picard halves the residual of z ↦ z/2 + x at each step; Anderson has it after three."""
    starts = {"own": Start(None, 0), "other": Start(None, 0, solver=Anderson())}
    found = by_kind(list(certification(halving(), starts, Points(), SCORE, tol=TOL, batch_size=4)))
    for start in starts:
        assert found[start, "certified"] == 0.75
    assert found["other", "evaluations_certified"] < found["own", "evaluations_certified"] / 3
