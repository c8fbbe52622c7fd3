"""EIGNN: a linear equilibrium, iterated for graphs of any size, in closed form for small ones."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cdeq.core.cell import Cell
from cdeq.models.graph.base import GraphDEQ, GraphSpec, known, project
from cdeq.models.graph.batch import GraphBatch, GraphContext
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.models.graph.spectrum import require_symmetric, spectrum

Nodes = Float[Tensor, "n h"]
TINY = 1e-12
"""Added to ‖FᵀF‖, so that F = 0 is no division by zero."""


class Prepared(NamedTuple):
    """What one evaluation needs besides Z: computed once a solve."""

    injection: Nodes
    """X Uᵀ + b, or X."""
    weight: Float[Tensor, "h h"]
    """γ g(F)."""
    adjacency: SparseMatrix


class EIGNNCell(Cell):
    r"""One evaluation is one sparse product, and linear in Z.

    .. math:: f(Z, (X, S)) = \gamma \, S \, Z \, g(F) + X U^\top + b , \qquad
        g(F) = \frac{F^\top F}{\|F^\top F\|_F + 10^{-12}}

    With nodes as rows. g(F) is symmetric with :math:`\|g(F)\|_2 \le 1`, and so is S, the symmetric
    normalised adjacency: for γ < 1, f contracts by γ in the 2-norm, whatever F is.

    The paper solves by eigendecomposition of S, which `closed_form` does for graphs small enough;
    here f is iterated, one sparse product at a time, on graphs of any size. The paper injects X
    itself, so the state is as wide as X; the linear map to fewer features is ours, and
    `hidden=None` leaves it out.

    References:
        | EIGNN: Efficient Infinite-Depth Graph Neural Networks (Liu et al., 2021)
        | https://arxiv.org/abs/2202.10720

    Arguments:
        inputs: Features of a node.
        hidden: Features of its state; None injects X itself.
        gamma: γ.
    """

    def __init__(self, inputs: int, hidden: int | None, gamma: float) -> None:
        super().__init__()
        self.gamma, self.folded = gamma, False
        self.injection = None if hidden is None else nn.Linear(inputs, hidden)
        width = inputs if hidden is None else hidden
        self.weight = nn.Parameter(torch.empty(width, width).uniform_(-1, 1) / width**0.5)

    def prepare(self, x: GraphContext) -> Prepared:
        return Prepared(self._injected(x.features), self._mixing(), x.adjacency)

    @torch.no_grad()
    def fold(self) -> None:
        """Put γ g(F) in the place of F, after which it may be anything."""
        self.weight.copy_(self._mixing())
        self.folded = True

    def _injected(self, features: Tensor | SparseMatrix) -> Tensor:
        if self.injection is not None:
            return project(features, self.injection)
        return features if isinstance(features, Tensor) else features.matrix.to_dense()

    def _mixing(self) -> Tensor:
        """γ g(F)."""
        if self.folded:
            return self.weight
        gram = self.weight.t() @ self.weight
        return self.gamma / (torch.linalg.matrix_norm(gram) + TINY) * gram

    def forward(self, z: Nodes, x: Prepared) -> Nodes:
        return torch.addmm(x.injection, x.adjacency @ z, x.weight)


@torch.no_grad()
def closed_form(cell: EIGNNCell, context: GraphContext) -> Nodes:
    r"""The fixed point of an `EIGNNCell` on a small graph, without iteration.

    .. math:: Z^* = Q_S \big[ (Q_S^\top B \, Q_F) \circ G \big] Q_F^\top , \qquad
        G_{ij} = \frac{1}{1 - \gamma \lambda_i \mu_j}

    with :math:`S = Q_S \Lambda Q_S^\top`, :math:`g(F) = Q_F M Q_F^\top` and B what is injected.

    Arguments:
        cell: The map.
        context: Features and adjacency.

    Raises:
        ValueError: When the adjacency is not symmetric or too large to be decomposed, or the cell
            is folded: its weight need not be symmetric any more.

    Example:
        >>> from cdeq import bind
        >>> from cdeq.models.graph.adjacency import normalised
        >>> ring = normalised(torch.tensor([[0, 1, 2], [1, 2, 0]]), nodes=3)
        >>> cell = EIGNNCell(inputs=2, hidden=4, gamma=0.8)
        >>> x = GraphContext(torch.rand(3, 2), ring)
        >>> z = closed_form(cell, x)
        >>> torch.allclose(bind(cell, x)(z), z, atol=1e-5)
        True
    """
    if cell.folded:
        raise ValueError(
            "the closed form is for a symmetric weight γ g(F), which a folded cell need not have; "
            "got a folded cell; take it before folding."
        )
    prepared, basis = cell.prepare(context), spectrum(context.adjacency)
    values, vectors = torch.linalg.eigh(prepared.weight)  # γ μ
    seen = basis.vectors.t() @ prepared.injection @ vectors
    return basis.vectors @ (seen / (1 - torch.outer(basis.values, values))) @ vectors.t()


@dataclass(frozen=True, kw_only=True)
class EIGNNSpec(GraphSpec):
    """The settings of an `EIGNN`.

    Arguments:
        hidden: Features of a state; None injects the features themselves, as the paper does.
        gamma: γ in (0, 1), the factor by which f contracts; γ ≥ 1 and adjacency matrices that are
            not symmetric have to be `unguaranteed`.
    """

    gamma: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.gamma < float("inf"):
            raise ValueError(f"`gamma` scales S Z g(F), so it is above 0; got {self.gamma}.")
        if not self.unguaranteed and self.gamma >= 1.0:
            raise ValueError(
                "`gamma` < 1 is what makes EIGNN well-posed: one equilibrium, which every solver "
                f"finds; got {self.gamma}; to give that up, say `unguaranteed`."
            )


class EIGNN(GraphDEQ):
    """A node classifier: `EIGNNCell` to its equilibrium, then a linear head.

    Example:
        >>> from cdeq.models.graph.adjacency import normalised
        >>> ring = normalised(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), nodes=4)
        >>> nodes = torch.arange(4)
        >>> model = EIGNN(EIGNNSpec(inputs=5, hidden=8, classes=3))
        >>> model(GraphBatch(torch.rand(4, 5), ring, nodes % 3, nodes)).shape
        torch.Size([4, 3])
    """

    Spec = EIGNNSpec

    def __init__(self, spec: EIGNNSpec) -> None:
        inputs, classes = known(spec)
        cell, hidden = partial(EIGNNCell, inputs, spec.hidden, spec.gamma), spec.hidden or inputs
        super().__init__(spec, cell, inputs=inputs, hidden=hidden, classes=classes)

    def encode(self, batch: GraphBatch) -> GraphContext:
        """Features and adjacency.

        Raises:
            ValueError: When the adjacency is not symmetric, unless the spec says `unguaranteed`;
                and as `GraphDEQ.encode` does.
        """
        if not self.spec.unguaranteed:
            require_symmetric(batch.adjacency)
        return super().encode(batch)

    @property
    def products(self) -> float:
        return 1.0

    @property
    def well_posed(self) -> str:
        gamma = self.spec.gamma
        if gamma < 1.0:
            return (
                f"well-posed: ‖S‖₂ ≤ 1 for the symmetric normalised adjacency and ‖g(F)‖₂ ≤ 1, so "
                f"f is a contraction of factor γ = {gamma}."
            )
        return f"not known to be well-posed: γ = {gamma} ≥ 1; see the audit."
