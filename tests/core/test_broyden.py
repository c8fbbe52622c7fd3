"""Broyden's method: the textbook's, superlinear, and safe when its memory is full."""

import math

import pytest
import torch
from problems import Problem, contraction, cosine, coupled, rotation, seeded, stiff, tanh
from torch import Tensor

from cdeq import Broyden, Picard, Solver, solve


def misses(problem: Problem, solver: Solver, steps: int) -> Tensor:
    run = solve(problem, problem.start, solver, max_steps=steps, record=True)
    return torch.stack([problem.miss(z) for z in run.trajectory])


def textbook(f, z: Tensor, steps: int) -> Tensor:
    """Dense, on the Jacobian itself rather than its inverse; one sample at a time."""
    paths = []
    for row in z:
        jacobian = -torch.eye(len(row), dtype=row.dtype, device=row.device)
        points, residual = [row], f(row.unsqueeze(0)).squeeze(0) - row
        for _ in range(steps):
            s = torch.linalg.solve(jacobian, -residual)
            points.append(points[-1] + s)
            new = f(points[-1].unsqueeze(0)).squeeze(0) - points[-1]
            jacobian = jacobian + torch.outer(new - residual - jacobian @ s, s) / (s @ s)
            residual = new
        paths.append(torch.stack(points))
    return torch.stack(paths, dim=1)


def test_it_is_the_textbook_method(device) -> None:
    weight = 0.35 * seeded(6, 6, seed=6, dtype=torch.float64, device=device)

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ weight.T + 0.3)

    z0 = seeded(3, 6, seed=70, dtype=torch.float64, device=device)
    ours = torch.stack(solve(f, z0, Broyden(), max_steps=8, record=True).trajectory)
    torch.testing.assert_close(ours, textbook(f, z0, 8), rtol=1e-8, atol=1e-8)


def test_in_one_dimension_it_is_the_secant_method(device) -> None:
    """Whose order of convergence is the golden ratio."""
    error = misses(cosine(torch.float64, device), Broyden(), 5).log()
    order = (error[5] - error[4]) / (error[4] - error[3])
    assert (order - (1 + math.sqrt(5)) / 2).abs().max() < 0.2


@pytest.mark.parametrize("make", (tanh, coupled))
def test_it_is_faster_than_any_linear_rate(make, device) -> None:
    """The digits gained a step grow, where Picard's stay the same."""
    problem = make(torch.float64, device)
    fast, steady = (misses(problem, s, 18).log().mean(1) for s in (Broyden(), Picard()))
    assert (fast[9] - fast[18]) > 1.5 * (fast[0] - fast[9])
    assert (steady[9] - steady[18]) < 1.1 * (steady[0] - steady[9])


@pytest.mark.parametrize("make", (contraction, rotation, stiff))
def test_a_linear_problem_of_dimension_d_takes_2d_steps(make, device) -> None:
    problem = make(torch.float64, device)
    d = problem.start.shape[1]
    assert misses(problem, Broyden(), 2 * d + 1)[-1].max() < 1e-7


@pytest.mark.parametrize("memory", (1, 2, 4, 29))
@pytest.mark.parametrize("make", (contraction, tanh))
def test_a_full_memory_starts_anew(make, memory, device) -> None:
    """A run longer than its memory converges all the same; one that fits is not touched by it."""
    problem = make(torch.float64, device)
    error = misses(problem, Broyden(memory=memory), 150)
    assert error[-30:].max() < 1e-7
    unlimited = misses(problem, Broyden(memory=1000), memory + 1)
    assert torch.equal(error[: memory + 2], unlimited)


def test_the_memory_never_grows_past_its_limit(device) -> None:
    solver, z = Broyden(memory=3), torch.zeros(1, 2, device=device)
    state = solver.init(z)
    for _ in range(10):
        step = solver.step(torch.cos, z, state)
        z, state = step.z, step.state
        assert len(state.u) == len(state.v) <= 3
