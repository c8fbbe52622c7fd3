"""One graph with node features and classes, and its three parts: same nodes, other questions."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdeq.data.indexed import Indices
from cdeq.digest import digest_of_tensors
from cdeq.models.graph.adjacency import Normalisation, normalised, require_edges
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.sparse import SparseMatrix

Nodes = Int[Tensor, " s"]
Features = Float[Tensor, "n p"] | SparseMatrix

UNKNOWN = -1
"""The label of a node whose class is not given."""


@dataclass(frozen=True)
class NodeData:
    """A graph whose nodes have features and classes, with the nodes of each split.

    Isolated nodes, repeated edges and self-loops are welcome (see `normalised`), and so is a node
    that is in no split; its label may be -1.

    Arguments:
        features: One row of float32 a node, dense or sparse.
        edges: Source and target of each edge, int64.
        label: The class of each node, int64.
        classes: How many classes there are.
        train: Nodes to fit.
        validation: Nodes to select on.
        test: Nodes to report.
        name: What the graph is called.
        note: What a reader of results has to know about it; empty when it is the published set.

    Raises:
        TypeError: When tensors hold another kind of numbers.
        ValueError: When sizes do not agree, an edge or a split leads out of the graph, a feature
            is not finite, a split is empty or shares a node with another, or a node of a split
            has no class.

    Example:
        >>> parts = torch.tensor([0]), torch.tensor([1]), torch.tensor([2])
        >>> ring = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> data = NodeData(torch.eye(3), ring, torch.tensor([0, 1, 1]), 2, *parts, "ring")
        >>> data.nodes
        3
    """

    features: Features
    edges: Int[Tensor, "2 e"]
    label: Int[Tensor, " n"]
    classes: int
    train: Nodes
    validation: Nodes
    test: Nodes
    name: str
    note: str = ""

    def __post_init__(self) -> None:
        _require_features(self.features)
        require_edges(self.edges, self.nodes)
        if self.label.dtype is not torch.long or self.label.ndim != 1:
            raise TypeError(
                "labels are one int64 a node; got "
                f"{tuple(self.label.shape)} of {self.label.dtype}."
            )
        if len(self.label) != self.nodes:
            raise ValueError(
                f"every node needs one class; got {self.nodes} nodes and {len(self.label)} labels."
            )
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        for split, nodes in splits.items():
            _require_split(split, nodes, self.nodes)
            _require_classes(split, nodes, self.label, self.classes)
        _require_disjoint(torch.cat(list(splits.values())), self.nodes)

    @property
    def nodes(self) -> int:
        """How many there are."""
        return self.features.shape[0]


def _require_features(features: Features) -> None:
    values = features if isinstance(features, Tensor) else features.matrix.values()
    if values.dtype is not torch.float32 or len(features.shape) != 2:
        raise TypeError(
            "node features are one row of float32 a node, dense or a SparseMatrix; got "
            f"{tuple(features.shape)} of {values.dtype}."
        )
    if features.shape[0] == 0:
        raise ValueError("a graph needs at least one node; got none.")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"node features must be finite numbers; {_spoilt(features)} of {features.shape[0]} "
            "nodes hold NaN or infinity."
        )


def _spoilt(features: Features) -> int:
    """How many nodes have a feature that is no finite number."""
    if isinstance(features, Tensor):
        return int((~torch.isfinite(features)).any(1).sum())
    crow, _, values = features.parts()
    bad = (~torch.isfinite(values)).nonzero().flatten()
    return len(torch.searchsorted(crow, bad, right=True).unique())


def _require_split(split: str, nodes: Nodes, total: int) -> None:
    if nodes.dtype is not torch.long or nodes.ndim != 1:
        raise TypeError(
            f"a split is a row of int64 node indices; the {split} split is "
            f"{tuple(nodes.shape)} of {nodes.dtype}."
        )
    if len(nodes) == 0:
        raise ValueError(
            f"the {split} split is empty; models are fitted on training nodes, chosen on "
            "validation nodes and reported on test nodes, so each needs at least one."
        )
    outside = nodes[(nodes < 0) | (nodes >= total)]
    if len(outside):
        raise ValueError(
            f"splits hold nodes 0 … {total - 1}; the {split} split holds {int(outside[0])}."
        )


def _require_classes(split: str, nodes: Nodes, label: Tensor, classes: int) -> None:
    wrong = nodes[(label[nodes] < 0) | (label[nodes] >= classes)]
    if len(wrong):
        raise ValueError(
            f"every node of a split has a class in 0 … {classes - 1}; {len(wrong)} of the {split} "
            f"split have none of them, such as node {int(wrong[0])} with {int(label[wrong[0]])}."
        )


def _require_disjoint(nodes: Nodes, total: int) -> None:
    often = (torch.bincount(nodes, minlength=total) > 1).nonzero().flatten()
    if len(often):
        raise ValueError(
            "a node is in one split at most, and once, or scores would count what was fitted; "
            f"{len(often)} are named more often, the first is node {int(often[0])}."
        )


@dataclass(frozen=True)
class GraphPart:
    """A data set of one sample: the whole graph, asked about the nodes of one split.

    Example:
        >>> from cdeq.data.chains import chains
        >>> part = split_parts(chains()).train
        >>> len(part), part.take(torch.tensor([0])).nodes.shape
        (1, torch.Size([20]))
    """

    graph: GraphBatch

    def __len__(self) -> int:
        return 1

    def take(self, indices: Indices) -> GraphBatch:
        """The graph.

        Raises:
            IndexError: When anything but the one sample is asked for.
        """
        if indices.tolist() != [0]:
            raise IndexError(
                "a graph is one sample, number 0, which is neither repeated nor shared out over "
                f"processes; got {indices.tolist()}."
            )
        return self.graph

    def digest(self) -> str:
        """The SHA-256 of all that is in it."""
        graph = self.graph
        features = graph.features
        dense = (features,) if isinstance(features, Tensor) else features.parts()
        shape = torch.tensor(features.shape)
        return digest_of_tensors(shape, *dense, *graph.adjacency.parts(), graph.label, graph.nodes)


class GraphSplits(NamedTuple):
    """Train to fit, select on validation, report test."""

    train: GraphPart
    validation: GraphPart
    test: GraphPart


def split_parts(
    data: NodeData, *, normalisation: Normalisation = "symmetric", undirected: bool = True
) -> GraphSplits:
    """The parts of a graph, all with the same features and the same adjacency matrix in memory.

    A part knows the classes of its own nodes only, the others are -1: whoever is given the
    training part cannot look at a test label.

    Arguments:
        data: The graph.
        normalisation: How the adjacency matrix is scaled.
        undirected: Whether each edge also counts the other way.
    """
    adjacency = normalised(
        data.edges, data.nodes, normalisation=normalisation, undirected=undirected
    )

    def part(nodes: Nodes) -> GraphPart:
        label = torch.full_like(data.label, UNKNOWN)
        label[nodes] = data.label[nodes]
        return GraphPart(GraphBatch(data.features, adjacency, label, nodes))

    return GraphSplits(part(data.train), part(data.validation), part(data.test))
