"""Runge-Kutta integration of the fixed-point ODE, a stage at a time.

The methods are data (their tableau). A step of the contract is one *stage*, hence one evaluation:
RK4 reaches time n·h after 4n evaluations, and in between it stands on its stage points, which are
honest, if coarse, approximations of the flow.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from cdeq.core.solvers.base import Solver, Step
from cdeq.typing import Flat, FlatMap


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method: row i holds the weights of the slopes before stage i + 1."""

    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


EULER = Tableau(stages=(), weights=(1.0,))
CLASSICAL = Tableau(
    stages=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6)
)


class Flow(NamedTuple):
    """Where the current step of the integration began, and the slopes seen since."""

    base: Tensor
    slopes: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class RungeKutta(Solver[Flow]):
    r"""Explicit Runge-Kutta on :math:`\dot z = f(z) - z`, whose steady state is the fixed point.

    .. math:: z(t + h) \approx z + h \sum_i w_i \, s_i , \qquad
        s_i = f(y_i) - y_i , \quad y_i = z + h \sum_{j<i} a_{ij} \, s_j

    Paper: Eq. (2). Euler with h = 1 is Picard iteration, with h = β damped Picard iteration.

    Arguments:
        tableau: The method.
        size: The time step h > 0.

    Raises:
        ValueError: When `size` is not positive.
    """

    tableau: Tableau
    size: float = 1.0

    def __post_init__(self) -> None:
        if not self.size > 0.0:
            raise ValueError(f"`size` is the time step h > 0 of the integration; got {self.size}.")

    def init(self, z: Flat) -> Flow:
        return Flow(z, ())

    def step(self, f: FlatMap, z: Flat, state: Flow) -> Step[Flow]:
        value = f(z)
        residual = value - z
        slopes = (*state.slopes, residual)
        last = len(slopes) == len(self.tableau.weights)
        weights = self.tableau.weights if last else self.tableau.stages[len(slopes) - 1]
        z_next = state.base + self.size * sum(w * s for w, s in zip(weights, slopes, strict=True))
        return Step(
            z_next, value, residual, Flow(z_next, ()) if last else Flow(state.base, slopes)
        )


def Euler(*, size: float = 1.0) -> RungeKutta:
    """Explicit Euler on Eq. (2): one evaluation a step, order 1.

    Example:
        >>> import torch
        >>> from cdeq import Euler, Picard, solve
        >>> z0 = torch.zeros(1, 1)
        >>> euler = solve(torch.cos, z0, Euler(size=0.5), max_steps=3)
        >>> bool(torch.allclose(euler.z, solve(torch.cos, z0, Picard(damping=0.5), max_steps=3).z))
        True
    """
    return RungeKutta(tableau=EULER, size=size)


def RK4(*, size: float = 1.0) -> RungeKutta:
    """The classical method on Eq. (2): four evaluations a step, order 4.

    Example:
        >>> import torch
        >>> from cdeq import RK4, solve
        >>> f = lambda z: 0 * z  # dz/dt = -z
        >>> decay = solve(f, torch.ones(1, 1), RK4(size=0.5), max_steps=8)
        >>> decay.z, torch.exp(torch.tensor(-1.0))
        (tensor([[0.3682]]), tensor(0.3679))
    """
    return RungeKutta(tableau=CLASSICAL, size=size)
