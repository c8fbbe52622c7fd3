"""The convergence audit: a teacher without an equilibrium is found out."""

import math

import pytest
import torch
from evaluation.sweeps import SPEC, images, model
from torch import Tensor, nn

from cdeq import Picard, solve
from cdeq.evaluation.audit import Audit, audit
from cdeq.evaluation.metrics import ACCURACY
from cdeq.models.vision.contraction import ContractionDEQ


class Wrong(nn.Module):
    """A cell put in place of a contraction."""

    def __init__(self, map: object) -> None:
        super().__init__()
        self.map = map

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.map(z, x.mean((1, 2, 3), keepdim=True))


def with_cell(map: object) -> ContractionDEQ:
    built = model()
    built.deq.cell = Wrong(map)
    return built


def switching(z: Tensor, x: Tensor) -> Tensor:
    """Always on the other side of zero."""
    return torch.where(z > 0, -1.0, 1.0) - 1e-3 * z + 0 * x


def exploding(z: Tensor, x: Tensor) -> Tensor:
    return torch.exp(z + 1.0) + x


def drifting(z: Tensor, x: Tensor) -> Tensor:
    return z + 1.0 + 0 * x


def judge(built: ContractionDEQ, **settings: float) -> Audit:
    return audit(built, images(), ACCURACY, **settings)


@pytest.mark.parametrize("map", [switching, exploding, drifting])
def test_a_teacher_without_equilibrium_is_flagged(map: object) -> None:
    found = judge(with_cell(map))
    assert not found.converges
    assert found.converged_share < 0.5
    assert found.summary().startswith("The teacher does NOT converge")


def test_a_contraction_passes() -> None:
    found = judge(model())
    assert found.converges
    assert found.converged_share == 1.0
    assert found.score == found.score_long
    assert found.spectral_radius_max <= SPEC.factor
    assert found.summary().startswith("The teacher converges.")


def test_the_numbers_by_hand() -> None:
    built, data = model(), images()
    found = judge(built, solver=Picard(), steps=4, long_steps=9, tol=0.05, batch_size=3)
    with torch.no_grad():
        batch = data.take(torch.arange(10))
        x = built.encode(batch)
        f, z0 = built.bind(x), built.initial(x)
        z, longer = (solve(f, z0, Picard(), max_steps=k).z for k in (4, 9))
        value = f(z)
        residual = (value - z).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
        right = [
            (built.decode(s, x).argmax(1) == batch.label).double().mean() for s in (z, longer)
        ]
    assert (found.steps, found.long_steps, found.tol) == (4, 9, 0.05)
    assert found.converged_share == float((residual <= 0.05).double().mean())
    assert found.residual_median == pytest.approx(float(residual.median()), rel=1e-4)
    assert found.residual_p95 == pytest.approx(float(residual.double().quantile(0.95)), rel=1e-4)
    assert found.residual_max == pytest.approx(float(residual.max()), rel=1e-4)
    assert [found.score, found.score_long] == [float(share) for share in right]


def verdict(**changes: float) -> bool:
    passing = {
        "steps": 40, "long_steps": 200, "tol": 1e-3, "converged_share": 1.0,
        "residual_median": 1e-3, "residual_p95": 1e-2, "residual_max": 1.0,
        "score": 0.95, "score_long": 0.95,
        "spectral_radius_median": 0.9, "spectral_radius_max": 1.2,
    }  # fmt: skip
    return Audit(**(passing | changes)).converges


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"residual_median": 1.1e-3}, False),
        ({"residual_p95": 1.1e-2}, False),
        ({"score_long": 0.9549}, True),
        ({"score_long": 0.9451}, True),
        ({"score_long": 0.956}, False),
        ({"score_long": 0.944}, False),
        ({"residual_median": math.nan}, False),
        ({"score_long": math.nan}, False),
    ],
    ids=str,
)
def test_the_verdict_is_the_promise_of_the_project(
    changes: dict[str, float], expected: bool
) -> None:
    """Median 1e-3, 95 % 1e-2, and accuracy within half a point between both budgets."""
    assert verdict(**changes) is expected


def test_one_bad_sample_of_many_is_only_the_worst() -> None:
    """The share and the quantiles count samples; the worst one is shown, and decides nothing."""

    def all_but_one(z: Tensor, x: Tensor) -> Tensor:
        wild = torch.arange(len(z)).view(-1, 1, 1, 1) == 0
        return torch.where(wild, switching(z, x), 0.5 * z + x)

    built = with_cell(all_but_one)
    found = audit(built, images(40), ACCURACY, batch_size=40)
    assert found.converged_share == 39 / 40
    assert found.residual_p95 < 1e-5
    assert found.residual_max > 0.1
