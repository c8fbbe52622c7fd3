"""IGNN: one propagation and one linear map, to their equilibrium."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cdeq.core.cell import Cell
from cdeq.models.graph.adjacency import rows_within
from cdeq.models.graph.base import GraphDEQ, GraphSpec, known, project
from cdeq.models.graph.batch import GraphContext
from cdeq.models.graph.sparse import SparseMatrix

Nodes = Float[Tensor, "n h"]


class Prepared(NamedTuple):
    """What one evaluation needs besides Z: computed once a solve."""

    injection: Nodes
    """X Uᵀ + b."""
    weight: Float[Tensor, "h h"]
    adjacency: SparseMatrix


class IGNNCell(Cell):
    r"""One evaluation is one sparse product.

    .. math:: f(Z, (X, A)) = \mathrm{ReLU} \big( A \, ( Z \, W^\top + X \, U^\top + b ) \big) ,
        \qquad \|W\|_\infty \le \kappa / \lambda_\text{pf}(A)

    With nodes as rows. For κ < 1 the map has exactly one fixed point for every X, and Picard
    iteration finds it: :math:`\lambda_\text{pf}(|A^\top \otimes W|) \le \kappa`. W is projected
    where it is used, so the bound holds whatever an optimiser does; adjacency matrices here are
    normalised, so λ_pf(A) = 1.

    References:
        | Implicit Graph Neural Networks (Gu et al., 2020)
        | https://arxiv.org/abs/2009.06211

    Arguments:
        inputs: Features of a node.
        hidden: Features of its state.
        kappa: κ; None leaves W as it is, and starts it at zero, where every f has an equilibrium.
    """

    def __init__(self, inputs: int, hidden: int, kappa: float | None) -> None:
        super().__init__()
        self.kappa, self.folded = kappa, False
        self.injection = nn.Linear(inputs, hidden)
        start = torch.empty(hidden, hidden).uniform_(-1, 1) / hidden**0.5
        self.weight = nn.Parameter(torch.zeros_like(start) if kappa is None else start)

    def prepare(self, x: GraphContext) -> Prepared:
        return Prepared(project(x.features, self.injection), self._bounded(), x.adjacency)

    @torch.no_grad()
    def fold(self) -> None:
        """Project W for the last time, after which it may be anything."""
        self.weight.copy_(self._bounded())
        self.folded = True

    def _bounded(self) -> Tensor:
        if self.kappa is None or self.folded:
            return self.weight
        return rows_within(self.weight, self.kappa)

    def forward(self, z: Nodes, x: Prepared) -> Nodes:
        return (x.adjacency @ torch.addmm(x.injection, z, x.weight.t())).relu_()


@dataclass(frozen=True, kw_only=True)
class IGNNSpec(GraphSpec):
    """The settings of an `IGNN`.

    Arguments:
        hidden: Features of a state.
        kappa: κ in (0, 1), which bounds ‖W‖_∞; None leaves W free. κ ≥ 1 and None have to be
            `unguaranteed`.
    """

    hidden: int = 64  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrower
    kappa: float | None = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kappa is not None and not self.kappa > 0.0:
            raise ValueError(f"`kappa` bounds ‖W‖_∞, so it is above 0; got {self.kappa}.")
        if not self.unguaranteed and (self.kappa is None or self.kappa >= 1.0):
            raise ValueError(
                "`kappa` < 1 is what makes IGNN well-posed: one equilibrium, which every solver "
                f"finds; got {self.kappa}; to give that up, say `unguaranteed`."
            )


class IGNN(GraphDEQ):
    """A node classifier: `IGNNCell` to its equilibrium, then a linear head.

    Example:
        >>> from cdeq.models.graph.adjacency import normalised
        >>> from cdeq.models.graph.batch import GraphBatch
        >>> ring = normalised(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), nodes=4)
        >>> nodes = torch.arange(4)
        >>> model = IGNN(IGNNSpec(inputs=5, hidden=8, classes=3))
        >>> model(GraphBatch(torch.rand(4, 5), ring, nodes % 3, nodes)).shape
        torch.Size([4, 3])
    """

    Spec = IGNNSpec

    def __init__(self, spec: IGNNSpec) -> None:
        inputs, classes = known(spec)
        cell = partial(IGNNCell, inputs, spec.hidden, spec.kappa)
        super().__init__(spec, cell, inputs=inputs, hidden=spec.hidden, classes=classes)

    @property
    def products(self) -> float:
        return 1.0

    @property
    def well_posed(self) -> str:
        kappa = self.spec.kappa
        if kappa is not None and kappa < 1.0:
            return f"well-posed: ‖W‖_∞ ≤ {kappa} and λ_pf(A) = 1, so f is a contraction."
        return "not known to be well-posed: W is not held to ‖W‖_∞ < 1; see the audit."
