"""Picard iteration, plain or damped."""

from dataclasses import dataclass

import torch

from cdeq.core.solvers.base import Solver, Step, require_fraction
from cdeq.typing import Flat, FlatMap


@dataclass(frozen=True, kw_only=True)
class Picard(Solver[None]):
    r"""Damped Picard iteration, which is explicit Euler on the fixed-point ODE.

    .. math:: z_{k+1} = z_k + \beta \, (f(z_k) - z_k)

    Paper: Eq. (2) with steps of size β; β = 1 is plain iteration z ← f(z).

    Arguments:
        damping: The step size :math:`\beta \in (0, 1]`.

    Raises:
        ValueError: When `damping` is outside (0, 1].

    Example:
        >>> from cdeq import Picard, solve
        >>> z0 = torch.zeros(1, 1)
        >>> solve(torch.cos, z0, Picard(), max_steps=2).z
        tensor([[0.5403]])
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        require_fraction("damping", self.damping, "the step size β of Eq. (2)")

    def init(self, z: Flat) -> None:
        return None

    def step(self, f: FlatMap, z: Flat, state: None) -> Step[None]:
        value = f(z)
        residual = value - z
        z_next = value if self.damping == 1.0 else torch.add(z, residual, alpha=self.damping)
        return Step(z_next, value, residual, None)
