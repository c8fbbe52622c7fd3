"""What the equilibrium models of this domain share: batches, a linear head, losses by node."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.adjoint import Implicit
from cdeq.core.deq import DEQ
from cdeq.core.readout import LinearReadout
from cdeq.core.solvers import Anderson, Picard
from cdeq.models.base import EquilibriumModel
from cdeq.models.graph.batch import GraphBatch, GraphContext, require_fitting, thinned
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.typing import Map, PerSample, State


class GraphDEQ(EquilibriumModel):
    r"""A node classifier: Z* of one graph, then dropout and a linear map.

    .. math:: Y = V \, \mathrm{dropout}(Z^*) + c

    The graph is one sample (`batched=False`), its state one row of features a node. In training,
    dropout masks are drawn once a batch, outside the solve, so f is one map throughout it.

    Arguments:
        spec: Its settings.
        cell: Makes f, after the head: the order decides which random numbers each gets.
        inputs: Features of a node.
        hidden: Features of its state.
        classes: Answers to choose from.
    """

    def __init__(
        self,
        spec: "GraphSpec",
        cell: Callable[[], nn.Module],
        *,
        inputs: int,
        hidden: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.spec, self.inputs, self.hidden = spec, inputs, hidden
        self.head = nn.Linear(hidden, classes)
        self.deq = DEQ(
            cell(),
            solver=spec.solver,
            adjoint=Implicit(solver=spec.solver, max_steps=spec.adjoint_steps, tol=spec.tol),
            max_steps=spec.max_steps,
            tol=spec.tol,
            batched=False,
        )

    def encode(self, batch: GraphBatch) -> GraphContext:
        """Features and adjacency.

        Raises:
            ValueError: When the graph does not fit the model, see `require_fitting`.
        """
        require_fitting(batch, self.inputs, self.head.weight)
        features = thinned(batch.features, self.spec.input_dropout, self.training)
        return GraphContext(features, batch.adjacency)

    def initial(self, x: GraphContext) -> State:
        weight = self.head.weight
        return weight.new_zeros(x.adjacency.shape[0], self.hidden)

    def decode(self, z: State, x: GraphContext) -> Float[Tensor, "n c"]:
        """The logits of every node."""
        assert isinstance(z, Tensor)
        return self.head(F.dropout(z, self.spec.dropout, self.training))

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


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """What the specifications of this domain share.

    Arguments:
        inputs: Features of a node; None leaves it to the data.
        hidden: Features of its state.
        classes: Answers to choose from; None leaves it to the data.
        unguaranteed: Allow settings with which the model need not have exactly one equilibrium, or
            solvers need not find it: only measurements can tell then.
        dropout: The share of the state that the head does not see in training.
        input_dropout: The share of the input that f does not see in training.
        solver: The forward solver.
        max_steps: Its budget of evaluations.
        tol: Its relative residual.
        adjoint_steps: The budget of the backward pass.

    Raises:
        ValueError: When a setting is outside its range.
    """

    inputs: int | None = None
    hidden: int | None = 64
    classes: int | None = None
    unguaranteed: bool = False
    dropout: float = 0.0
    input_dropout: float = 0.0
    solver: Anderson | Picard = Picard()
    max_steps: int = 50
    tol: float | None = 1e-5
    adjoint_steps: int = 20

    def __post_init__(self) -> None:
        require_sizes(inputs=self.inputs, hidden=self.hidden, classes=self.classes)
        require_sizes(max_steps=self.max_steps, adjoint_steps=self.adjoint_steps)
        require_shares(dropout=self.dropout, input_dropout=self.input_dropout)


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
