"""What the equilibrium models of this domain share: batches, a linear head, losses by node."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.readout import LinearReadout
from cdeq.models.base import EquilibriumModel
from cdeq.models.graph.batch import GraphBatch, GraphContext
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.typing import Map, PerSample, State


class GraphDEQ(EquilibriumModel):
    r"""A node classifier: Z* of one graph, then dropout and a linear map.

    .. math:: Y = V \, \mathrm{dropout}(Z^*) + c

    The graph is one sample (`batched=False`), its state one row of features a node. In training,
    dropout masks are drawn once a batch, outside the solve, so f is one map throughout it.

    Arguments:
        inputs: Features of a node.
        hidden: Features of its state.
        classes: Answers to choose from.
        dropout: The share of the state's features that the head does not see in training.
        input_dropout: The share of the input's entries that f does not see in training.
    """

    def __init__(
        self, inputs: int, hidden: int, classes: int, *, dropout: float, input_dropout: float
    ) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.dropout, self.input_dropout = dropout, input_dropout
        self.head = nn.Linear(hidden, classes)

    def encode(self, batch: GraphBatch) -> GraphContext:
        """Features and adjacency.

        Raises:
            ValueError: When the features are not as many as the model was built for, the adjacency
                is of another number of nodes, or either is in another precision or on another
                device than the weights.
        """
        nodes, inputs = batch.features.shape
        if inputs != self.inputs:
            raise ValueError(
                f"the model was built for {self.inputs} features a node; got {inputs}."
            )
        if tuple(batch.adjacency.shape) != (nodes, nodes):
            raise ValueError(
                f"features of {nodes} nodes need an adjacency of {nodes} by {nodes}; got one of "
                f"shape {tuple(batch.adjacency.shape)}."
            )
        self._require_alike(features=_values(batch.features), adjacency=batch.adjacency.matrix)
        share = self.input_dropout if self.training else 0.0
        features = batch.features if share == 0.0 else _dropped(batch.features, share)
        return GraphContext(features, batch.adjacency)

    def _require_alike(self, **given: Tensor) -> None:
        here = self.head.weight
        for name, there in given.items():
            if (there.dtype, there.device) != (here.dtype, here.device):
                raise ValueError(
                    f"the model's weights are {here.dtype} on {here.device}; got {name} in "
                    f"{there.dtype} on {there.device}; move one to the other first."
                )

    def initial(self, x: GraphContext) -> State:
        weight = self.head.weight
        return weight.new_zeros(x.adjacency.shape[0], self.hidden)

    def decode(self, z: State, x: GraphContext) -> Float[Tensor, "n c"]:
        """The logits of every node."""
        assert isinstance(z, Tensor)
        return self.head(F.dropout(z, self.dropout, self.training))

    def loss(self, output: Tensor, batch: GraphBatch) -> PerSample:
        """The cross-entropy of each node that is asked about."""
        nodes = batch.nodes
        return F.cross_entropy(output[nodes], batch.label[nodes], reduction="none")

    def readout(self) -> LinearReadout:
        return LinearReadout([self.hidden], axis=-1)

    def initializer(self) -> nn.Module:
        from cdeq.models.graph.initializer import NodeInitializer  # which needs `project`

        return NodeInitializer(self.inputs, self.hidden)

    def neighbours(self) -> Callable[[GraphContext], Map]:
        return _propagate

    @property
    @abstractmethod
    def products(self) -> float:
        """Sparse products with the adjacency that one evaluation of f costs."""

    @property
    @abstractmethod
    def well_posed(self) -> str:
        """Why, or whether not, there is exactly one equilibrium: a sentence."""


def project(features: Tensor | SparseMatrix, layer: nn.Linear) -> Float[Tensor, "n h"]:
    """The linear layer on every node's features, dense or sparse.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 2)
        >>> eye = SparseMatrix.of(torch.arange(3), torch.arange(3), torch.ones(3), shape=(3, 3))
        >>> torch.allclose(project(eye, layer), project(torch.eye(3), layer))
        True
    """
    if isinstance(features, Tensor):
        return layer(features)
    product = features @ layer.weight.t()
    return product if layer.bias is None else product + layer.bias


def _propagate(x: GraphContext) -> Map:
    return lambda numbers: x.adjacency @ numbers


def _values(features: Tensor | SparseMatrix) -> Tensor:
    return features if isinstance(features, Tensor) else features.matrix


def _dropped(features: Tensor | SparseMatrix, share: float) -> Tensor | SparseMatrix:
    if isinstance(features, Tensor):
        return F.dropout(features, share)
    return features.dropped(share)


class Sizes(Protocol):
    """What a specification says of the data; None is read off the data by who has it."""

    @property
    def inputs(self) -> int | None: ...
    @property
    def classes(self) -> int | None: ...


def known(spec: Sizes) -> tuple[int, int]:
    """Features of a node and number of classes, which a model cannot be built without.

    Raises:
        ValueError: When they have been left to the data.
    """
    if spec.inputs is None or spec.classes is None:
        raise ValueError(
            "a model is built for known `inputs` and `classes`; got a specification that leaves "
            "them to the data: fill them in with `dataclasses.replace`."
        )
    return spec.inputs, spec.classes


def require_sizes(**counts: int | None) -> None:
    """Refuse a count below 1; None is one that is not known yet.

    Raises:
        ValueError: Names it.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is a count of at least 1; got {value}.")


def require_shares(**shares: float) -> None:
    """Refuse a share outside [0, 1).

    Raises:
        ValueError: Names it.
    """
    for name, value in shares.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` is a share in [0, 1); got {value}.")
