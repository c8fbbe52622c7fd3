"""The solvers of the fixed-point ODE (Eq. 2) follow its flow, at their order."""

import pytest
import torch
from problems import ZOO, Linear, contraction, each_dtype, rotation, stiff
from torch import Tensor

from cdeq import RK4, Euler, Picard, solve
from cdeq.core.solvers import RungeKutta
from cdeq.core.state import tensors


def flow(problem: Linear, t: float) -> Tensor:
    """The exact solution of dz/dt = A z + b - z at time t, from z_0 = 0."""
    generator = problem.matrix - torch.eye(len(problem.matrix)).to(problem.matrix)
    z = problem.solution
    return z - z @ torch.linalg.matrix_exp(generator * t).T


def integrated(problem: Linear, method: type, intervals: int, t: float) -> Tensor:
    solver: RungeKutta = method(size=t / intervals)
    budget = intervals * len(solver.tableau.weights)
    return solve(problem, problem.start, solver, max_steps=budget).z


@pytest.mark.parametrize("make", (contraction, rotation, stiff))
@pytest.mark.parametrize(("method", "order"), [(Euler, 1), (RK4, 4)])
def test_the_error_against_the_matrix_exponential_has_the_order(
    make, method, order, device
) -> None:
    problem = make(torch.float64, device)
    coarse, fine = (
        (integrated(problem, method, intervals, 2.0) - flow(problem, 2.0)).norm()
        for intervals in (64, 128)
    )
    assert abs(torch.log2(coarse / fine).item() - order) < 0.1


@each_dtype
@pytest.mark.parametrize("make", ZOO)
@pytest.mark.parametrize("beta", (1.0, 0.5, 0.1))
def test_euler_is_damped_picard(make, beta, dtype, device) -> None:
    problem = make(dtype, device)
    euler, picard = (
        solve(problem, problem.start, solver, max_steps=10, batched=problem.batched)
        for solver in (Euler(size=beta), Picard(damping=beta))
    )
    torch.testing.assert_close(euler.errors, picard.errors, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(tensors(euler.z), tensors(picard.z), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("make", (contraction, stiff, rotation))
def test_the_flow_ends_at_the_fixed_point(make, device) -> None:
    """Also where Picard diverges: the rotation's eigenvalues have real part -1."""
    problem = make(torch.float64, device)
    assert problem.miss(flow(problem, 3000.0)).max() < 1e-8
    settled = solve(problem, problem.start, RK4(size=1.0), max_steps=400).z
    torch.testing.assert_close(settled, flow(problem, 100.0), rtol=0.0, atol=0.02)
