"""A graph as a batch: all of its nodes are computed, some of them are asked about."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

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


def require_fitting(batch: GraphBatch, inputs: int, weight: Tensor) -> None:
    """Refuse a graph that the network cannot take.

    Arguments:
        batch: The graph.
        inputs: Features of a node that the network was built for.
        weight: One of its parameters.

    Raises:
        ValueError: When the features are not that many, the adjacency is of another number of
            nodes, or either is in another precision or on another device than the parameter.
    """
    nodes, found = batch.features.shape
    if found != inputs:
        raise ValueError(f"the model was built for {inputs} features a node; got {found}.")
    if tuple(batch.adjacency.shape) != (nodes, nodes):
        raise ValueError(
            f"features of {nodes} nodes need an adjacency of {nodes} by {nodes}; got one of shape "
            f"{tuple(batch.adjacency.shape)}."
        )
    features = batch.features if isinstance(batch.features, Tensor) else batch.features.matrix
    for name, there in (("features", features), ("adjacency", batch.adjacency.matrix)):
        if (there.dtype, there.device) != (weight.dtype, weight.device):
            raise ValueError(
                f"the model's weights are {weight.dtype} on {weight.device}; got {name} in "
                f"{there.dtype} on {there.device}; move one to the other first."
            )


def thinned(
    features: Tensor | SparseMatrix, share: float, training: bool
) -> Tensor | SparseMatrix:
    """The features in training without a random share of their entries, dense or sparse."""
    if not training or share == 0.0:
        return features
    return F.dropout(features, share) if isinstance(features, Tensor) else features.dropped(share)
