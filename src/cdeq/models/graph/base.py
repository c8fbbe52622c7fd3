"""What the equilibrium models of this domain share: batches, a linear head, losses by node."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.readout import LinearReadout
from cdeq.models.base import EquilibriumModel
from cdeq.models.graph.batch import GraphBatch, GraphContext
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.typing import PerSample, State


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
            ValueError: When the features are not as many as the model was built for, or in
                another precision or on another device than the weights.
        """
        here, there = self.head.weight, _values(batch.features)
        if batch.features.shape[1] != self.inputs:
            raise ValueError(
                f"the model was built for {self.inputs} features a node; got "
                f"{batch.features.shape[1]}."
            )
        if (there.dtype, there.device) != (here.dtype, here.device):
            raise ValueError(
                f"the model's weights are {here.dtype} on {here.device}; got features in "
                f"{there.dtype} on {there.device}; move one to the other first."
            )
        share = self.input_dropout if self.training else 0.0
        features = batch.features if share == 0.0 else _dropped(batch.features, share)
        return GraphContext(features, batch.adjacency)

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
        >>> layer = nn.Linear(3, 2)
        >>> eye = SparseMatrix.of(torch.arange(3), torch.arange(3), torch.ones(3), shape=(3, 3))
        >>> torch.allclose(project(eye, layer), project(torch.eye(3), layer))
        True
    """
    if isinstance(features, Tensor):
        return layer(features)
    product = features @ layer.weight.t()
    return product if layer.bias is None else product + layer.bias


def _values(features: Tensor | SparseMatrix) -> Tensor:
    return features if isinstance(features, Tensor) else features.matrix


def _dropped(features: Tensor | SparseMatrix, share: float) -> Tensor | SparseMatrix:
    if isinstance(features, Tensor):
        return F.dropout(features, share)
    return features.dropped(share)


def require_sizes(**counts: int) -> None:
    """Refuse a count below 1.

    Raises:
        ValueError: Names it.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"`{name}` is a count of at least 1; got {value}.")


def require_shares(**shares: float) -> None:
    """Refuse a share outside [0, 1).

    Raises:
        ValueError: Names it.
    """
    for name, value in shares.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` is a share in [0, 1); got {value}.")
