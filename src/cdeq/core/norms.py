"""Residual norms: how far a sample is from its fixed point."""

from typing import Protocol

import torch

from cdeq.typing import Flat, PerSample


class Norm(Protocol):
    """A size for the residual r = f(z) - z, one number a sample."""

    def __call__(self, residual: Flat, value: Flat) -> PerSample: ...


def absolute(residual: Flat, value: Flat) -> PerSample:
    r"""The Euclidean norm :math:`\|f(z) - z\|` of each row.

    Example:
        >>> absolute(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
        tensor([5.])
    """
    return _length(residual)


def relative(residual: Flat, value: Flat) -> PerSample:
    r"""The relative residual :math:`\|f(z) - z\| \,/\, \|f(z)\|` of each row.

    The paper divides by :math:`\|z\|` (Section 4.2), which its own initial state z₀ = 0 makes
    infinite; the two agree in the limit. A row with f(z) = 0 counts as its absolute residual over
    the smallest positive number, so that only an exact zero is small. A row so large that its norm
    overflows is not finite: dividing by infinity would make divergence look like convergence.

    Example:
        >>> relative(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 50.0]]))
        tensor([0.1000])
    """
    size = _length(value)
    error = _length(residual) / size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(torch.isfinite(size), error, size)


def _length(rows: Flat) -> PerSample:
    """The norm of each row, summed in float32 or better."""
    return torch.linalg.vector_norm(
        rows, dim=1, dtype=torch.promote_types(rows.dtype, torch.float32)
    )
