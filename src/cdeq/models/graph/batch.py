"""A graph as a batch: all of its nodes are computed, some of them are asked about."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from cdeq.models.graph.sparse import SparseMatrix


class GraphBatch(NamedTuple):
    """One graph with node features, classes, and the nodes whose answers count."""

    features: Float[Tensor, "n p"] | SparseMatrix
    """One row a node; sparse where most entries are zero (bags of words)."""
    adjacency: SparseMatrix
    """A, normalised, (n, n)."""
    label: Int[Tensor, " n"]
    """The class of every node; read at `nodes` alone."""
    nodes: Int[Tensor, " s"]
    """Nodes that losses and scores look at: those of one split."""


class GraphContext(NamedTuple):
    """What the maps of graph models see of a batch: no label, no split."""

    features: Float[Tensor, "n p"] | SparseMatrix
    adjacency: SparseMatrix
