"""A graph and its parts: what is wrong is said, what is shared is shared, no label is told."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cdeq.data.graph import GraphPart, NodeData, split_parts
from cdeq.data.graph_features import lean, rows_as_shares
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.sparse import SparseMatrix


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def sparse(dense: Tensor) -> SparseMatrix:
    rows, columns = dense.nonzero(as_tuple=True)
    shape = (dense.shape[0], dense.shape[1])
    return SparseMatrix.of(rows, columns, dense[rows, columns], shape=shape)


def spoilt(value: float) -> Tensor:
    features = torch.eye(6)
    features[[1, 1, 4], [1, 2, 4]] = value
    return features


# a path of five nodes; the sixth is isolated
PATH = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
GRAPH = NodeData(
    torch.arange(12.0).view(6, 2) + 1,
    PATH,
    ints(0, 1, 1, 0, 1, -1),
    2,
    ints(0, 1),
    ints(2),
    ints(4, 3),
    "path",
)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"edges": ints(0, 6).view(2, 1)},
            "join nodes 0 … 5; got 1 that do not, the first from 0 to 6",
        ),
        ({"edges": PATH.int()}, r"\(2, edges\) tensor of int64"),
        ({"edges": PATH.t()}, r"got \(4, 2\)"),
        ({"features": spoilt(math.nan)}, "finite numbers; 2 of 6 nodes hold NaN or infinity"),
        ({"features": spoilt(-math.inf)}, "finite numbers; 2 of 6 nodes hold NaN or infinity"),
        ({"features": sparse(spoilt(math.nan))}, "finite numbers; 2 of 6 nodes hold NaN"),
        ({"features": torch.zeros(0, 2)}, "at least one node; got none"),
        ({"label": ints(0, 1)}, "one class; got 6 nodes and 2 labels"),
        (
            {"classes": 1},
            "class in 0 … 0; 1 of the training split have none of them, such as node 1 with 1",
        ),
        (
            {"label": ints(0, 1, 1, 0, -1, 1)},
            "1 of the test split have none of them, such as node 4 with -1",
        ),
        ({"test": ints(4, 5)}, "the test split have none of them, such as node 5 with -1"),
        ({"train": ints()}, "the training split is empty"),
        ({"validation": ints()}, "the validation split is empty"),
        ({"test": ints()}, "the test split is empty"),
        ({"test": ints(3, 6)}, "nodes 0 … 5; the test split holds 6"),
        ({"train": ints(-1)}, "nodes 0 … 5; the training split holds -1"),
        ({"test": ints(3, 2, 1)}, "2 are named more often, the first is node 1"),
        ({"train": ints(0, 0)}, "1 are named more often, the first is node 0"),
    ],
)
def test_a_bad_graph_is_refused(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(GRAPH, **changed)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"features": torch.eye(6).double()}, r"float32 a node, .* \(6, 6\) of torch.float64"),
        ({"features": torch.zeros(6)}, r"one row of float32 a node, .* got \(6,\)"),
        ({"label": torch.zeros(6)}, r"one int64 a node; got \(6,\) of torch.float32"),
        ({"label": ints(0, 1, 1, 0, 1, 0).view(6, 1)}, r"one int64 a node; got \(6, 1\)"),
        ({"train": ints(0).int()}, r"the training split is \(1,\) of torch.int32"),
        ({"test": torch.zeros(6, dtype=torch.bool)}, r"the test split is \(6,\) of torch.bool"),
    ],
)
def test_other_kinds_of_numbers_are_refused(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        replace(GRAPH, **changed)


def test_parts_share_all_but_their_questions() -> None:
    parts = split_parts(GRAPH)
    graphs = [part.take(ints(0)) for part in parts]
    for graph, nodes in zip(graphs, (GRAPH.train, GRAPH.validation, GRAPH.test), strict=True):
        assert graph.features is GRAPH.features
        assert graph.adjacency.matrix is graphs[0].adjacency.matrix
        assert torch.equal(graph.nodes, nodes)
        assert torch.equal(graph.label[nodes], GRAPH.label[nodes])


def test_a_part_knows_no_class_but_of_its_own_nodes() -> None:
    for part in split_parts(GRAPH):
        told = (part.graph.label >= 0).nonzero().flatten()
        assert torch.equal(told, part.graph.nodes.sort().values)


@pytest.mark.parametrize("normalisation", ["symmetric", "row"])
@pytest.mark.parametrize("undirected", [True, False])
def test_the_adjacency_is_the_one_asked_for(normalisation, undirected: bool) -> None:
    part = split_parts(GRAPH, normalisation=normalisation, undirected=undirected).test
    wanted = normalised(PATH, 6, normalisation=normalisation, undirected=undirected)
    assert torch.equal(part.graph.adjacency @ torch.eye(6), wanted @ torch.eye(6))


def test_isolated_nodes_loops_and_repeated_edges_are_welcome() -> None:
    untidy = torch.cat([PATH, ints(2, 2).view(2, 1), PATH, PATH.flip(0)], dim=1)
    plain, other = (split_parts(replace(GRAPH, edges=edges)).train for edges in (PATH, untidy))
    assert plain.digest() == other.digest()
    row = other.graph.adjacency @ torch.eye(6)
    assert row[5].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("indices", [ints(), ints(1), ints(0, 0), ints(-1)])
def test_there_is_one_sample(indices: Tensor) -> None:
    with pytest.raises(IndexError, match="a graph is one sample, number 0"):
        split_parts(GRAPH).train.take(indices)


def test_equal_parts_have_equal_digests_and_others_their_own() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"features": GRAPH.features + 1.0},
        {"features": sparse(torch.arange(12.0).view(6, 2) + 1)},
        {"edges": PATH[:, 1:]},
        {"label": ints(1, 1, 1, 0, 1, -1)},
        {"train": ints(1, 0)},
    ]
    digests = [split_parts(replace(GRAPH, **change)).train.digest() for change in changes]
    assert len(set(digests)) == len(changes)
    assert digests == [split_parts(replace(GRAPH, **change)).train.digest() for change in changes]
    assert len({part.digest() for part in split_parts(GRAPH)}) == 3


def test_empty_columns_count_in_a_digest() -> None:
    """Compressed sparse rows do not say how wide the matrix is."""
    wide = sparse(torch.eye(6, 7))
    narrow = sparse(torch.eye(6, 6))
    graph = split_parts(GRAPH).train.graph
    first, second = (GraphPart(graph._replace(features=each)) for each in (wide, narrow))
    assert first.digest() != second.digest()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.0999, 0.1, 0.5, 1.0])
def test_features_are_sparse_below_a_tenth_and_the_same_either_way(share: float) -> None:
    features = torch.zeros(10_000)
    features[: round(10_000 * share)] = torch.randn(round(10_000 * share)).abs() + 0.1
    features = features.view(50, 200)
    kept = lean(features)
    assert isinstance(kept, SparseMatrix) == (share < 0.1)
    dense = kept if isinstance(kept, Tensor) else kept @ torch.eye(200)
    assert torch.equal(dense, features)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_not_taken_for_zero(value: float) -> None:
    features = torch.zeros(20, 20)
    features[3, 4] = value
    with pytest.raises(ValueError, match="1 of 20 nodes hold NaN or infinity"):
        NodeData(lean(features), PATH, torch.zeros(20).long(), 1, ints(0), ints(1), ints(2), "bad")


def test_shares_of_sparse_and_dense_rows_agree_and_add_up() -> None:
    counts = torch.tensor([[2.0, 0.0, 6.0], [0.0, 0.0, 0.0], [1.0, 1.0, 2.0]])
    dense, other = rows_as_shares(counts), rows_as_shares(sparse(counts))
    assert isinstance(other, SparseMatrix) and isinstance(dense, Tensor)
    assert torch.equal(other @ torch.eye(3), dense)
    assert dense.tolist() == [[0.25, 0.0, 0.75], [0.0, 0.0, 0.0], [0.25, 0.25, 0.5]]
