"""Anderson acceleration with an incremental Gram matrix."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cdeq.core.solvers.base import Solver, Step, require_fraction
from cdeq.core.solvers.weights import SOLVED_IN, window_weights
from cdeq.typing import Flat, FlatMap


class AndersonState(NamedTuple):
    """The window. `step` consumes it: the buffers are written in place where autograd allows."""

    residuals: Float[Tensor, "b m d"]
    """r_i, in float32 or better."""
    images: Float[Tensor, "b m d"]
    """z_i + β r_i, in float32 or better."""
    gram: Float[Tensor, "b m m"]
    """r_iᵀ r_j."""
    k: int
    """Evaluations so far; the newest row stands at (k - 1) mod (m + 1)."""


@dataclass(frozen=True, kw_only=True)
class Anderson(Solver[AndersonState]):
    r"""Anderson acceleration over a sliding window.

    Step :math:`k` mixes the last :math:`m_k + 1` states, :math:`m_k = \min(k, m)`,

    .. math:: z_{k+1} = \sum_{i=0}^{m_k} \alpha_k^i \,
        \big( z_{k-m_k+i} + \beta \, r_{k-m_k+i} \big) , \qquad r_j = f(z_j) - z_j ,

    where :math:`\alpha_k` minimises :math:`\big\| \sum_i \alpha_k^i \, r_{k-m_k+i} \big\|`
    subject to :math:`\sum_i \alpha_k^i = 1`. The function is evaluated once a step, so the first
    step is a damped Picard step. A step adds one row of m + 1 inner products to the Gram matrix
    and recomputes none. States of half precision are kept, multiplied and mixed in float32.

    Paper: Definition 3.1, Eqs. (3)-(4), Algorithm 3.

    References:
        | Anderson Acceleration for Fixed-Point Iterations (Walker & Ni, 2011)
        | https://doi.org/10.1137/10078356X

    Arguments:
        window: The number of earlier states :math:`m \geq 0` kept besides the current one. With 0,
            this is damped Picard iteration.
        mixing: The relaxation :math:`\beta \in (0, 1]`.
        ridge: Tikhonov term relative to each residual's own square. A few units of machine
            precision are always added, because the Gram matrix is singular when a state repeats.

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> from cdeq import Anderson, solve
        >>> A = torch.tensor([[0.6, 0.3], [-0.2, 0.5]], dtype=torch.float64)
        >>> f = lambda z: z @ A.T + 1
        >>> z0 = torch.zeros(1, 2, dtype=torch.float64)
        >>> solution = solve(f, z0, Anderson(window=2), max_steps=20, tol=1e-6)
        >>> solution.status.name, solution.nfe
        ('CONVERGED', 4)
        >>> solve(f, z0, Anderson(window=2), max_steps=1).z
        tensor([[1., 1.]], dtype=torch.float64)
    """

    window: int = 5
    mixing: float = 1.0
    ridge: float = 0.0

    def __post_init__(self) -> None:
        require_fraction("mixing", self.mixing, "the relaxation β of Eq. (4)")
        if self.window < 0:
            raise ValueError(
                f"`window` counts the earlier states m ≥ 0 that are kept; got {self.window}."
            )
        if not self.ridge >= 0.0:
            raise ValueError(f"`ridge` is a relative Tikhonov term ≥ 0; got {self.ridge}.")

    def init(self, z: Flat) -> AndersonState:
        (b, d), m = z.shape, self.window + 1
        wide = torch.promote_types(z.dtype, torch.float32)
        # a row is written before it is read, and filling so much memory costs an evaluation
        residuals, images = (z.new_empty(b, m, d, dtype=wide) for _ in range(2))
        return AndersonState(residuals, images, z.new_zeros(b, m, m, dtype=SOLVED_IN), 0)

    def step(self, f: FlatMap, z: Flat, state: AndersonState) -> Step[AndersonState]:
        value = f(z)
        with torch.autocast(z.device.type, enabled=False):  # mixed precision is for f alone
            return self._mix(value, z, state)

    def _mix(self, value: Flat, z: Flat, state: AndersonState) -> Step[AndersonState]:
        slot = state.k % (self.window + 1)
        filled = min(state.k + 1, self.window + 1)
        tracked = _tracked(value, z, *state[:3])
        residuals, residual = _subtract_into(state.residuals, slot, value, z, tracked)
        image = value if self.mixing == 1.0 else torch.add(z, residual, alpha=self.mixing)
        images = _write(state.images, slot, image, tracked)
        products = torch.bmm(residual.unsqueeze(1), residuals[:, :filled].transpose(1, 2)).squeeze(
            1
        )
        gram = _write_cross(state.gram, slot, products.to(SOLVED_IN), tracked)
        noise = 8 * torch.finfo(products.dtype).eps
        alpha = window_weights(gram[:, :filled, :filled], slot, noise, self.ridge)
        z_next = torch.bmm(alpha.to(images.dtype).unsqueeze(1), images[:, :filled]).squeeze(1)
        return Step(
            z_next.to(z.dtype),
            value,
            residual,
            AndersonState(residuals, images, gram, state.k + 1),
        )


def _tracked(*parts: Tensor) -> bool:
    """Whether autograd may need the window as it is; one answer for all the buffers of a step."""
    return torch.is_grad_enabled() and any(part.requires_grad for part in parts)


def _write(window: Tensor, slot: int, row: Tensor, tracked: bool) -> Tensor:
    """The window with one row replaced: in place, or on a copy when autograd needs the old."""
    if tracked:
        return torch.select_scatter(window, row.to(window.dtype), 1, slot)
    window[:, slot] = row
    return window


def _subtract_into(
    window: Tensor, slot: int, value: Tensor, z: Tensor, tracked: bool
) -> tuple[Tensor, Tensor]:
    """The residual `value - z` written to its row, without a temporary where autograd allows."""
    if tracked:
        residual = value.to(window.dtype) - z.to(window.dtype)
        return _write(window, slot, residual, tracked), residual
    row = window[:, slot]
    row.copy_(value).sub_(z) if value.dtype != window.dtype else torch.sub(value, z, out=row)
    return window, row


def _write_cross(gram: Tensor, slot: int, products: Tensor, tracked: bool) -> Tensor:
    """One new row and column of the Gram matrix."""
    padded = torch.nn.functional.pad(products, (0, gram.shape[1] - products.shape[1]))
    gram = _write(gram, slot, padded, tracked)
    return _write(gram.transpose(1, 2), slot, padded, tracked).transpose(1, 2)
