r"""The linear half of operator splitting: resolvents of a propagation.

.. math:: v = J(r) \quad \text{solves} \quad
    \big( I + a (I - \mathcal W) \big) v = r , \qquad \mathcal W(v) = A \, v \, W^\top ,

exactly on small graphs, by a few sparse products on any. Norms are 2-norms and w bounds
:math:`\|\mathcal W\| \le \|A\| \|W\|`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cdeq.models.graph.sparse import SparseMatrix
from cdeq.models.graph.spectrum import spectrum

Nodes = Float[Tensor, "n h"]


class Equation(NamedTuple):
    """What Z = ReLU(A Z Wᵀ + B) is made of."""

    injection: Nodes
    """B."""
    weight: Float[Tensor, "h h"]
    """W."""
    adjacency: SparseMatrix
    """A."""


class Resolvent(ABC):
    """A way to compute J(r). Subclasses are frozen dataclasses that hold settings only."""

    @abstractmethod
    def bind(self, equation: Equation, step: float) -> Callable[[Nodes, Nodes], Nodes]:
        """The map (r, guess) ↦ v for one equation and the step a."""

    @property
    @abstractmethod
    def products(self) -> int:
        """Sparse products that one v costs."""

    @abstractmethod
    def factor(self, step: float, norm: float) -> float:
        r"""A Lipschitz constant of :math:`u \mapsto 2v - |u|` with :math:`r = |u| + aB` and the
        guess ReLU(u), which is the map of `PeacemanRachford`.

        Arguments:
            step: a.
            norm: w < 1.
        """


@dataclass(frozen=True, kw_only=True)
class Neumann(Resolvent):
    r"""A few terms of the Neumann series, one sparse product each.

    .. math:: v \leftarrow \frac{r + a \, \mathcal W(v)}{1 + a}

    Warm, it starts at the guess. At a fixed point of a splitting the guess solves the equation
    already, so no iteration moves it: the fixed point is exact and the same for any number of
    terms, which decides only how fast it is reached.

    Cold, it starts at r / (1 + a), the series' own first term. This is the truncated series of the
    MIGNN paper; it makes the fixed point that of another equation, by about
    :math:`(aw / (1 + a))^{k + 1}`.

    For a ≤ 1 the splitting contracts with any k; warm, Peaceman-Rachford does by

    .. math:: 1 - \frac{2a(1 - w)(1 - q^k)}{1 + a(1 - w)} , \qquad q = \frac{aw}{1 + a} .

    Arguments:
        terms: Products k ≥ 1.
        warm: Where to start.

    Raises:
        ValueError: When `terms` < 1.
    """

    terms: int = 10
    warm: bool = True

    def __post_init__(self) -> None:
        if self.terms < 1:
            raise ValueError(
                f"`terms` counts the sparse products of one resolvent, ≥ 1; got {self.terms}."
            )

    def bind(self, equation: Equation, step: float) -> Callable[[Nodes, Nodes], Nodes]:
        _, weight, adjacency = equation

        def resolve(right: Nodes, guess: Nodes) -> Nodes:
            first = right / (1 + step)
            v = guess if self.warm else first
            for _ in range(self.terms):
                v = torch.addmm(first, adjacency @ v, weight.t(), alpha=step / (1 + step))
            return v

        return resolve

    @property
    def products(self) -> int:
        return self.terms

    def factor(self, step: float, norm: float) -> float:
        # v = Σ_j Eʲ r / (1 + a) + Eᵏ guess with E = a 𝒲 / (1 + a), added up term by term
        ratio, last = step * norm / (1 + step), self.terms - self.warm
        series = abs(1 - step) + 2 * sum(ratio**j for j in range(1, last + 1))
        return series / (1 + step) + 2 * ratio**self.terms * self.warm


@dataclass(frozen=True)
class Direct(Resolvent):
    r"""Exact, by an eigendecomposition of A and one small linear system a node: for small graphs.

    .. math:: \big( (1 + a) I - a \lambda_i W \big) \hat v_i = \hat r_i ,
        \qquad \hat v = Q^\top v , \quad A = Q \, \mathrm{diag}(\lambda) \, Q^\top

    Costs dense products and no sparse one. The splitting contracts for every a > 0.

    Raises:
        ValueError: On binding, when A is not symmetric or too large to be decomposed.
    """

    def bind(self, equation: Equation, step: float) -> Callable[[Nodes, Nodes], Nodes]:
        values, vectors = spectrum(equation.adjacency)
        weight = equation.weight
        unit = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        systems = (1 + step) * unit - step * values.view(-1, 1, 1) * weight
        factors, pivots = torch.linalg.lu_factor(systems)

        def resolve(right: Nodes, guess: Nodes) -> Nodes:
            seen = (vectors.t() @ right).unsqueeze(2)
            return vectors @ torch.linalg.lu_solve(factors, pivots, seen).squeeze(2)

        return resolve

    @property
    def products(self) -> int:
        return 0

    def factor(self, step: float, norm: float) -> float:
        # a function of 𝒲 that is analytic on the disc |λ| ≤ w is no larger than there, by von
        # Neumann's inequality; this one maps the disc to one between the images of w and -w
        ends = (step * (1 - norm), step * (1 + norm))
        return max(abs(1 - end) / (1 + end) for end in ends)
