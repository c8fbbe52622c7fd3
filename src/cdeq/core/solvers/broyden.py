"""Broyden's good method with limited memory."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cdeq.core.solvers.base import Solver, Step
from cdeq.typing import Flat, FlatMap


class BroydenState(NamedTuple):
    """The inverse Jacobian estimate H = -I + Σ u_i v_iᵀ of F(z) = f(z) - z, and the last step."""

    u: tuple[Float[Tensor, "b d"], ...]
    v: tuple[Float[Tensor, "b d"], ...]
    change: Flat | None
    """z_k - z_{k-1}."""
    residual: Flat | None
    """F(z_{k-1})."""


@dataclass(frozen=True, kw_only=True)
class Broyden(Solver[BroydenState]):
    r"""Broyden's good method on :math:`F(z) = f(z) - z`, without line search.

    .. math:: z_{k+1} = z_k - H_k F(z_k) , \qquad
        H_k = H_{k-1} + \frac{(s - H_{k-1} y) \, s^\top H_{k-1}}{s^\top H_{k-1} y} ,
        \quad s = z_k - z_{k-1} , \; y = F(z_k) - F(z_{k-1})

    starting from :math:`H_0 = -I`, so the first step is a Picard step. An update whose denominator
    vanishes to rounding is left out for that sample alone. When the memory is full, it starts
    anew from :math:`-I` and the newest step: every update was made on top of those before it, so
    dropping only the oldest leaves an H that fits no step, and the iteration blows up. Without a
    line search the method can diverge; the solution's status says so.

    References:
        | A Class of Methods for Solving Nonlinear Simultaneous Equations (Broyden, 1965)
        | https://doi.org/10.2307/2003941

    Arguments:
        memory: How many rank-one updates are kept, at least 1.

    Raises:
        ValueError: When `memory` is below 1.

    Example:
        >>> from cdeq import Broyden, solve
        >>> solution = solve(torch.cos, torch.zeros(1, 1), Broyden(), max_steps=20, tol=1e-6)
        >>> solution.z, solution.nfe
        (tensor([[0.7391]]), 6)
    """

    memory: int = 30

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(
                f"`memory` counts the rank-one updates that are kept, ≥ 1; got {self.memory}."
            )

    def init(self, z: Flat) -> BroydenState:
        return BroydenState((), (), None, None)

    def step(self, f: FlatMap, z: Flat, state: BroydenState) -> Step[BroydenState]:
        value = f(z)
        residual = value - z
        u, v = state.u, state.v
        if state.change is not None and state.residual is not None:
            u, v = ((), ()) if len(u) == self.memory else (u, v)
            new_u, new_v = _update(u, v, state.change, residual - state.residual)
            u, v = (*u, new_u), (*v, new_v)
        change = -_apply(u, v, residual)
        return Step(z + change, value, residual, BroydenState(u, v, change, residual))


def _apply(u: tuple[Tensor, ...], v: tuple[Tensor, ...], y: Flat) -> Flat:
    """H y = -y + Σ u_i (v_iᵀ y)."""
    out = -y
    for left, right in zip(u, v, strict=True):
        out = torch.addcmul(out, left, (right * y).sum(1, keepdim=True))
    return out


def _update(u: tuple[Tensor, ...], v: tuple[Tensor, ...], s: Flat, y: Flat) -> tuple[Flat, Flat]:
    """The rank-one update of H, zero for a sample whose denominator is rounding noise."""
    h_y = _apply(u, v, y)
    s_h = _apply(v, u, s)
    denominator = (s_h * y).sum(1, keepdim=True)
    size = torch.linalg.vector_norm(s_h, dim=1, keepdim=True) * torch.linalg.vector_norm(
        y, dim=1, keepdim=True
    )
    usable = denominator.abs() > 16 * torch.finfo(s.dtype).eps * size
    update = (s - h_y) / denominator.where(usable, 1.0)
    return update.where(usable, 0.0), s_h
