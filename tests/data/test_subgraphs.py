"""Sub-graphs: what is between some nodes and nothing else, by walks that the seed decides."""

import pytest
import torch
from torch import Tensor

from cdeq.data.graph import NodeData, split_parts
from cdeq.data.graph_splits import split_by_shares
from cdeq.data.power_law import power_law
from cdeq.data.subgraphs import SubgraphSet, _step, induced
from cdeq.models.graph.adjacency import Normalisation, normalised
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.sparse import SparseMatrix

NODES = 60


def make(
    *, normalisation: Normalisation = "symmetric", undirected: bool = True, sparse: bool = False
) -> GraphBatch:
    """A graph with hubs, whose last five nodes are isolated."""
    edges = power_law(NODES - 5, 140)
    edges[:, ::2] = edges[:, ::2].flip(0)
    label = torch.arange(NODES) % 4
    features = torch.rand(NODES, 3, generator=torch.Generator().manual_seed(0))
    rows, columns = features.nonzero(as_tuple=True)
    values = features[rows, columns]
    kept = SparseMatrix.of(rows, columns, values, shape=(NODES, 3)) if sparse else features
    data = NodeData(kept, edges, label, 4, *split_by_shares(label), "test")
    return split_parts(data, normalisation=normalisation, undirected=undirected).train.graph


def dense(matrix: SparseMatrix | Tensor) -> Tensor:
    return matrix if isinstance(matrix, Tensor) else matrix @ torch.eye(matrix.shape[1])


each_kind = pytest.mark.parametrize("normalisation", ["symmetric", "row"])
each_way = pytest.mark.parametrize("undirected", [True, False])
CHOICES = [
    torch.arange(NODES),
    torch.arange(0, NODES, 3),
    torch.tensor([58, 3, 0, 57, 12, 1]),
    torch.randperm(NODES, generator=torch.Generator().manual_seed(1))[:40],
    torch.tensor([59]),
]


@each_kind
@each_way
@pytest.mark.parametrize("nodes", CHOICES, ids=len)
def test_a_subgraph_is_the_edges_between_its_nodes(
    nodes: Tensor, normalisation, undirected: bool
) -> None:
    whole = make(normalisation=normalisation, undirected=undirected)
    joined = dense(whole.adjacency)[nodes][:, nodes] > 0
    targets, sources = joined.nonzero(as_tuple=True)
    wanted = normalised(
        torch.stack([sources, targets]),
        len(nodes),
        normalisation=normalisation,
        undirected=False,
    )
    part = induced(whole, nodes, normalisation)
    torch.testing.assert_close(dense(part.adjacency), dense(wanted))
    torch.testing.assert_close(dense(part.adjacency.t()), dense(wanted).t())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("nodes", CHOICES, ids=len)
def test_nodes_keep_features_classes_and_questions(nodes: Tensor, sparse: bool) -> None:
    whole = make(sparse=sparse)
    part = induced(whole, nodes)
    assert isinstance(part.features, SparseMatrix) == sparse
    assert torch.equal(dense(part.features), dense(whole.features)[nodes])
    assert torch.equal(part.label, whole.label[nodes])
    assert set(nodes[part.nodes].tolist()) == set(nodes.tolist()) & set(whole.nodes.tolist())
    assert len(part.nodes.unique()) == len(part.nodes)


@each_kind
@each_way
def test_the_whole_is_a_subgraph_of_itself(normalisation, undirected: bool) -> None:
    whole = make(normalisation=normalisation, undirected=undirected)
    part = induced(whole, torch.arange(NODES), normalisation)
    pairs = zip(part.adjacency.parts(), whole.adjacency.parts(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(part.nodes, whole.nodes)


def walks(whole: GraphBatch, **settings: int) -> SubgraphSet:
    return SubgraphSet(graph=whole, **{"roots": 4, "length": 3, "count": 50, **settings})


@pytest.mark.parametrize("length", [0, 1, 2, 5])
@each_way
def test_walks_go_along_edges_from_nodes_of_the_split(length: int, undirected: bool) -> None:
    whole = make(undirected=undirected)
    near = torch.eye(NODES)[whole.nodes].amax(0)
    for _ in range(length):
        near = (near @ dense(whole.adjacency) > 0).float()
    data = walks(whole, length=length)
    for index in range(len(data)):
        visited = data._visited(torch.Generator().manual_seed(index))
        assert bool((near[visited] == 1).all()) and len(visited) <= 4 * (length + 1)
        assert bool(torch.isin(whole.nodes, visited).any())


def test_walks_reach_all_nodes_that_can_be_reached() -> None:
    """Eight steps cross this graph, so 400 walks of that length see the ends of it."""
    whole = make()
    reach = torch.eye(NODES)[whole.nodes].amax(0)
    for _ in range(8):
        reach = (reach @ dense(whole.adjacency) > 0).float()
    data = walks(whole, length=8, roots=400)
    assert torch.equal(data._visited(torch.Generator().manual_seed(0)), reach.nonzero().flatten())


@each_way
def test_a_step_is_to_each_neighbour_as_likely(undirected: bool) -> None:
    adjacency = make(undirected=undirected).adjacency
    generator = torch.Generator().manual_seed(0)
    tries = 4000
    for node in range(0, NODES, 5):
        neighbours = (dense(adjacency)[node] > 0).nonzero().flatten()
        neighbours = neighbours[neighbours != node]
        went = _step(adjacency, torch.full((tries,), node), generator)
        seen = went.bincount(minlength=NODES)
        if len(neighbours) == 0:
            assert int(seen[node]) == tries
            continue
        share = 1 / len(neighbours)
        spread = (tries * share * (1 - share)) ** 0.5
        assert int(seen[neighbours].sum()) == tries
        assert float((seen[neighbours] - tries * share).abs().max()) <= 5 * spread


def test_a_subgraph_is_a_function_of_seed_and_number() -> None:
    whole = make()
    torch.manual_seed(0)
    before = torch.get_rng_state()

    def labels(seed: int, index: int) -> list[float]:
        batch = walks(whole, seed=seed).take(torch.tensor([index]))
        return dense(batch.features).flatten().tolist()

    forwards = [labels(0, index) for index in range(5)]
    backwards = [labels(0, index) for index in reversed(range(5))]
    assert forwards == backwards[::-1]
    assert labels(1, 0) != forwards[0] and len({tuple(one) for one in forwards}) == 5
    assert torch.equal(torch.get_rng_state(), before)


@each_kind
def test_a_batch_is_the_subgraph_of_its_walks(normalisation) -> None:
    whole = make(normalisation=normalisation)
    data = SubgraphSet(
        graph=whole, roots=4, length=3, count=9, seed=2, normalisation=normalisation
    )
    for index in range(len(data)):
        visited = data._visited(torch.Generator().manual_seed(2 * 1_000_003 + index))
        batch, wanted = data.take(torch.tensor([index])), induced(whole, visited, normalisation)
        torch.testing.assert_close(dense(batch.adjacency), dense(wanted.adjacency))
        assert torch.equal(dense(batch.features), dense(wanted.features))
        assert torch.equal(batch.nodes, wanted.nodes) and len(batch.nodes) > 0


@pytest.mark.parametrize("indices", [[], [50], [-1], [0, 1]])
def test_a_batch_is_one_of_the_subgraphs(indices: list[int]) -> None:
    with pytest.raises(IndexError, match="one sub-graph of the numbers 0 … 49"):
        walks(make()).take(torch.tensor(indices, dtype=torch.long))


@pytest.mark.parametrize(("name", "value"), [("roots", 0), ("length", -1), ("count", 0)])
def test_impossible_walks_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is at least {value + 1}; got {value}"):
        walks(make(), **{name: value})


def test_a_matrix_without_loops_is_refused() -> None:
    one = torch.tensor([0])
    bare = SparseMatrix.of(one, one + 1, torch.ones(1), shape=(NODES, NODES))
    with pytest.raises(ValueError, match="a self-loop at every node"):
        walks(make()._replace(adjacency=bare))
