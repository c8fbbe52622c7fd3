r"""Operator splitting: maps with the same answer as Z = ReLU(A Z Wᵀ + B), reached otherwise.

For :math:`\|\mathcal W\| < 1`, with :math:`\mathcal W(Z) = A Z W^\top`, the map :math:`F(Z) = Z -
\mathcal W(Z) - B` is strongly monotone, so there is exactly one Z ≥ 0 with

.. math:: 0 \in F(Z) + N_{\ge 0}(Z) \quad \Leftrightarrow \quad
    Z = \mathrm{ReLU}\big( \mathcal W(Z) + B \big) .

A splitting is a map whose fixed point gives that Z, and one evaluation of it is one step of the
method of its name; any solver of this library may iterate it instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cdeq.core.solvers.base import require_fraction
from cdeq.models.graph.resolvent import Direct, Equation, Neumann, Nodes


class Splitting(ABC):
    """A map for the equation. Subclasses are frozen dataclasses that hold settings only."""

    @abstractmethod
    def bind(self, equation: Equation) -> Callable[[Nodes], Nodes]:
        """The map for one equation."""

    @abstractmethod
    def answer(self, state: Nodes) -> Nodes:
        """Z of the map's state."""

    @property
    @abstractmethod
    def products(self) -> int:
        """Sparse products that one evaluation costs."""

    @abstractmethod
    def factor(self, norm: float) -> float:
        """A Lipschitz constant of the map in the 2-norm, where ‖A‖ ‖W‖ ≤ `norm` < 1."""


@dataclass(frozen=True, kw_only=True)
class ForwardBackward(Splitting):
    r"""A gradient-like step, then a projection; the state is Z itself.

    .. math:: f(Z) = \mathrm{ReLU}\big( Z - a \, (Z - A Z W^\top - B) \big)

    Contracts by :math:`1 - a (1 - w)`; with a = 1 it is the equation as it stands.

    Arguments:
        step: a in (0, 1].

    Raises:
        ValueError: When the step is outside its range.
    """

    step: float = 1.0

    def __post_init__(self) -> None:
        require_fraction("step", self.step, "the step a of forward-backward splitting")

    def bind(self, equation: Equation) -> Callable[[Nodes], Nodes]:
        injection, weight, adjacency = equation
        a = self.step

        def f(z: Nodes) -> Nodes:
            moved = torch.addmm(injection, adjacency @ z, weight.t(), beta=a, alpha=a)
            return moved.add_(z, alpha=1 - a).relu_()

        return f

    def answer(self, state: Nodes) -> Nodes:
        return state

    @property
    def products(self) -> int:
        return 1

    def factor(self, norm: float) -> float:
        return 1 - self.step * (1 - norm)


@dataclass(frozen=True, kw_only=True)
class _Reflecting(Splitting):
    """Splittings of an auxiliary variable u with Z = ReLU(u)."""

    step: float = 1.0
    resolvent: Neumann | Direct = Neumann()

    def __post_init__(self) -> None:
        if not 0.0 < self.step < float("inf"):
            raise ValueError(f"`step` is the step a > 0 of the splitting; got {self.step}.")

    def _bind_resolvent(self, equation: Equation) -> Callable[[Nodes, Nodes], Nodes]:
        """(h, z) ↦ v, which solves v + a F(v) = h."""
        resolve = self.resolvent.bind(equation, self.step)
        shift = self.step * equation.injection
        return lambda h, z: resolve(h + shift, z)

    def answer(self, state: Nodes) -> Nodes:
        return state.relu()

    @property
    def products(self) -> int:
        return self.resolvent.products


@dataclass(frozen=True, kw_only=True)
class PeacemanRachford(_Reflecting):
    r"""Two reflections; the state is u with Z = ReLU(u).

    .. math:: f(u) = 2 v - h , \qquad v + a F(v) = h , \qquad h = 2 \, \mathrm{ReLU}(u) - u = |u|

    A fixed point has v = ReLU(u), hence u = Z - a F(Z). Contracts by `resolvent.factor`.

    Arguments:
        step: a > 0; a > 1 contracts for sure with an exact resolvent only.
        resolvent: How v is computed.

    Raises:
        ValueError: When the step is not positive.
    """

    def bind(self, equation: Equation) -> Callable[[Nodes], Nodes]:
        resolve = self._bind_resolvent(equation)

        def f(u: Nodes) -> Nodes:
            h = u.abs()
            return 2 * resolve(h, u.relu()) - h

        return f

    def factor(self, norm: float) -> float:
        return self.resolvent.factor(self.step, norm)


@dataclass(frozen=True, kw_only=True)
class DouglasRachford(_Reflecting):
    r"""The mean of u and its `PeacemanRachford` step; the state is u with Z = ReLU(u).

    .. math:: f(u) = u + v - \mathrm{ReLU}(u) , \qquad v + a F(v) = |u|

    Arguments:
        step: a > 0; a > 1 contracts for sure with an exact resolvent only.
        resolvent: How v is computed.

    Raises:
        ValueError: When the step is not positive.
    """

    def bind(self, equation: Equation) -> Callable[[Nodes], Nodes]:
        resolve = self._bind_resolvent(equation)

        def f(u: Nodes) -> Nodes:
            z = u.relu()
            return u + resolve(u.abs(), z) - z

        return f

    def factor(self, norm: float) -> float:
        return (1 + self.resolvent.factor(self.step, norm)) / 2
