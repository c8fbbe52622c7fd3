"""The weights of Anderson acceleration, guarded against every degenerate window.

Both routes minimise ‖Σ αᵢ rᵢ‖ subject to Σ αᵢ = 1; both return the newest state's unit vector,
which is a Picard step, where the problem has no usable answer. Neither raises on a singular
system, and neither synchronises with the host.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cdeq.typing import Flat, PerSample

Weights = Float[Tensor, "b m"]

SOLVED_IN = torch.float64
"""The (m + 1)² system is tiny: solving it in double precision costs nothing and loses nothing."""


def window_weights(
    gram: Float[Tensor, "b m m"], newest: int, noise: float, ridge: float
) -> Weights:
    r"""Weights of a window of residuals from their Gram matrix.

    With :math:`D` the diagonal of :math:`G_{ij} = r_i^\top r_j` and
    :math:`C = D^{-1/2} G D^{-1/2} + \lambda I`,

    .. math:: \alpha \propto D^{-1/2} \, C^{-1} \, D^{-1/2} \mathbf 1 , \qquad
        \mathbf 1^\top \alpha = 1 .

    Scaling each residual by its own size, instead of all by the mean diagonal, keeps the ridge
    harmless while residuals shrink by orders of magnitude inside one window. The ridge is raised a
    thousandfold where the Cholesky factorisation fails, and a row that still fails falls back to
    Picard's weights. Such rows are taken out before the system is solved, not after, so that
    gradients stay finite as well.

    Arguments:
        gram: The Gram matrices G.
        newest: Where in the window the current state stands.
        noise: The relative rounding error of the entries of G: the floor of λ.
        ridge: What λ adds to that floor.

    Example:
        >>> window_weights(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), 1, noise=1e-15, ridge=0.0)
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
        >>> window_weights(torch.zeros(1, 2, 2), newest=1, noise=1e-15, ridge=0.0)
        tensor([[0., 1.]], dtype=torch.float64)
    """
    gram = gram.to(SOLVED_IN)
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    usable = torch.isfinite(gram).all(2).all(1) & (gram[:, newest, newest] > 0)
    gram = gram.where(usable.reshape(-1, 1, 1), eye)
    scale = torch.diagonal(gram, dim1=1, dim2=2).clamp_min(torch.finfo(SOLVED_IN).tiny).rsqrt()
    correlation = gram * scale.unsqueeze(1) * scale.unsqueeze(2)
    shift, positive = _positive_shift(correlation.detach(), ridge + noise)
    usable = (usable & positive).unsqueeze(1)
    correlation = correlation.where(usable.unsqueeze(2), eye)
    factor = torch.linalg.cholesky_ex(correlation + shift.reshape(-1, 1, 1) * eye).L
    scale = scale / scale.detach().amax(1, keepdim=True)
    solution = torch.cholesky_solve(scale.unsqueeze(2), factor).squeeze(2) * scale
    return torch.where(usable, solution / solution.sum(1, keepdim=True), eye[newest])


def _positive_shift(correlation: Tensor, shift: float) -> tuple[PerSample, Bool[Tensor, " b"]]:
    """The smaller of two shifts that makes each matrix positive definite, and if one does."""
    eye = torch.eye(correlation.shape[1], dtype=correlation.dtype, device=correlation.device)
    trials = torch.stack([correlation + shift * eye, correlation + 1e3 * shift * eye])
    small, large = torch.linalg.cholesky_ex(trials).info == 0
    return torch.where(small, shift, 1e3 * shift).to(correlation.dtype), small | large


def two_point_weight(residual: Flat, previous: Flat) -> PerSample:
    r"""The current state's weight in a window of two, in closed form.

    .. math:: \alpha = - \frac{r_{k-1}^\top (r_k - r_{k-1})}{\|r_k - r_{k-1}\|^2}

    minimises :math:`\| \alpha \, r_k + (1 - \alpha) \, r_{k-1} \|`. Where the two residuals
    coincide to rounding, every α is a minimiser and the answer is 1: a repeated history is no
    history.

    Example:
        >>> two_point_weight(torch.tensor([[1.0], [2.0]]), torch.tensor([[-1.0], [2.0]]))
        tensor([0.5000, 1.0000])
    """
    rounding, wide = (
        torch.finfo(residual.dtype).eps,
        torch.promote_types(residual.dtype, torch.float32),
    )
    previous = previous.to(wide)
    change = residual.to(wide) - previous
    square = change.square().sum(1)
    distinct = square > 16 * rounding**2 * previous.square().sum(1)
    alpha = torch.where(distinct, -(previous * change).sum(1) / square.where(distinct, 1.0), 1.0)
    return alpha.to(residual.dtype)
