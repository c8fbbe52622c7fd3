"""MIGNN: an orthogonal weight, and an equilibrium that operator splitting finds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cdeq.core.cell import Cell
from cdeq.models.graph.base import GraphDEQ, GraphSpec, known, project, require_shares
from cdeq.models.graph.batch import GraphBatch, GraphContext
from cdeq.models.graph.resolvent import Equation, Nodes
from cdeq.models.graph.spectrum import require_symmetric
from cdeq.models.graph.splitting import (
    DouglasRachford,
    ForwardBackward,
    PeacemanRachford,
    Splitting,
)
from cdeq.typing import State


def cayley(free: Float[Tensor, "h h"]) -> Float[Tensor, "h h"]:
    r"""An orthogonal matrix of a free one, by its skew-symmetric part C.

    .. math:: (I - C) (I + C)^{-1} , \qquad C = \tfrac12 (M - M^\top)

    Every orthogonal matrix without the eigenvalue -1 is one of these.

    Arguments:
        free: M.

    Example:
        >>> q = cayley(torch.randn(3, 3))
        >>> torch.allclose(q @ q.T, torch.eye(3), atol=1e-5)
        True
    """
    skew = (free - free.t()) / 2
    unit = torch.eye(len(free), dtype=free.dtype, device=free.device)
    return torch.linalg.solve(unit + skew, unit - skew)  # the two commute


class MIGNNCell(Cell):
    r"""One evaluation is one step of a splitting for the equation

    .. math:: Z = \mathrm{ReLU}( A Z W^\top + X U^\top + b ) , \qquad
        W = \kappa \, \sigma(\mu) \, (I - C) (I + C)^{-1} D , \quad C = -C^\top

    With nodes as rows. D is a fixed diagonal of ±1, since a Cayley transform alone has no
    eigenvalue -1; which entries are negative only names the features, so the last ones are.

    :math:`\|W\|_2 = \kappa \, \sigma(\mu) < 1` for κ ≤ 1, and :math:`\|A\|_2 \le 1` for the
    symmetric normalised adjacency, so :math:`Z \mapsto Z - A Z W^\top` is strongly monotone and
    the equation has exactly one solution for every X (see `splitting`).

    References:
        | Implicit Graph Neural Networks: A Monotone Operator Viewpoint (Baker et al., 2023)
        | https://proceedings.mlr.press/v202/baker23a.html

    Arguments:
        inputs: Features of a node.
        hidden: Features of its state.
        kappa: κ.
        negative: The share of -1 in D.
        splitting: The map.
    """

    signs: Tensor

    def __init__(
        self, inputs: int, hidden: int, *, kappa: float, negative: float, splitting: Splitting
    ) -> None:
        super().__init__()
        self.kappa, self.splitting = kappa, splitting
        self.injection = nn.Linear(inputs, hidden)
        self.weight = nn.Parameter(torch.empty(hidden, hidden).uniform_(-1, 1) / hidden**0.5)
        self.scale: nn.Parameter | None = nn.Parameter(torch.zeros(()))  # μ
        places = torch.arange(hidden)
        signs = torch.where(places < hidden - round(negative * hidden), 1.0, -1.0)
        self.register_buffer("signs", signs)

    def prepare(self, x: GraphContext) -> Callable[[Nodes], Nodes]:
        injected = project(x.features, self.injection)
        return self.splitting.bind(Equation(injected, self._scaled(), x.adjacency))

    @torch.no_grad()
    def fold(self) -> None:
        """Put W in the place of the free matrix, after which it may be anything; μ is gone."""
        self.weight.copy_(self._scaled())
        self.scale = None

    def _scaled(self) -> Tensor:
        """W."""
        if self.scale is None:
            return self.weight
        return self.kappa * torch.sigmoid(self.scale) * cayley(self.weight) * self.signs

    @torch.no_grad()
    def norm(self) -> float:
        """‖W‖₂."""
        return float(torch.linalg.matrix_norm(self._scaled(), 2))

    def forward(self, z: Nodes, x: Callable[[Nodes], Nodes]) -> Nodes:
        return x(z)


@dataclass(frozen=True, kw_only=True)
class MIGNNSpec(GraphSpec):
    """The settings of a `MIGNN`.

    An evaluation costs `splitting.products` sparse products.

    Arguments:
        hidden: Features of a state.
        kappa: κ in (0, 1], which bounds ‖W‖₂ = κ σ(μ); σ(μ) < 1 is learned. κ > 1 and adjacency
            matrices that are not symmetric have to be `unguaranteed`.
        negative: The share of -1 in D.
        splitting: The map that is iterated.
    """

    hidden: int = 64  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrower
    kappa: float = 0.95
    negative: float = 0.2
    splitting: ForwardBackward | PeacemanRachford | DouglasRachford = PeacemanRachford()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(negative=self.negative)
        if not 0.0 < self.kappa < float("inf"):
            raise ValueError(f"`kappa` bounds ‖W‖₂, so it is above 0; got {self.kappa}.")
        if not self.unguaranteed and self.kappa > 1.0:
            raise ValueError(
                "`kappa` ≤ 1 is what makes MIGNN well-posed: ‖W‖₂ = κ σ(μ) < 1, so one "
                f"equilibrium; got {self.kappa}; to give that up, say `unguaranteed`."
            )


class MIGNN(GraphDEQ):
    """A node classifier: `MIGNNCell` to its equilibrium, then a linear head on Z.

    The state of solvers and students is that of the splitting; for Peaceman-Rachford and
    Douglas-Rachford it is u with Z = ReLU(u).

    Example:
        >>> from cdeq.models.graph.adjacency import normalised
        >>> ring = normalised(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), nodes=4)
        >>> nodes = torch.arange(4)
        >>> model = MIGNN(MIGNNSpec(inputs=5, hidden=8, classes=3))
        >>> model(GraphBatch(torch.rand(4, 5), ring, nodes % 3, nodes)).shape
        torch.Size([4, 3])
        >>> model.products
        10.0
    """

    Spec = MIGNNSpec

    def __init__(self, spec: MIGNNSpec) -> None:
        inputs, classes = known(spec)
        cell = partial(
            MIGNNCell,
            inputs,
            spec.hidden,
            kappa=spec.kappa,
            negative=spec.negative,
            splitting=spec.splitting,
        )
        super().__init__(spec, cell, inputs=inputs, hidden=spec.hidden, classes=classes)

    def encode(self, batch: GraphBatch) -> GraphContext:
        """Features and adjacency.

        Raises:
            ValueError: When the adjacency is not symmetric, unless the spec says `unguaranteed`;
                and as `GraphDEQ.encode` does.
        """
        if not self.spec.unguaranteed:
            require_symmetric(batch.adjacency)
        return super().encode(batch)

    def decode(self, z: State, x: GraphContext) -> Float[Tensor, "n c"]:
        assert isinstance(z, Tensor)
        return super().decode(self.spec.splitting.answer(z), x)

    @property
    def products(self) -> float:
        return float(self.spec.splitting.products)

    @property
    def well_posed(self) -> str:
        cell = self.deq.cell
        assert isinstance(cell, MIGNNCell)
        norm = cell.norm()
        if norm >= 1.0:
            return f"not known to be well-posed: ‖W‖₂ = {norm:.4f} ≥ 1; see the audit."
        factor = self.spec.splitting.factor(norm)
        ending = (
            f"f contracts by {factor:.4f}"
            if factor < 1.0
            else "whether f contracts with so large a step only the audit can tell"
        )
        return (
            f"well-posed: ‖W‖₂ = {norm:.4f} < 1 and ‖A‖₂ ≤ 1 for the symmetric normalised "
            f"adjacency, so Z - A Z Wᵀ is strongly monotone; {ending}."
        )
