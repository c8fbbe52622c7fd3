"""torchdeq 0.1.0, where it is right: the same fixed points and the same implicit gradients."""

import pytest
import torch
from problems import Problem, contraction, coupled, seeded, tanh
from torch import Tensor, nn
from torchdeq import get_deq

from cdeq import DEQ, Anderson, Broyden, Implicit, Picard, Solver, solve
from cdeq.core.state import tensors

PEERS = {"fixed_point_iter": Picard(), "anderson": Anderson(), "broyden": Broyden()}
each_peer = pytest.mark.parametrize(("name", "solver"), PEERS.items(), ids=list(PEERS))
BUDGET, TOL = 100, 1e-10


def peer(name: str) -> nn.Module:
    return get_deq(
        f_solver=name,
        b_solver=name,
        f_max_iter=BUDGET,
        b_max_iter=BUDGET,
        f_tol=TOL,
        b_tol=TOL,
        f_stop_mode="rel",
        b_stop_mode="rel",
        ift=True,
    )


@each_peer
@pytest.mark.parametrize("make", (contraction, tanh, coupled))
def test_the_same_fixed_point(name: str, solver: Solver, make, device) -> None:
    problem: Problem = make(torch.float64, device)
    ours = solve(problem, problem.start, solver, max_steps=BUDGET, tol=TOL).z
    spread = (lambda *z: problem(z)) if isinstance(problem.start, tuple) else problem
    with torch.no_grad():
        theirs = peer(name)(spread, problem.start)[0][-1]  # it passes the tensors one by one
    for a, b in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class Layer(nn.Module):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            0.35 * seeded(5, 5, seed=40, dtype=torch.float64, device=device)
        )

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + x)


@each_peer
def test_the_same_implicit_gradient(name: str, solver: Solver, device) -> None:
    cell = Layer(device)
    x = seeded(3, 5, seed=41, dtype=torch.float64, device=device).requires_grad_()
    wanted = [cell.weight, x]
    cotangent = seeded(3, 5, seed=42, dtype=torch.float64, device=device)
    z0 = torch.zeros_like(x)
    adjoint = Implicit(solver=solver, max_steps=BUDGET, tol=TOL)
    layer = DEQ(cell, solver=solver, adjoint=adjoint, max_steps=BUDGET, tol=TOL)
    ours = torch.autograd.grad((layer(x, z0).z * cotangent).sum(), wanted)
    (*_, z), _ = peer(name)(lambda z: cell(z, x), z0)
    theirs = torch.autograd.grad((z * cotangent).sum(), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
