"""MIGNN: every splitting, resolvent and solver reaches the one solution of the equation."""

from dataclasses import replace

import pytest
import torch
import tyro
from models.graph.zoo import SPECS, WEIGHTS, adjacency_of, batch_of, each_graph, model_of
from problems import jacobians, seeded
from torch import Tensor

from cdeq import Anderson, Broyden, Picard, residual_norm, solve
from cdeq.core.solvers.base import Solver
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.mignn import MIGNN, MIGNNSpec, cayley
from cdeq.models.graph.resolvent import Direct, Equation, Neumann, Resolvent
from cdeq.models.graph.splitting import (
    DouglasRachford,
    ForwardBackward,
    PeacemanRachford,
    Splitting,
)

SPEC = SPECS["forward-backward"]
ODD = batch_of("odd")

RESOLVENTS = (Neumann(terms=1), Neumann(terms=2), Neumann(terms=7), Direct())
EXACT = (
    ForwardBackward(),
    ForwardBackward(step=0.4),
    *(PeacemanRachford(step=a, resolvent=r) for a in (0.4, 1.0) for r in RESOLVENTS),
    *(DouglasRachford(step=a, resolvent=r) for a in (0.4, 1.0) for r in RESOLVENTS),
    PeacemanRachford(step=3.0, resolvent=Direct()),
    DouglasRachford(step=3.0, resolvent=Direct()),
)
"""Whose fixed points give the equilibrium itself."""
COLD = tuple(
    kind(step=a, resolvent=Neumann(terms=k, warm=False))
    for kind in (PeacemanRachford, DouglasRachford)
    for a in (0.4, 1.0)
    for k in (1, 3)
)


def name_of(splitting: Splitting) -> str:
    return repr(splitting).replace("(", "-").replace(")", "").replace(", ", "-")


each_exact = pytest.mark.parametrize("splitting", EXACT, ids=name_of)
each_splitting = pytest.mark.parametrize("splitting", (*EXACT, *COLD), ids=name_of)


def model_with(splitting: Splitting, scale: float = 1.5) -> MIGNN:
    """The same weights for every splitting."""
    model = model_of(replace(SPEC, splitting=splitting))
    assert isinstance(model, MIGNN)
    model.deq.cell.scale.data.fill_(scale)
    return model


def equation_of(model: MIGNN, batch: GraphBatch) -> Equation:
    """Put together here, from the formula."""
    cell = model.deq.cell
    skew = (cell.weight - cell.weight.T) / 2
    unit = torch.eye(4, dtype=torch.float64)
    turn = (unit - skew) @ torch.linalg.inv(unit + skew) @ torch.diag(cell.signs)
    weight = cell.kappa * torch.sigmoid(cell.scale) * turn
    injected = batch.features @ cell.injection.weight.T + cell.injection.bias
    return Equation(injected.detach(), weight.detach(), batch.adjacency)


def propagated(z: Tensor, equation: Equation) -> Tensor:
    """A Z Wᵀ + B."""
    return equation.adjacency.matrix.to_dense() @ z @ equation.weight.T + equation.injection


@torch.no_grad()
def answer(model: MIGNN, batch: GraphBatch, solver: Solver = Anderson(window=3)) -> Tensor:
    x = model.encode(batch)
    found = solve(
        model.bind(x), model.initial(x), solver, max_steps=1200, tol=1e-13, batched=False
    )
    return model.spec.splitting.answer(found.check().z)


@each_exact
@pytest.mark.parametrize(
    "solver", (Picard(), Anderson(), Broyden(memory=60)), ids=("picard", "anderson", "broyden")
)
def test_every_way_leads_to_the_solution(splitting: Splitting, solver: Solver) -> None:
    model = model_with(splitting)
    z = answer(model, ODD, solver)
    expected = propagated(z, equation_of(model, ODD)).relu()
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    reference = answer(model_with(ForwardBackward()), ODD)
    torch.testing.assert_close(z, reference, rtol=1e-9, atol=1e-9)
    assert float((z == 0).double().mean()) > 0.1 and float(z.max()) > 0.1  # both sides of ReLU


@each_graph
@each_splitting
def test_it_contracts_by_the_factor_it_says(graph: str, splitting: Splitting) -> None:
    model, batch = model_with(splitting), batch_of(graph)
    bound = splitting.factor(model.deq.cell.norm())
    assert 0.0 < bound < 1.0
    f = model.bind(model.encode(batch))
    for seed in range(2):
        state = seeded(len(batch.features), 4, seed=seed, dtype=torch.float64)
        jacobian = jacobians(f, state, batched=False)[0]
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= bound + 1e-12


@pytest.mark.parametrize("change", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("kappa", (0.3, 1.0))
def test_the_weight_is_orthogonal_but_for_its_length(change, kappa: float) -> None:
    model = model_of(replace(SPEC, kappa=kappa))
    change(model)
    cell = model.deq.cell
    with torch.no_grad():
        weight = cell.prepare.__self__._scaled()
        length = kappa * float(torch.sigmoid(cell.scale))
    unit = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(weight @ weight.T, length**2 * unit, rtol=0, atol=1e-10)
    assert cell.norm() == pytest.approx(length, abs=1e-10)


def test_the_bound_is_reached_where_nothing_is_cut_off() -> None:
    """With W = w I and all of u on one side, f is linear with the factor as an eigenvalue."""
    for splitting in EXACT:
        model = model_with(splitting)
        with torch.no_grad():
            model.deq.cell.fold()
            model.deq.cell.weight.copy_(0.8 * torch.eye(4))
        f = model.bind(model.encode(batch_of("ring")))
        jacobian = jacobians(f, torch.ones(7, 4, dtype=torch.float64), batched=False)[0]
        if isinstance(splitting, ForwardBackward):
            continue
        found = float(torch.linalg.matrix_norm(jacobian, 2))
        if splitting.step <= 1.0:
            assert found == pytest.approx(splitting.factor(0.8), abs=1e-9), splitting
