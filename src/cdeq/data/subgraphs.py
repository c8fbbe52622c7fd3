"""Mini-batches of a graph that is too large to train on whole: what random walks have seen."""

from dataclasses import dataclass
from hashlib import sha256

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdeq.data.graph import Features, GraphPart
from cdeq.data.indexed import Indices
from cdeq.models.graph.adjacency import Normalisation, normalised
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.sparse import SparseMatrix


@dataclass(frozen=True, kw_only=True)
class SubgraphSet:
    """Sub-graphs on the nodes that random walks visit, each with its own adjacency matrix.

    Walks start at random nodes of the part's split, so no sub-graph is without questions, and
    go from a node to one of those it hears from, each as likely. A sub-graph is a pure function
    of the seed and its number: nothing is kept between two of them, and none of them is stored,
    so `count` may be as large as training is long.

    Losses are not weighted: a node's weight in training is how often walks come by.

    References:
        | GraphSAINT: Graph Sampling Based Inductive Learning Method (Zeng et al., 2020)
        | https://arxiv.org/abs/1907.04931

    Arguments:
        graph: The whole graph, with a self-loop at every node, as `normalised` makes them.
        roots: Walks a sub-graph, ≥ 1.
        length: Steps a walk, ≥ 0.
        count: How many sub-graphs there are, ≥ 1.
        seed: Of the walks.
        normalisation: Of the sub-graphs' adjacency matrices: that of the whole one.

    Raises:
        ValueError: When a count is below its least value, or a row of the adjacency matrix is
            empty.

    Example:
        >>> from cdeq.data.chains import chains
        >>> from cdeq.data.graph import split_parts
        >>> whole = split_parts(chains()).train.graph
        >>> data = SubgraphSet(graph=whole, roots=3, length=2, count=10)
        >>> batch = data.take(torch.tensor([7]))
        >>> batch.adjacency.shape[0] == len(batch.label) <= 9
        True
    """

    graph: GraphBatch
    roots: int
    length: int
    count: int
    seed: int = 0
    normalisation: Normalisation = "symmetric"

    def __post_init__(self) -> None:
        least = {"roots": 1, "length": 0, "count": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"`{name}` is at least {lowest}; got {getattr(self, name)}.")
        if bool((self.graph.adjacency.matrix.crow_indices().diff() == 0).any()):
            raise ValueError(
                "walks need an adjacency matrix with a self-loop at every node, such as "
                "`normalised` makes; got one with empty rows."
            )

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Indices) -> GraphBatch:
        """The sub-graph of this number; its `nodes` are those of the split that are in it.

        Raises:
            IndexError: When not one number below `count` is asked for.
        """
        if len(indices) != 1 or not 0 <= int(indices) < self.count:
            raise IndexError(
                f"a batch is one sub-graph of the numbers 0 … {self.count - 1}; got "
                f"{indices.tolist()}."
            )
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(indices))
        return induced(self.graph, self._visited(generator), self.normalisation)

    def digest(self) -> str:
        """The SHA-256 of all that its sub-graphs are made from."""
        settings = (self.roots, self.length, self.count, self.seed, self.normalisation)
        whole = f"{GraphPart(self.graph).digest()} {settings}"
        return sha256(whole.encode()).hexdigest()

    def _visited(self, generator: torch.Generator) -> Int[Tensor, " m"]:
        starts = self.graph.nodes
        here = starts[torch.randint(len(starts), (self.roots,), generator=generator)]
        visited = [here]
        for _ in range(self.length):
            here = _step(self.graph.adjacency, here, generator)
            visited.append(here)
        return torch.cat(visited).unique()


def _step(adjacency: SparseMatrix, here: Tensor, generator: torch.Generator) -> Tensor:
    """From each node to one of its neighbours; an isolated node stays where it is."""
    crow, columns, _ = adjacency.parts()
    first, last = crow[here], crow[here + 1] - 1
    # of a row's entries all but the last can be drawn, and where the node itself is drawn the
    # last stands in for it: each of the others is as likely
    drawn = torch.rand(len(here), dtype=torch.float64, generator=generator)
    there = columns[first + (drawn * (last - first)).long()]
    return torch.where(there == here, columns[last], there)


def induced(
    graph: GraphBatch, nodes: Int[Tensor, " m"], normalisation: Normalisation = "symmetric"
) -> GraphBatch:
    """The graph on some of its nodes: all edges between them, normalised anew.

    Arguments:
        graph: The whole graph.
        nodes: Which nodes, each once; they keep this order.
        normalisation: Of the new adjacency matrix.

    Example:
        >>> from cdeq.data.chains import chains
        >>> from cdeq.data.graph import split_parts
        >>> whole = split_parts(chains(length=10)).test.graph
        >>> induced(whole, torch.tensor([0, 1, 3, 4, 5])).adjacency.entries - 5
        6
    """
    place = torch.full((len(graph.label),), -1)
    place[nodes] = torch.arange(len(nodes))
    rows, columns, _ = _rows_of(graph.adjacency, nodes)
    columns = place[columns]
    symmetric = graph.adjacency.transposed is None
    # where A = Aᵀ each edge is taken in one direction only, and put back in both
    kept = columns > rows if symmetric else (columns >= 0) & (columns != rows)
    edges = torch.stack([columns[kept], rows[kept]])
    adjacency = normalised(edges, len(nodes), normalisation=normalisation, undirected=symmetric)
    asked = place[graph.nodes]
    asked = asked[asked >= 0].sort().values
    return GraphBatch(_features_of(graph.features, nodes), adjacency, graph.label[nodes], asked)


def _features_of(features: Features, nodes: Tensor) -> Features:
    if isinstance(features, Tensor):
        return features[nodes]
    return SparseMatrix.of(*_rows_of(features, nodes), shape=(len(nodes), features.shape[1]))


def _rows_of(matrix: SparseMatrix, nodes: Tensor) -> tuple[Tensor, Tensor, Float[Tensor, " e"]]:
    """The entries in some rows: position of the row among them, column and value."""
    crow, columns, values = matrix.parts()
    counts = crow[nodes + 1] - crow[nodes]
    rows = torch.repeat_interleave(torch.arange(len(nodes)), counts)
    shift = crow[nodes] - (counts.cumsum(0) - counts)
    entries = torch.arange(len(rows)) + shift[rows]
    return rows, columns[entries], values[entries]
