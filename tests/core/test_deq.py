"""The layer: solve without a graph, attach once, on one and the same map."""

from functools import partial

import pytest
import torch
from problems import seeded
from torch import Tensor, nn

from cdeq import DEQ, Cell, Status, solve


class Damped(nn.Module):
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(0.5 * z + x)


def _note(saved: list[Tensor], tensor: Tensor) -> Tensor:
    saved.append(tensor)
    return tensor


def test_the_memory_of_a_layer_does_not_grow_with_its_budget(device) -> None:
    x = seeded(2, 4, seed=93, dtype=torch.float64, device=device).requires_grad_()
    counts = []
    for budget in (1, 40):
        saved: list[Tensor] = []
        layer = DEQ(Damped(), max_steps=budget)
        with torch.autograd.graph.saved_tensors_hooks(partial(_note, saved), lambda t: t):
            layer(x, torch.zeros_like(x))
        counts.append(len(saved))
    assert counts[0] == counts[1] > 0


def test_a_layer_without_gradients_returns_what_the_solver_found(device) -> None:
    x = seeded(2, 4, seed=93, dtype=torch.float64, device=device)
    layer, z0 = DEQ(Damped(), max_steps=4), torch.zeros_like(x)
    plain = solve(lambda z: layer.cell(z, x), z0, layer.solver, max_steps=4)
    with torch.no_grad():
        assert torch.equal(layer(x, z0).z, plain.z)
    attached = layer(x, z0)
    assert torch.equal(attached.z, layer.cell(plain.z, x))
    assert torch.equal(attached.errors, plain.errors)
    assert layer(x, z0, max_steps=2).nfe == 2
    assert len(layer(x, z0, record=True).trajectory) == 5


def test_a_cell_prepares_its_context_once_a_solve(device) -> None:
    """So the adjoint differentiates the very map that was solved, dropout masks included."""

    class Dropping(Cell):
        def __init__(self) -> None:
            super().__init__()
            self.prepared = 0

        def prepare(self, x: Tensor) -> Tensor:
            self.prepared += 1
            return x * (torch.rand_like(x) < 0.5)

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return torch.tanh(0.5 * z + x)

    cell = Dropping()
    x = seeded(2, 40, seed=94, dtype=torch.float64, device=device).requires_grad_()
    run = DEQ(cell, max_steps=60, tol=1e-9)(x, torch.zeros_like(x))
    assert cell.prepared == 1
    assert run.status is Status.CONVERGED
    run.z.sum().backward()
    kept = x.grad != 0
    assert torch.equal(run.z.detach() != 0, kept)
    assert 0 < kept.sum() < kept.numel()


@pytest.mark.parametrize("max_steps", (0, -3, True, 1.5))
def test_a_budget_is_refused_on_construction(max_steps) -> None:
    with pytest.raises(ValueError, match="`max_steps` is the number of evaluations"):
        DEQ(Damped(), max_steps=max_steps)
