"""The weights of Anderson acceleration are the least-squares answer, and nothing upsets them."""

from itertools import pairwise

import pytest
import torch
from problems import each_dtype, seeded
from torch import Tensor

from cdeq.core.solvers.weights import two_point_weight, window_weights

EPS = torch.finfo(torch.float64).eps


def least_squares(residuals: Tensor) -> Tensor:
    """The minimiser of ‖Σ αᵢ rᵢ‖ with Σ αᵢ = 1, by QR on differences: `(m, d)` to `(m,)`."""
    *earlier, newest = residuals
    differences = torch.stack([row - newest for row in earlier], dim=1)
    size = differences.norm(dim=0)
    free = torch.linalg.lstsq(differences / size, -newest.unsqueeze(1)).solution.squeeze(1) / size
    return torch.cat([free, 1 - free.sum(0, keepdim=True)])


def weigh(residuals: Tensor, noise: float = 8 * EPS, ridge: float = 0.0) -> Tensor:
    gram = residuals @ residuals.T
    return window_weights(gram.unsqueeze(0), len(gram) - 1, noise, ridge).squeeze(0)


@pytest.mark.parametrize("count", (2, 3, 6))
@pytest.mark.parametrize("seed", range(5))
def test_window_weights_minimise_the_mixed_residual(count: int, seed: int) -> None:
    residuals = seeded(count, 9, seed=seed, dtype=torch.float64)
    torch.testing.assert_close(weigh(residuals), least_squares(residuals), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decades", (1, 4, 8, 12))
def test_residuals_of_very_different_size(decades: int) -> None:
    """While rows shrink by decades, the mixed residual is as small as QR in float64 makes it."""
    residuals = seeded(4, 9, seed=3, dtype=torch.float64)
    residuals = residuals * torch.logspace(0, -decades, 4, dtype=torch.float64).unsqueeze(1)
    best = (least_squares(residuals) @ residuals).norm()
    alpha = weigh(residuals)
    torch.testing.assert_close(alpha.sum(), torch.ones((), dtype=torch.float64))
    assert (alpha @ residuals).norm() <= 1.0001 * best


def test_the_order_of_sizes_does_not_matter() -> None:
    residuals = seeded(3, 9, seed=4, dtype=torch.float64)
    residuals = residuals * torch.tensor([[1e-9], [1.0], [1e9]], dtype=torch.float64)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        best = (least_squares(residuals[order]) @ residuals[order]).norm()
        assert (weigh(residuals[order]) @ residuals[order]).norm() <= 1.0001 * best


def test_each_row_of_the_batch_is_on_its_own() -> None:
    residuals = seeded(4, 3, 9, seed=5, dtype=torch.float64)
    gram = residuals @ residuals.mT
    clean = window_weights(gram, 2, 8 * EPS, 0.0)
    for poison in (torch.nan, torch.inf, 0.0, 1e300, -1.0):
        spoilt = gram.clone()
        spoilt[1] = poison
        weights = window_weights(spoilt, 2, 8 * EPS, 0.0)
        assert torch.equal(weights[[0, 2, 3]], clean[[0, 2, 3]])
        assert weights[1].isfinite().all()
        torch.testing.assert_close(weights[1].sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize(
    "pattern", [[0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 1, 2, 1], [0, 0, 1, 1, 2, 2]], ids=str
)
def test_repeated_residuals_lose_nothing(pattern: list[int]) -> None:
    """The mixed residual is that of the distinct rows alone."""
    distinct = seeded(3, 9, seed=6, dtype=torch.float64)
    residuals = distinct[pattern]
    unique = distinct[sorted(set(pattern))]
    best = unique[0] if len(unique) == 1 else least_squares(unique) @ unique
    alpha = weigh(residuals)
    torch.testing.assert_close(alpha.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(alpha @ residuals, best, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("newest", range(3))
def test_no_usable_system_means_a_picard_step(newest: int) -> None:
    picard = torch.eye(3, dtype=torch.float64)[newest]
    converged = torch.eye(3, dtype=torch.float64)
    converged[newest, newest] = 0.0
    for gram in (torch.zeros(3, 3), torch.full((3, 3), torch.nan), -torch.eye(3), converged):
        weights = window_weights(gram.unsqueeze(0), newest, 8 * EPS, 0.0)
        assert torch.equal(weights.squeeze(0), picard)


def test_the_ridge_draws_weights_together() -> None:
    """Towards those of an orthogonal window, whatever the rows."""
    residuals = seeded(3, 9, seed=7, dtype=torch.float64)
    residuals = residuals / residuals.norm(dim=1, keepdim=True)
    spread = [(weigh(residuals, ridge=r) - 1 / 3).norm() for r in (0.0, 1e-2, 1.0, 1e2, 1e4)]
    assert all(later < earlier for earlier, later in pairwise(spread))
    assert spread[-1] < 1e-3


@each_dtype
def test_two_point_weight_is_the_window_of_two(dtype: torch.dtype) -> None:
    residual, previous = (seeded(6, 9, seed=s, dtype=dtype) for s in (8, 9))
    previous = previous * torch.tensor([1.0, 1e-3, 1e3, -1.0, 1e-6, 1e6], dtype=dtype).unsqueeze(1)
    alpha = two_point_weight(residual, previous)
    assert alpha.dtype == dtype
    for i in range(6):
        pair = torch.stack([previous[i], residual[i]]).double()
        expected = least_squares(pair)[1]
        torch.testing.assert_close(alpha[i].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(weigh(pair)[1], expected, rtol=1e-7, atol=1e-7)


@each_dtype
def test_two_equal_points_are_one(dtype: torch.dtype) -> None:
    residual = seeded(4, 9, seed=10, dtype=dtype) * torch.tensor([[1.0], [1e-9], [1e9], [0.0]]).to(
        dtype
    )
    one = torch.ones(4, dtype=dtype)
    assert torch.equal(two_point_weight(residual, residual), one)
    nearly = residual * (1 + torch.finfo(dtype).eps)
    assert torch.equal(two_point_weight(residual, nearly), one)


def test_two_point_weights_under_bfloat16_are_those_of_its_numbers() -> None:
    residual, previous = (seeded(5, 999, seed=s, dtype=torch.bfloat16) for s in (11, 12))
    exact = two_point_weight(residual.double(), previous.double())
    assert torch.equal(two_point_weight(residual, previous), exact.bfloat16())


def test_gradients_of_a_repeated_point_are_finite() -> None:
    residual = seeded(2, 5, seed=13, dtype=torch.float64).requires_grad_()
    previous = residual.detach().clone().requires_grad_()
    two_point_weight(residual, previous).sum().backward()
    assert torch.equal(residual.grad, torch.zeros_like(residual))
    assert torch.equal(previous.grad, torch.zeros_like(residual))


def test_two_point_gradients_are_those_of_finite_differences() -> None:
    pair = [seeded(2, 5, seed=s, dtype=torch.float64).requires_grad_() for s in (14, 15)]
    assert torch.autograd.gradcheck(two_point_weight, pair)
