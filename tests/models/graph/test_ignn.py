"""IGNN: a contraction in the norm that Perron and Frobenius give, whatever the weights."""

from dataclasses import replace

import pytest
import torch
from models.graph.zoo import SPECS, WEIGHTS, adjacency_of, batch_of, each_graph, model_of
from problems import jacobians, seeded
from torch import Tensor

from cdeq.models.graph.batch import GraphContext
from cdeq.models.graph.ignn import IGNN, IGNNSpec

SPEC = SPECS["ignn"]

each_adjacency = pytest.mark.parametrize(
    ("normalisation", "undirected"),
    [("symmetric", True), ("row", True), ("symmetric", False), ("row", False)],
)


def stretch(jacobian: Tensor, positive: Tensor) -> float:
    """The operator norm that belongs to max |z_ic| / v_i."""
    scale = positive.repeat_interleave(len(jacobian) // len(positive))
    return float((jacobian.abs() * scale / scale.unsqueeze(1)).sum(1).max())


@each_graph
@each_adjacency
def test_it_contracts_by_kappa_whatever_the_weights(graph, normalisation, undirected) -> None:
    adjacency = adjacency_of(graph, normalisation=normalisation, undirected=undirected)
    batch, nodes = batch_of(graph, adjacency), adjacency.shape[0]
    positive = torch.ones(nodes, dtype=torch.float64)
    if normalisation == "symmetric":
        positive = adjacency.matrix.to_dense().diagonal().rsqrt()
    for name, change in WEIGHTS.items():
        model, z = model_of(SPEC), seeded(nodes, 4, seed=3, dtype=torch.float64)
        change(model)
        jacobian = jacobians(model.bind(model.encode(batch)), z, batched=False)[0]
        assert stretch(jacobian, positive) <= SPEC.kappa + 1e-12, name


def test_kappa_is_reached_where_nothing_is_cut_off() -> None:
    """The bound is no looser than it has to be."""
    model, batch = model_of(SPEC), batch_of("ring")
    with torch.no_grad():
        model.deq.cell.weight.fill_(1.0)
        model.deq.cell.injection.bias.fill_(100.0)  # every unit stays on
    f = model.bind(model.encode(batch))
    jacobian = jacobians(f, torch.zeros(7, 4, dtype=torch.float64), batched=False)[0]
    assert stretch(jacobian, torch.ones(7)) == pytest.approx(SPEC.kappa)


def test_one_evaluation_is_the_equation() -> None:
    model, batch = model_of(replace(SPEC, kappa=None, unguaranteed=True)), batch_of("odd")
    cell, dense = model.deq.cell, batch.adjacency.matrix.to_dense()
    z = seeded(9, 4, seed=3, dtype=torch.float64)
    with torch.no_grad():
        injected = batch.features @ cell.injection.weight.T + cell.injection.bias
        expected = (dense @ z @ cell.weight.T + dense @ injected).relu()
        found = model.bind(GraphContext(batch.features, batch.adjacency))(z)
    torch.testing.assert_close(found, expected)


def test_a_weight_within_the_bound_is_used_as_it_is() -> None:
    small, free = model_of(SPEC), model_of(replace(SPEC, kappa=None, unguaranteed=True))
    with torch.no_grad():
        weight = small.deq.cell.weight
        weight *= 0.9 / weight.abs().sum(1, keepdim=True) * 0.99
        free.deq.cell.weight.copy_(weight)
        z, x = seeded(9, 4, seed=3, dtype=torch.float64), small.encode(batch_of("odd"))
        assert torch.equal(small.bind(x)(z), free.bind(x)(z))


def test_a_free_weight_starts_at_zero_where_one_evaluation_is_the_equilibrium() -> None:
    free = model_of(replace(SPEC, kappa=None, unguaranteed=True))
    f = free.bind(free.encode(batch_of("odd")))
    z = torch.rand(9, 4, dtype=torch.float64)
    assert torch.equal(f(z), f(f(z)))


@pytest.mark.parametrize("kappa", (1.0, 1.5, None))
def test_giving_up_uniqueness_has_to_be_said(kappa: float | None) -> None:
    with pytest.raises(ValueError, match=f"makes IGNN well-posed.*got {kappa}; .*`unguaranteed`"):
        IGNNSpec(kappa=kappa)
    spec = IGNNSpec(inputs=2, classes=2, kappa=kappa, unguaranteed=True)
    assert IGNN(spec).well_posed.startswith("not known to be well-posed")


@pytest.mark.parametrize("kappa", (0.0, -0.5, float("nan")))
def test_a_bound_is_positive(kappa: float) -> None:
    with pytest.raises(ValueError, match="`kappa` bounds ‖W‖_∞, so it is above 0"):
        IGNNSpec(kappa=kappa, unguaranteed=True)
