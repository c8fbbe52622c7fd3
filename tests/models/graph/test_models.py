"""Laws of every graph model on every graph: one equilibrium, the same from everywhere."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.graph.zoo import (
    CLASSES,
    INPUTS,
    KINDS,
    SPECS,
    Spec,
    adjacency_of,
    batch_of,
    each_graph,
    each_spec,
    edges_of,
    model_of,
    sparse,
    stretched,
)
from problems import Counted, seeded
from torch import Tensor

from cdeq import Anderson, Picard, absolute, bind, residual_norm, solve
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.base import GraphDEQ
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.eignn import EIGNNSpec
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.plain import from_plain, to_plain

ODD = batch_of("odd")
each_kind = pytest.mark.parametrize("spec", [SPECS[n] for n in ("ignn", "eignn", "cold")])


def close(one: Tensor, other: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def equilibrium(model: GraphDEQ, batch: GraphBatch) -> Tensor:
    x = model.encode(batch)
    return model.deq(x, model.initial(x)).check().z


@each_spec
@each_graph
def test_renaming_nodes_renames_states_and_answers(spec: Spec, graph: str) -> None:
    model, batch = model_of(spec), batch_of(graph)
    edges, nodes = edges_of(graph)
    names = torch.randperm(nodes, generator=torch.Generator().manual_seed(0))
    adjacency = normalised(names[edges], nodes, dtype=torch.float64)
    features = torch.empty_like(batch.features)
    features[names] = batch.features
    renamed = batch._replace(features=features, adjacency=adjacency)
    z, moved = equilibrium(model, batch), equilibrium(model, renamed)
    close(moved[names], z)
    with torch.no_grad():
        close(model.decode(moved, renamed)[names], model.decode(z, batch))


@each_spec
@each_graph
def test_there_is_one_equilibrium_wherever_one_starts(spec: Spec, graph: str) -> None:
    model, batch = model_of(spec), batch_of(graph)
    expected = equilibrium(model, batch)
    f = model.bind(model.encode(batch))
    with torch.no_grad():
        for seed, solver in enumerate((Picard(), Anderson(window=3))):
            start = 10 * seeded(*expected.shape, seed=seed, dtype=torch.float64)
            found = solve(f, start, solver, max_steps=600, tol=1e-11, batched=False)
            close(found.check().z, expected)


@each_spec
def test_parts_of_a_graph_do_not_see_each_other(spec: Spec) -> None:
    """The node without edges is at its own equilibrium, as if alone."""
    model = model_of(spec)
    nodes = ODD.adjacency.shape[0]
    last = GraphBatch(ODD.features[-1:], adjacency_of("alone"), ODD.label[-1:], torch.arange(1))
    whole = equilibrium(model, ODD)
    close(whole[nodes - 1 :], equilibrium(model, last))
    moved = ODD.features.clone()
    moved[:-1] += 1.0
    again = equilibrium(model, ODD._replace(features=moved))
    close(again[-1], whole[-1])
    assert float((again - whole)[:-1].abs().amax(1).min()) > 1e-4


def unrolled(model: GraphDEQ, batch: GraphBatch, steps: int) -> Tensor:
    """The answer after plain iterations that gradients go all the way through."""
    x = model.encode(batch)
    f, z = model.bind(x), model.initial(x)
    for _ in range(steps):
        z = f(z)
    return model.decode(z, x)


def gradients(model: GraphDEQ, output: Tensor, batch: GraphBatch) -> dict[str, Tensor]:
    loss = model.loss(output, batch).mean()
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))


@each_spec
def test_the_implicit_gradient_is_that_of_the_unrolled_solver(spec: Spec) -> None:
    model = model_of(spec)
    implicit = gradients(model, model(ODD), ODD)
    through = gradients(model, unrolled(model, ODD, steps=250), ODD)
    for name, expected in through.items():
        assert float(expected.abs().max()) > 0.0, name
        close(implicit[name], expected, 1e-8)


PRODUCTS = {
    **dict.fromkeys(("ignn", "eignn", "eignn-raw", "forward-backward"), 1),
    "peaceman-rachford": 3,
    "douglas-rachford": 2,
    "cold": 2,
    "direct": 0,
}


@pytest.mark.parametrize("name", SPECS)
def test_each_evaluation_costs_the_products_it_says(name: str, monkeypatch) -> None:
    counter = Counted(SparseMatrix.__matmul__)
    monkeypatch.setattr(SparseMatrix, "__matmul__", lambda a, y: counter(a, y))
    model = model_of(SPECS[name])
    f, z = model.bind(model.encode(ODD)), seeded(9, model.hidden, seed=2, dtype=torch.float64)
    before = counter.calls
    with torch.no_grad():
        solve(f, z, Anderson(window=2), max_steps=7, batched=False)
    assert counter.calls - before == 7 * model.products
    assert model.products == PRODUCTS[name]


@each_spec
def test_residuals_by_node_add_up_to_that_of_the_graph(spec: Spec) -> None:
    model, batch = model_of(spec), batch_of("apart")
    f = model.bind(model.encode(batch))
    z = equilibrium(model, batch)
    z[:3] += 1.0  # the triangle alone
    with torch.no_grad():
        by_node = residual_norm(f, z, norm=absolute)
        total = residual_norm(f, z, norm=absolute, batched=False)
    close(by_node.square().sum().sqrt(), total[0])
    assert float(by_node[:3].min()) > 1e-2
    assert float(by_node[3:].max()) < 1e-10


@each_spec
def test_folding_changes_no_output(spec: Spec) -> None:
    model = model_of(spec)
    with torch.no_grad():
        x, expected = model.encode(ODD), model(ODD)
        z = seeded(9, model.hidden, seed=2, dtype=torch.float64)
        value = model.bind(x)(z)
        for _ in range(2):  # folding again changes nothing
            model.deq.cell.fold()
            close(model.bind(x)(z), value, 1e-14)
            close(model(ODD), expected, 1e-12)


def unheld(spec: Spec) -> Spec:
    """The same model without what makes its equilibrium unique."""
    free = {"gamma": 20.0} if isinstance(spec, EIGNNSpec) else {"kappa": 20.0}
    return replace(spec, **free, unguaranteed=True)


@each_spec
@torch.no_grad()
def test_a_folded_weight_may_be_anything(spec: Spec) -> None:
    """Even that of a model whose weight is not held to anything."""
    held, donor = model_of(spec), model_of(unheld(spec))
    z, x = seeded(9, held.hidden, seed=2, dtype=torch.float64), held.encode(ODD)
    before, expected = held.bind(x)(z), donor.bind(x)(z)
    assert not torch.allclose(before, expected)
    held.deq.cell.fold()
    donor.deq.cell.fold()
    held.deq.cell.weight.copy_(donor.deq.cell.weight)
    close(held.bind(x)(z), expected, 1e-12)


@each_spec
def test_a_folded_cell_trains_all_that_it_has(spec: Spec) -> None:
    model = model_of(spec)
    model.deq.cell.fold()
    z = seeded(9, model.hidden, seed=2, dtype=torch.float64)
    model.bind(model.encode(ODD))(z).sum().backward()
    assert all(float(p.grad.abs().max()) > 0.0 for p in model.deq.cell.parameters())


@each_spec
def test_a_model_comes_back(spec: Spec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    # float32 resolves no more
    model = KINDS[type(spec)](replace(spec, tol=1e-5)).eval()
    stretched(model)
    model.save_pretrained(tmp_path)
    read = type(model).from_pretrained(tmp_path)
    batch = single(ODD)
    assert read.spec == model.spec
    with torch.no_grad():
        assert torch.equal(read(batch), model(batch))


@each_spec
def test_settings_survive_json(spec: Spec) -> None:
    assert from_plain(type(spec), to_plain(spec)) == spec


def single(batch: GraphBatch) -> GraphBatch:
    """In float32."""
    adjacency = normalised(*edges_of("odd"))
    return batch._replace(features=batch.features.float(), adjacency=adjacency)


@each_spec
def test_single_precision_finds_the_same_answer(spec: Spec) -> None:
    double = model_of(spec)
    model = KINDS[type(spec)](replace(spec, tol=1e-6)).eval()
    model.load_state_dict(double.state_dict())
    with torch.no_grad():
        close(model(single(ODD)).double(), double(ODD), 1e-3)


@each_spec
def test_sparse_features_are_features(spec: Spec) -> None:
    model = model_of(spec)
    holey = ODD.features * (ODD.features > 0)
    with torch.no_grad():
        expected = model(ODD._replace(features=holey))
        close(model(ODD._replace(features=sparse(holey))), expected)


@each_spec
def test_only_the_nodes_asked_about_are_scored(spec: Spec) -> None:
    model = model_of(spec)
    output = model(ODD)
    losses = model.loss(output, ODD)
    expected = -output.log_softmax(1)[ODD.nodes, ODD.label[ODD.nodes]]
    close(losses, expected)
    elsewhere = ODD.label.clone()
    elsewhere[1::2] = 0
    assert torch.equal(model.loss(output, ODD._replace(label=elsewhere)), losses)


@each_spec
def test_dropout_leaves_f_one_map_throughout_a_solve(spec: Spec) -> None:
    settings = {"input_dropout": 0.5, "dropout": 0.5, "max_steps": 900}
    model = model_of(replace(spec, **settings))
    with torch.no_grad():
        assert torch.equal(model(ODD), model(ODD))
        model.train()
        x, other = model.encode(ODD), model.encode(ODD)
        z = model.deq(x, model.initial(x)).check().z
        close(model.bind(x)(z), z)
        assert not torch.allclose(model.bind(other)(z), z)
        kept = x.features != 0
        close(x.features[kept], 2 * ODD.features[kept])
        assert 0.2 < float(kept.double().mean()) < 0.8
        assert not torch.equal(model.decode(z, x), model.decode(z, x))


@each_spec
def test_the_state_is_one_sample(spec: Spec) -> None:
    model = model_of(spec)
    x = model.encode(ODD)
    solution = model.deq(x, model.initial(x))
    assert solution.errors.shape[1] == 1 and not model.deq.batched
    with torch.no_grad():
        assert torch.equal(bind(model.deq.cell, x)(solution.z), model.bind(x)(solution.z))


@each_spec
def test_the_well_posed_say_why(spec: Spec) -> None:
    assert model_of(spec).well_posed.startswith("well-posed: ")


@each_kind
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"features": torch.ones(9, 4).double()}, f"for {INPUTS} features a node; got 4"),
        ({"features": torch.ones(8, 5).double()}, r"an adjacency of 8 by 8; .* shape \(9, 9\)"),
        ({"features": torch.ones(9, 5)}, "torch.float64 on cpu; got features in torch.float32"),
        (
            {"features": torch.ones(9, 5, device="meta").double()},
            "got features in torch.float64 on meta",
        ),
        (
            {"adjacency": normalised(*edges_of("odd"))},
            "torch.float64 on cpu; got adjacency in torch.float32",
        ),
    ],
    ids=("features", "nodes", "precision", "device", "adjacency"),
)
def test_another_kind_of_batch_is_refused(spec: Spec, change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        model_of(spec).encode(ODD._replace(**change))


@each_kind
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        *(({name: 0}, f"`{name}` is a count of") for name in ("inputs", "hidden", "classes")),
        *(({name: 0}, f"`{name}` is a count of") for name in ("max_steps", "adjoint_steps")),
        *(({name: 1.0}, f"`{name}` is a share in") for name in ("dropout", "input_dropout")),
        ({"dropout": -0.1}, "`dropout` is a share in"),
        ({"input_dropout": float("nan")}, "`input_dropout` is a share in"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(spec: Spec, settings: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(spec, **settings)


@each_kind
@pytest.mark.parametrize("name", ("inputs", "classes"))
def test_what_is_left_to_the_data_has_to_be_filled_in(spec: Spec, name: str) -> None:
    left = replace(spec, **{name: None})
    with pytest.raises(ValueError, match="built for known `inputs` and `classes`"):
        KINDS[type(spec)](left)
    assert replace(left, inputs=INPUTS, classes=CLASSES) == spec
