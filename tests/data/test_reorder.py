"""Renumbering: the same graph node by node, with neighbours near each other."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cdeq.data.chains import chains
from cdeq.data.graph import NodeData, split_parts
from cdeq.data.graph_features import lean
from cdeq.data.reorder import reordered
from cdeq.evaluation.metrics import NODE_ACCURACY
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.convolutional import GCN, GCNSpec
from cdeq.models.graph.ignn import IGNN, IGNNSpec
from cdeq.models.graph.sparse import SparseMatrix

SEEDS = pytest.mark.parametrize("seed", range(4))


def dense(features: Tensor | SparseMatrix) -> Tensor:
    return features if isinstance(features, Tensor) else features.matrix.to_dense()


def tagged(data: NodeData, *, sparse: bool = False) -> NodeData:
    """With a last feature that is the node's number, from 1, by which it is known again."""
    number = torch.arange(1.0, data.nodes + 1).unsqueeze(1)
    features = torch.cat([dense(data.features), number], dim=1)
    return replace(data, features=lean(features) if sparse else features)


def numbers(data: NodeData) -> Tensor:
    """Which node each one was before."""
    return dense(data.features)[:, -1].long() - 1


def shuffled(seed: int, *, sparse: bool = False) -> NodeData:
    """Chains in a random order, where neighbours lie anywhere, some joined twice or to none."""
    generator = torch.Generator().manual_seed(seed)
    data = chains(classes=3, per_class=5, length=6, features=20, noise=0.0 if sparse else 0.3)
    order = torch.randperm(data.nodes, generator=generator)
    kept = torch.rand(data.edges.shape[1], generator=generator) < 0.9
    loops = torch.tensor([[3, 4], [3, 4]])
    edges = torch.cat([order[data.edges[:, kept]], order[data.edges[:, :5]].flip(0), loops], 1)
    label = torch.empty_like(data.label)
    label[order] = data.label
    features = torch.empty(data.nodes, 20)
    features[order] = dense(data.features)
    splits = {name: order[getattr(data, name)] for name in ("train", "validation", "test")}
    return tagged(
        replace(data, features=features, edges=edges, label=label, **splits), sparse=sparse
    )


def bandwidth(edges: Tensor) -> int:
    return int((edges[0] - edges[1]).abs().max())


@SEEDS
@pytest.mark.parametrize("sparse", [False, True])
def test_every_node_keeps_what_belongs_to_it(seed: int, sparse: bool) -> None:
    data = shuffled(seed, sparse=sparse)
    same = reordered(data)
    old = numbers(same)
    assert isinstance(same.features, SparseMatrix) == isinstance(data.features, SparseMatrix)
    assert torch.equal(old.sort().values, torch.arange(data.nodes)), "each is there once"
    assert torch.equal(dense(same.features), dense(data.features)[old])
    assert torch.equal(same.label, data.label[old])
    for name in ("train", "validation", "test"):
        nodes = getattr(same, name)
        assert torch.equal(old[nodes].sort().values, getattr(data, name).sort().values)
        assert bool((nodes.diff() > 0).all())
    assert torch.equal(old[same.edges], data.edges), "edge by edge, in their order"
    assert (same.classes, same.name, same.note) == (data.classes, data.name, data.note)


@SEEDS
def test_neighbours_lie_near_each_other(seed: int) -> None:
    """Paths of six in any order have neighbours anywhere; numbered along each, next door."""
    data = shuffled(seed)
    same = reordered(data)
    assert bandwidth(same.edges) <= bandwidth(data.edges)
    assert bandwidth(same.edges) == 1 < bandwidth(data.edges)
    assert bandwidth(reordered(same).edges) == 1


def test_a_ring_needs_two_and_a_grid_its_width() -> None:
    ring = torch.stack([torch.arange(30), torch.arange(30).roll(-1)])
    assert bandwidth(reordered(of_edges(ring, 30)).edges) == 2
    place = torch.arange(48).view(4, 12)
    across = torch.stack([place[:, :-1].flatten(), place[:, 1:].flatten()])
    down = torch.stack([place[:-1].flatten(), place[1:].flatten()])
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    grid = order[torch.cat([across, down], 1)]
    assert bandwidth(reordered(of_edges(grid, 48)).edges) <= 5 < bandwidth(grid)


def of_edges(edges: Tensor, nodes: int) -> NodeData:
    parts = torch.arange(nodes).split([1, 1, nodes - 2])
    label = torch.arange(nodes) % 2
    return NodeData(torch.ones(nodes, 1), edges, label, 2, *parts, "graph")


def test_graphs_without_edges_are_taken() -> None:
    data = tagged(of_edges(torch.empty(2, 0, dtype=torch.long), 5))
    assert torch.equal(numbers(reordered(data)).sort().values, torch.arange(5))


def test_an_edge_that_comes_256_times_counts_like_one() -> None:
    """As often as a byte has values."""
    once = shuffled(0)
    often = replace(once, edges=once.edges.repeat(1, 256))
    assert torch.equal(numbers(reordered(once)), numbers(reordered(often)))
    assert bandwidth(reordered(often).edges) == 1


def wide(batch: GraphBatch) -> GraphBatch:
    """In float64, so that sums in another order agree to the last digits."""
    a = batch.adjacency
    parts = [part if part is None else part.double() for part in (a.matrix, a.transposed)]
    return batch._replace(features=dense(batch.features).double(), adjacency=SparseMatrix(*parts))


@SEEDS
@pytest.mark.parametrize("undirected", [True, False])
def test_models_answer_the_same_for_the_same_node(seed: int, undirected: bool) -> None:
    data = shuffled(seed)
    same = reordered(data)
    torch.manual_seed(seed)
    teacher = IGNN(IGNNSpec(inputs=21, hidden=4, classes=3, max_steps=300, tol=1e-12))
    for model in (teacher.double().eval(), GCN(GCNSpec(inputs=21, hidden=4, classes=3)).double()):
        model.eval()
        parts = [
            wide(split_parts(each, undirected=undirected).test.graph) for each in (data, same)
        ]
        with torch.no_grad():
            before, after = (model(part) for part in parts)
        torch.testing.assert_close(after, before[numbers(same)], rtol=1e-9, atol=1e-12)
        scores = map(NODE_ACCURACY.score, (before, after), parts)
        assert len({float(score.mean()) for score in scores}) == 1
