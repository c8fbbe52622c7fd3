"""The Jacobian's size and spectral radius, against the dense Jacobian."""

import pytest
import torch
from problems import (
    Linear,
    contraction,
    coupled,
    each_problem,
    jacobians,
    propagation,
    seeded,
    tanh,
)
from torch import Tensor

from cdeq import jacobian_penalty, spectral_radius
from cdeq.core.state import Layout


def generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(5)


@each_problem
def test_the_penalty_is_the_mean_square_of_its_probes_products(make, device) -> None:
    problem = make(torch.float64, device)
    layout = Layout.of(problem.solution, batched=problem.batched)
    shape = layout.pack(problem.solution).shape
    source = generator(device)
    probes = [
        torch.randn(shape, dtype=torch.float64, generator=source, device=device) for _ in range(3)
    ]
    dense = jacobians(problem, problem.solution, batched=problem.batched)
    products = [(probe.unsqueeze(1) @ dense).squeeze(1) for probe in probes]
    expected = sum(product.square().mean(1) for product in products) / 3
    ours = jacobian_penalty(
        problem, problem.solution, probes=3, batched=problem.batched, generator=generator(device)
    )
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("make", (contraction, tanh, coupled, propagation))
def test_the_penalty_is_the_frobenius_norm_on_average(make, device) -> None:
    problem = make(torch.float64, device)
    dense = jacobians(problem, problem.solution, batched=problem.batched)
    expected = dense.square().sum((1, 2)) / dense.shape[1]
    estimate = jacobian_penalty(
        problem,
        problem.solution,
        probes=1500,
        batched=problem.batched,
        generator=generator(device),
    )
    torch.testing.assert_close(estimate, expected, rtol=0.15, atol=0.0)


def test_the_penalty_is_differentiable(device) -> None:
    """J = s A makes it quadratic in s."""
    problem = contraction(torch.float64, device)
    scale = torch.tensor(0.7, dtype=torch.float64, device=device, requires_grad=True)
    penalty = jacobian_penalty(lambda z: scale * problem(z), problem.start, probes=2).sum()
    penalty.backward()
    torch.testing.assert_close(scale.grad, 2 * penalty.detach() / scale.detach())


def test_the_penaltys_gradient_is_that_of_finite_differences() -> None:
    z = seeded(2, 3, seed=95, dtype=torch.float64)

    def penalty(weight: Tensor) -> Tensor:
        return jacobian_penalty(
            lambda z: torch.tanh(z @ weight.T), z, generator=generator(z.device)
        )

    weight = seeded(3, 3, seed=96, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(penalty, weight)


def test_both_are_available_where_gradients_are_off(device) -> None:
    problem = tanh(torch.float64, device)
    weight = problem.weight.requires_grad_()
    with torch.no_grad():
        penalty = jacobian_penalty(problem, problem.solution, generator=generator(device))
        radius = spectral_radius(problem, problem.solution, generator=generator(device))
    assert not penalty.requires_grad
    assert not radius.requires_grad
    with_gradients = jacobian_penalty(problem, problem.solution, generator=generator(device))
    assert with_gradients.requires_grad
    assert weight.grad is None
    torch.testing.assert_close(penalty, with_gradients)


@each_problem
def test_the_spectral_radius_is_the_largest_eigenvalue(make, device) -> None:
    problem = make(torch.float64, device)
    radius = spectral_radius(problem, problem.solution, steps=300, batched=problem.batched)
    torch.testing.assert_close(radius, problem.radius, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("angle", (0.3, 1.0, 2.5))
def test_a_complex_pair_that_is_not_normal(angle, device) -> None:
    """The norm of the power iterates swings for ever; its geometric mean does not."""
    basis = seeded(4, 4, seed=97, dtype=torch.float64, device=device)
    turn = torch.tensor(
        [
            [torch.tensor(angle).cos(), -torch.tensor(angle).sin()],
            [torch.tensor(angle).sin(), torch.tensor(angle).cos()],
        ],
        dtype=torch.float64,
    )
    block = torch.block_diag(
        0.9 * turn, torch.tensor([[0.5, 0.2], [0.0, -0.6]], dtype=torch.float64)
    )
    matrix = basis @ block.to(basis) @ basis.inverse()
    problem = Linear(matrix, torch.ones(2, 4, dtype=torch.float64, device=device))
    radius = spectral_radius(problem, problem.start, steps=300)
    torch.testing.assert_close(radius, torch.full_like(radius, 0.9), rtol=0.02, atol=0.0)


def test_a_nilpotent_map_has_radius_zero(device) -> None:
    matrix = torch.diag(torch.ones(3, dtype=torch.float64, device=device), 1)
    problem = Linear(matrix, torch.ones(2, 4, dtype=torch.float64, device=device))
    assert torch.equal(
        spectral_radius(problem, problem.start), torch.zeros_like(problem.offset[:, 0])
    )


def test_misuse_is_refused_by_name(device) -> None:
    z = torch.zeros(1, 2, device=device)
    with pytest.raises(ValueError, match=r"`probes`.*got 0"):
        jacobian_penalty(torch.cos, z, probes=0)
    with pytest.raises(ValueError, match=r"`steps`.*got 1"):
        spectral_radius(torch.cos, z, steps=1)
    with pytest.raises(ValueError, match="shape it was given"):
        spectral_radius(lambda z: z[:, :1], z)
