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
    rotation,
    seeded,
    stiff,
    tanh,
)
from torch import Tensor

from cdeq import jacobian_penalty, spectral_radius
from cdeq.core.regularize import radius_penalty
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


# What exceeds a limit of the radius


@pytest.mark.parametrize("make", (contraction, rotation, stiff))
@pytest.mark.parametrize("share", (0.3, 0.9))
def test_the_radius_penalty_is_the_square_of_what_exceeds_the_limit(make, share, device) -> None:
    """By the dense eigenvalues, sample by sample; the matrices need not be normal."""
    problem = make(torch.float64, device)
    limit = share * float(problem.radius[0])
    penalty = radius_penalty(problem, problem.solution, limit=limit, steps=800)
    torch.testing.assert_close(penalty, (problem.radius - limit).square(), rtol=1e-5, atol=1e-12)


def test_a_graph_has_one_radius(device) -> None:
    problem = propagation(torch.float64, device)
    dense = jacobians(problem, problem.solution, batched=False)
    size = torch.linalg.eigvals(dense).abs().amax(1)
    found = radius_penalty(problem, problem.solution, limit=0.1, steps=300, batched=False)
    torch.testing.assert_close(found, (size - 0.1).square(), rtol=1e-5, atol=0.0)


@each_problem
@pytest.mark.parametrize("steps", (1, 5))
def test_few_steps_are_those_of_power_iteration(make, steps: int, device) -> None:
    """From the generator's vector, by dense products; a bound from below on ‖J‖."""
    problem = make(torch.float64, device)
    batched = problem.batched
    dense = jacobians(problem, problem.solution, batched=batched)
    layout = Layout.of(problem.solution, batched=batched)
    shape = layout.pack(problem.solution).shape
    v = torch.randn(shape, dtype=torch.float64, generator=generator(device), device=device)
    for _ in range(steps + 1):
        v = ((v / v.norm(dim=1, keepdim=True)).unsqueeze(1) @ dense).squeeze(1)
    limit = 0.5 * float(v.norm(dim=1).min())
    found = radius_penalty(
        problem, problem.solution,
        limit=limit, steps=steps, batched=batched, generator=generator(device),
    )  # fmt: skip
    torch.testing.assert_close(found, (v.norm(dim=1) - limit).square())
    assert bool((v.norm(dim=1) <= torch.linalg.matrix_norm(dense, 2) * (1 + 1e-9)).all())


def test_below_the_limit_nothing_is_paid_and_nothing_pulls(device) -> None:
    problem = contraction(torch.float64, device)
    scale = torch.ones((), dtype=torch.float64, device=device, requires_grad=True)
    for limit, free in ((0.81, True), (0.79, False)):
        penalty = radius_penalty(
            lambda z: scale * problem(z), problem.solution, limit=limit, steps=300
        )
        (slope,) = torch.autograd.grad(penalty.sum(), scale)
        assert (not penalty.any() and not slope) == free


def test_its_gradient_is_that_of_finite_differences() -> None:
    """Where J is symmetric, the direction stands still to first order, so that treating it as
    constant is exact: analytic gradients are those of the radius itself."""
    z = torch.zeros(1, 4, dtype=torch.float64)

    def penalty(half: Tensor) -> Tensor:
        return radius_penalty(
            lambda z: torch.tanh(z @ (half + half.T)), z, limit=0.3, steps=400,
            generator=generator(z.device),
        )  # fmt: skip

    half = seeded(4, 4, seed=98, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(penalty, half)
    size = torch.linalg.eigvalsh((half + half.T).detach()).abs().max()
    torch.testing.assert_close(penalty(half).detach(), (size - 0.3).square().view(1))


@pytest.mark.parametrize("steps", (1, 6))
def test_its_gradient_is_that_of_a_constant_direction(steps: int, device) -> None:
    """For J = diag(1 - tanh²) W, by hand."""
    z = seeded(2, 3, seed=95, dtype=torch.float64, device=device)
    weight = seeded(3, 3, seed=96, dtype=torch.float64, device=device).requires_grad_()

    def jacobian() -> Tensor:
        return (1 - torch.tanh(z @ weight.T).square()).unsqueeze(2) * weight

    v = torch.randn(z.shape, dtype=torch.float64, generator=generator(device), device=device)
    v = v / v.norm(dim=1, keepdim=True)
    for _ in range(steps):
        v = (v.unsqueeze(1) @ jacobian().detach()).squeeze(1)
        v = v / v.norm(dim=1, keepdim=True)
    by_hand = ((v.unsqueeze(1) @ jacobian()).squeeze(1).norm(dim=1) - 0.1).square()
    found = radius_penalty(
        lambda z: torch.tanh(z @ weight.T), z, limit=0.1, steps=steps, generator=generator(device)
    )
    torch.testing.assert_close(found, by_hand)
    slopes = (torch.autograd.grad(each.sum(), weight)[0] for each in (found, by_hand))
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("seed", range(3))
def test_following_it_brings_the_radius_below_the_limit(seed: int, device) -> None:
    weight = seeded(6, 6, seed=seed, dtype=torch.float64, device=device)
    weight = (1.5 * weight / torch.linalg.eigvals(weight).abs().max()).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    source, z = generator(device), torch.zeros(1, 6, dtype=torch.float64, device=device)
    for _ in range(300):
        optimizer.zero_grad()
        radius_penalty(lambda z: z @ weight.T, z, limit=0.9, generator=source).sum().backward()
        optimizer.step()
    assert float(torch.linalg.eigvals(weight.detach()).abs().max()) < 1.0


def test_a_map_that_forgets_z_costs_nothing_and_has_a_gradient(device) -> None:
    """Nilpotent: after three products no direction is left, and no division by zero either."""
    matrix = torch.diag(torch.ones(3, dtype=torch.float64, device=device), 1).requires_grad_()
    z = torch.ones(2, 4, dtype=torch.float64, device=device)
    for steps in (1, 3, 8):
        penalty = radius_penalty(lambda z: z @ matrix.T, z, limit=1.5, steps=steps)
        (slope,) = torch.autograd.grad(penalty.sum(), matrix)
        assert not penalty.any()
        assert bool(slope.isfinite().all())


def test_it_is_available_where_gradients_are_off_and_leaves_z_alone(device) -> None:
    problem = contraction(torch.float64, device)
    z = problem.solution.clone().requires_grad_()
    options = {"limit": 0.5, "steps": 20}
    with torch.no_grad():
        off = radius_penalty(problem, z, generator=generator(device), **options)
    on = radius_penalty(problem, z, generator=generator(device), **options)
    assert not off.requires_grad
    torch.testing.assert_close(off, on)
    scale = torch.ones((), dtype=torch.float64, device=device, requires_grad=True)
    radius_penalty(lambda z: scale * problem(z), z, **options).sum().backward()
    assert z.grad is None and scale.grad is not None


@pytest.mark.parametrize("function", (jacobian_penalty, spectral_radius, radius_penalty))
def test_a_generator_may_be_elsewhere(function) -> None:
    """Trainers draw on the CPU, so that the numbers do not depend on the device."""
    settings = {"limit": 0.9} if function is radius_penalty else {}
    z = torch.zeros(2, 3, device="meta")
    found = function(lambda z: 0.5 * z, z, generator=torch.Generator(), **settings)
    assert (found.device.type, found.shape) == ("meta", (2,))


def test_misuse_is_refused_by_name(device) -> None:
    z = torch.zeros(1, 2, device=device)
    with pytest.raises(ValueError, match=r"`probes`.*got 0"):
        jacobian_penalty(torch.cos, z, probes=0)
    with pytest.raises(ValueError, match=r"`steps`.*got 1"):
        spectral_radius(torch.cos, z, steps=1)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"`limit` is a spectral radius > 0.*got {limit}"):
            radius_penalty(torch.cos, z, limit=limit)
    with pytest.raises(ValueError, match=r"`steps` ≥ 1; got 0\.9 and 0"):
        radius_penalty(torch.cos, z, limit=0.9, steps=0)
    with pytest.raises(ValueError, match="shape it was given"):
        spectral_radius(lambda z: z[:, :1], z)
