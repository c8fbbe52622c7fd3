"""EIGNN: what is iterated is what the closed form says, and contracts by γ."""

from dataclasses import replace

import pytest
import torch
from models.graph.zoo import (
    SPECS,
    WEIGHTS,
    adjacency_of,
    batch_of,
    each_graph,
    each_weight,
    model_of,
    sparse,
)
from problems import jacobians, seeded
from torch import Tensor

from cdeq import Anderson, Broyden, Picard, solve
from cdeq.core.solvers.base import Solver
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.batch import GraphBatch, GraphContext
from cdeq.models.graph.eignn import EIGNN, EIGNNSpec, closed_form
from cdeq.models.graph.spectrum import spectrum

SPEC, RAW = SPECS["eignn"], SPECS["eignn-raw"]
each_kind = pytest.mark.parametrize("spec", (SPEC, RAW), ids=("linear", "raw"))


SOLVERS = {"picard": Picard(), "anderson": Anderson(), "broyden": Broyden(memory=60)}


def iterated(model: EIGNN, x: GraphContext, solver: Solver = Picard()) -> Tensor:
    start = model.initial(x)
    return solve(model.bind(x), start, solver, max_steps=600, tol=1e-13, batched=False).check().z


@each_graph
@each_kind
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))
@torch.no_grad()
def test_solvers_find_the_closed_form(graph, spec, solver) -> None:
    model = model_of(spec)
    x = model.encode(batch_of(graph))
    expected = closed_form(model.deq.cell, x)
    torch.testing.assert_close(iterated(model, x, solver), expected, rtol=1e-9, atol=1e-9)


@each_weight
@torch.no_grad()
def test_the_closed_form_is_for_all_weights(change) -> None:
    model = model_of(SPEC)
    change(model)
    x = model.encode(batch_of("odd"))
    expected = closed_form(model.deq.cell, x)
    torch.testing.assert_close(iterated(model, x), expected, rtol=1e-9, atol=1e-9)


@each_graph
@each_kind
@torch.no_grad()
def test_the_closed_form_solves_the_linear_system(graph, spec) -> None:
    """vec(Z) = (I - γ S ⊗ g(F))⁻¹ vec(B)."""
    model, batch = model_of(spec), batch_of(graph)
    cell, s = model.deq.cell, batch.adjacency.matrix.to_dense()
    gram = cell.weight.T @ cell.weight
    system = torch.kron(s, spec.gamma * gram / gram.norm())
    injected = batch.features
    if cell.injection is not None:
        injected = injected @ cell.injection.weight.T + cell.injection.bias
    unit = torch.eye(len(system), dtype=torch.float64)
    expected = torch.linalg.solve(unit - system, injected.flatten()).view_as(injected)
    found = closed_form(cell, model.encode(batch))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@each_graph
def test_it_contracts_by_gamma_whatever_the_weights(graph) -> None:
    """Exactly by γ ‖S‖ ‖g(F)‖, with ‖S‖ = 1, ‖g(F)‖_F = 1 and so ‖g(F)‖ between h^-½ and 1."""
    batch = batch_of(graph)
    for name, change in WEIGHTS.items():
        model = model_of(SPEC)
        change(model)
        x = model.encode(batch)
        jacobian = jacobians(model.bind(x), model.initial(x), batched=False)[0]
        found = float(torch.linalg.matrix_norm(jacobian, 2))
        assert found <= SPEC.gamma + 1e-12, name
        if name not in ("zero", "tiny"):  # where 1e-12 is not little
            assert found >= SPEC.gamma / 2 - 1e-9, name


def test_gamma_is_reached_by_a_weight_of_rank_one() -> None:
    model = model_of(SPEC)
    with torch.no_grad():
        model.deq.cell.weight.fill_(0.5)
    x = model.encode(batch_of("star"))
    jacobian = jacobians(model.bind(x), model.initial(x), batched=False)[0]
    assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(SPEC.gamma)


@torch.no_grad()
def test_raw_features_are_injected_as_they_are() -> None:
    """From Z = 0, f gives X itself."""
    model, batch = model_of(RAW), batch_of("odd")
    for features in (batch.features, sparse(batch.features)):
        x = model.encode(batch._replace(features=features))
        assert torch.equal(model.bind(x)(model.initial(x)), batch.features)
    assert model.hidden == model.inputs


def test_a_folded_cell_has_no_closed_form() -> None:
    model = model_of(SPEC)
    model.deq.cell.fold()
    with pytest.raises(ValueError, match=r"for a symmetric weight γ g\(F\), .* got a folded cell"):
        closed_form(model.deq.cell, model.encode(batch_of("ring")))


@torch.no_grad()
def test_large_graphs_are_iterated_only() -> None:
    nodes = 4001
    edges = torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)])
    adjacency = normalised(edges, nodes, dtype=torch.float64)
    features = seeded(nodes, 5, seed=1, dtype=torch.float64)
    batch = GraphBatch(features, adjacency, torch.zeros(nodes).long(), torch.arange(nodes))
    model = model_of(replace(SPEC, tol=1e-6, gamma=0.5))
    x = model.encode(batch)
    assert model.deq(x, model.initial(x)).check().nfe < 30
    with pytest.raises(ValueError, match="up to 4000 nodes"):
        closed_form(model.deq.cell, x)


def test_an_adjacency_that_is_not_symmetric_is_refused() -> None:
    batch = batch_of("star", adjacency_of("star", normalisation="row"))
    with pytest.raises(ValueError, match=r"has to be symmetric here.*by `normalised` with"):
        model_of(SPEC).encode(batch)
    free = model_of(replace(SPEC, unguaranteed=True))
    x = free.encode(batch)
    with pytest.raises(ValueError, match="has to be symmetric here"):
        closed_form(free.deq.cell, x)


def test_a_symmetric_adjacency_need_not_be_said_to_be_symmetric() -> None:
    said, seen = batch_of("odd"), batch_of("odd", sparse(adjacency_of("odd").matrix.to_dense()))
    assert seen.adjacency.transposed is not None
    model = model_of(SPEC)
    with torch.no_grad():
        torch.testing.assert_close(model(seen), model(said))
    torch.testing.assert_close(
        spectrum(seen.adjacency).values, spectrum(said.adjacency).values, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("gamma", (1.0, 3.0))
def test_giving_up_uniqueness_has_to_be_said(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"makes EIGNN well-posed.*got {gamma}; .*`unguaranteed`"):
        EIGNNSpec(gamma=gamma)
    spec = EIGNNSpec(inputs=2, classes=2, gamma=gamma, unguaranteed=True)
    assert EIGNN(spec).well_posed.startswith("not known to be well-posed")


@pytest.mark.parametrize("gamma", (0.0, -0.5, float("nan"), float("inf")))
def test_gamma_is_positive(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"`gamma` scales S Z g\(F\), so it is above 0"):
        EIGNNSpec(gamma=gamma, unguaranteed=True)
