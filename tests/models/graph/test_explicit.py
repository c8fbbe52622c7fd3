"""GCN, GAT, GCNII and GPM: their formulas computed densely, and the laws that all four keep."""

from collections.abc import Callable
from math import log
from pathlib import Path

import pytest
import torch
from models.graph.explicit_zoo import (
    ARXIV,
    ODD,
    close,
    each_convolutional,
    each_model,
    model_of,
)
from models.graph.zoo import INPUTS, adjacency_of, batch_of, each_graph, edges_of, sparse
from problems import seeded
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.errors import StoreError
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.batch import GraphBatch, thinned
from cdeq.models.graph.convolutional import GAT, GCN, GCNII, GATSpec, GCNIISpec, GCNSpec
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.graph.geometric import attended
from cdeq.models.graph.gpm import GPM, GPMSpec
from cdeq.models.graph.sparse import SparseMatrix


def normal(x: Tensor, norm: nn.Module) -> Tensor:
    """A batch normalisation in evaluation, from its formula."""
    if not isinstance(norm, nn.BatchNorm1d):
        return x
    return (x - norm.running_mean) * norm.weight / (norm.running_var + 1e-5).sqrt() + norm.bias


def dense_gcn(model: nn.Module, x: Tensor, A: Tensor) -> Tensor:
    for layer, norm in zip(model.layers, model.norms, strict=True):
        x = A @ x @ layer.projection.weight.T + layer.convolution.bias
        x = normal(x, norm).clamp_min(0)
    return A @ x @ model.last.projection.weight.T + model.last.convolution.bias


def dense_gcnii(model: nn.Module, x: Tensor, A: Tensor) -> Tensor:
    spec = model.spec
    x = first = (x @ model.first.weight.T + model.first.bias).clamp_min(0)
    eye = torch.eye(spec.hidden, dtype=x.dtype)
    for number, (layer, norm) in enumerate(zip(model.layers, model.norms, strict=True), start=1):
        beta = log(spec.theta / number + 1)
        other = layer.weight1 if spec.shared else layer.weight2
        propagated = (1 - spec.alpha) * A @ x @ ((1 - beta) * eye + beta * layer.weight1)
        x = propagated + spec.alpha * first @ ((1 - beta) * eye + beta * other)
        x = normal(x, norm).clamp_min(0)
    return x @ model.head.weight.T + model.head.bias


def dense_attention(layer: nn.Module, x: Tensor, A: Tensor) -> Tensor:
    heads = []
    for head in range(layer.convolution.heads):
        width = layer.convolution.out_channels
        mapped = x @ layer.projection.weight[head * width : (head + 1) * width].T
        source = mapped @ layer.convolution.att_src[0, head]
        target = mapped @ layer.convolution.att_dst[0, head]
        scores = F.leaky_relu(target[:, None] + source[None, :], 0.2)
        heads.append(scores.masked_fill(A == 0, -torch.inf).softmax(1) @ mapped)
    return torch.cat(heads, 1) + layer.convolution.bias


def dense_gat(model: nn.Module, x: Tensor, A: Tensor) -> Tensor:
    for layer, norm in zip(model.layers, model.norms, strict=True):
        x = F.elu(normal(dense_attention(layer, x, A), norm))
    return dense_attention(model.last, x, A)


DENSE = {"gcn": dense_gcn, "gat": dense_gat, "gcnii": dense_gcnii}


@each_convolutional
@each_graph
@pytest.mark.parametrize("undirected", [True, False], ids=["both-ways", "one-way"])
def test_a_network_is_its_formula(name: str, graph: str, undirected: bool) -> None:
    model = model_of(name)
    adjacency = adjacency_of(graph, normalisation="row", undirected=undirected)
    batch = batch_of(graph, adjacency)
    dense = adjacency @ torch.eye(adjacency.shape[0], dtype=torch.float64)
    expected = DENSE[name.split("-")[0]](model, batch.features, dense)
    close(model(batch), expected)
    found = torch.autograd.grad(model(batch).square().sum(), [*model.parameters()])
    wanted = torch.autograd.grad(expected.square().sum(), [*model.parameters()])
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


def test_attention_differentiates() -> None:
    adjacency = adjacency_of("odd", undirected=False)
    weights = seeded(adjacency.entries, 2, seed=3, dtype=torch.float64).requires_grad_()
    values = seeded(adjacency.shape[0], 2, 3, seed=4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w, v: attended(w, v, adjacency.matrix), (weights, values)
    )
    for wanted in (weights, values):  # one at a time, as where the other is a constant
        constant = [part.detach() if part is not wanted else part for part in (weights, values)]
        alone = torch.autograd.grad(attended(*constant, adjacency.matrix).sum(), wanted)
        both = torch.autograd.grad(attended(weights, values, adjacency.matrix).sum(), wanted)
        close(alone[0], both[0])


@each_convolutional
@each_graph
def test_renaming_nodes_renames_answers(name: str, graph: str) -> None:
    model, batch, (edges, nodes) = model_of(name), batch_of(graph), edges_of(graph)
    names = torch.randperm(nodes, generator=torch.Generator().manual_seed(0))
    features = torch.empty_like(batch.features)
    features[names] = batch.features
    adjacency = normalised(names[edges], nodes, dtype=torch.float64)
    renamed = batch._replace(features=features, adjacency=adjacency, nodes=names[batch.nodes])
    with torch.no_grad():
        close(model.answers(renamed), model.answers(batch))


@each_model
def test_sparse_features_are_as_good_as_dense_ones(name: str) -> None:
    model, few = model_of(name), ODD.features * (ODD.features > 0)
    outputs = [model(ODD._replace(features=form)) for form in (few, sparse(few))]
    close(*outputs)
    grads = [torch.autograd.grad(out.square().sum(), [*model.parameters()]) for out in outputs]
    for one, other in zip(*grads, strict=True):
        close(one, other)


@each_model
def test_sparse_features_are_trained_on(name: str) -> None:
    few = ODD._replace(features=sparse(ODD.features * (ODD.features > 0)))
    model = model_of(name).train()
    model.losses(few).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("form", [lambda dense: dense, sparse], ids=["dense", "sparse"])
def test_features_are_thinned_in_training_alone(form: Callable) -> None:
    features, share = form(torch.ones(300, 50, dtype=torch.float64)), 0.2
    for same in (thinned(features, share, False), thinned(features, 0.0, True)):
        assert same is features
    torch.manual_seed(0)
    left = thinned(features, share, True)
    dense = left if isinstance(left, Tensor) else left @ torch.eye(50, dtype=torch.float64)
    assert {round(value, 9) for value in dense.unique().tolist()} == {0.0, 1.25}
    assert float((dense == 0).double().mean()) == pytest.approx(share, abs=0.02)


@each_model
def test_training_drops_what_its_seed_says(name: str) -> None:
    """A network of one layer has nothing to drop, and no other draws anew in evaluation."""
    model, found = model_of(name).train(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model.answers(ODD).detach())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2]) == name.endswith("-1")


DROPPED = {"gcn": 2, "gcn-1": 0, "gat": 2, "gat-1": 0, "gcnii": 4 + 2, "gcnii-shared": 3 + 2}


@each_convolutional
def test_dropout_is_in_all_its_places(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, dropout, shares = model_of(name).train(), F.dropout, list[float]()

    def counted(x: Tensor, p: float, training: bool = True) -> Tensor:
        shares.append(p * training)
        return dropout(x, p, training)

    monkeypatch.setattr(F, "dropout", counted)
    model(ODD)
    assert [share for share in shares if share] == [model.spec.dropout] * DROPPED[name]
    shares.clear()
    model.eval()(ODD)
    assert not any(shares)


@each_model
@each_graph
def test_answers_and_losses_are_about_the_nodes_asked_about(name: str, graph: str) -> None:
    model, batch = model_of(name), batch_of(graph)
    with torch.no_grad():
        everywhere = model(batch)
        close(model.answers(batch), everywhere[batch.nodes])
        close(model.losses(batch), model.loss(everywhere, batch))
        turned = batch._replace(nodes=batch.nodes.flip(0))
        close(model.losses(turned), model.losses(batch).flip(0))


@each_model
def test_labels_elsewhere_are_not_looked_at(name: str) -> None:
    hidden = torch.full_like(ODD.label, -(2**40))
    hidden[ODD.nodes] = ODD.label[ODD.nodes]
    with torch.no_grad():
        close(model_of(name).losses(ODD._replace(label=hidden)), model_of(name).losses(ODD))


@each_model
def test_every_parameter_learns(name: str) -> None:
    model = model_of(name)
    model(ODD).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 1e-8 for parameter in model.parameters())


@each_model
def test_products_are_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, product, count = model_of(name), SparseMatrix.__matmul__, [0]

    def counted(matrix: SparseMatrix, dense: Tensor) -> Tensor:
        count[0] += 1
        return product(matrix, dense)

    monkeypatch.setattr(SparseMatrix, "__matmul__", counted)
    model(ODD)
    assert count[0] == model.products


@each_model
def test_a_network_comes_back(name: str, tmp_path: Path) -> None:
    model = model_of(name).float()
    model.save_pretrained(tmp_path)
    read = type(model).from_pretrained(tmp_path)
    assert read.spec == model.spec and not read.training
    assert all(torch.equal(read.state_dict()[key], t) for key, t in model.state_dict().items())
    other = GCN if name == "gpm" else GPM
    with pytest.raises(StoreError, match=f"holds a {type(model).__name__}, not a"):
        other.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        # 128·256 + 256 + 256·256 + 256 + 256·40 + 40, and 4·256 of two normalisations
        (lambda: GCN(GCNSpec(**ARXIV)), 110_120),
        # 16 layers of two 256·256 and one normalisation, between 128·256 + 256 and 256·40 + 40
        (lambda: GCNII(GCNIISpec(**ARXIV)), 2_148_648),
        # (128 + 3)·64 + (64 + 3)·64 + 64·40 + 3·40, and 4·64 of two normalisations
        (lambda: GAT(GATSpec(**ARXIV)), 15_608),
    ],
    ids=["gcn", "gcnii", "gat"],
)
def test_parameters_are_as_many_as_published(model: Callable[[], nn.Module], count: int) -> None:
    assert sum(p.numel() for p in model().parameters()) == count


def blocks(nodes: int = 120) -> GraphBatch:
    """Two communities; a node's own features say little about which one is its."""
    draw = torch.Generator().manual_seed(0)
    label = torch.arange(nodes) % 2
    chance = torch.where(label[:, None] == label[None, :], 0.12, 0.01)
    edges = (torch.rand(nodes, nodes, generator=draw) < chance).triu(1).nonzero().T
    features = torch.randn(nodes, INPUTS, generator=draw)
    features[:, 0] += 0.8 * (2 * label - 1)
    return GraphBatch(features, normalised(edges, nodes), label, torch.arange(nodes // 2))


TRAINED: dict[str, Callable[[], ExplicitModel]] = {
    "gcn": lambda: GCN(GCNSpec(inputs=INPUTS, hidden=16, classes=2)),
    "gat": lambda: GAT(GATSpec(inputs=INPUTS, hidden=16, classes=2)),
    "gcnii": lambda: GCNII(GCNIISpec(inputs=INPUTS, hidden=16, classes=2, layers=6)),
    "gpm": lambda: GPM(GPMSpec(inputs=INPUTS, hidden=16, classes=2, steps=3, patterns=8)),
}


@pytest.mark.parametrize("name", TRAINED)
def test_networks_learn_from_neighbours(name: str) -> None:
    """A rule on a node's own features alone is right about Φ(.8) = 79 % of the nodes."""
    batch = blocks()
    torch.manual_seed(0)
    model = TRAINED[name]().train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        adam.zero_grad()
        model.losses(batch).mean().backward()
        adam.step()
    others = torch.arange(len(batch.nodes), len(batch.label))
    with torch.no_grad():
        found = model.eval().answers(batch._replace(nodes=others)).argmax(1)
    assert float((found == batch.label[others]).float().mean()) > 0.9
