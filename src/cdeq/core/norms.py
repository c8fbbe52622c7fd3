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
    return torch.linalg.vector_norm(residual, dim=1)


def relative(residual: Flat, value: Flat) -> PerSample:
    r"""The relative residual :math:`\|f(z) - z\| \,/\, \|f(z)\|` of each row.

    The paper divides by :math:`\|z\|` (Section 4.2), which its own initial state z₀ = 0 makes
    infinite; the two agree in the limit. A row with f(z) = 0 counts as its absolute residual over the
    smallest positive number, so that only an exact zero is small.

    Example:
        >>> relative(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 50.0]]))
        tensor([0.1000])
    """
    size = torch.linalg.vector_norm(value, dim=1)
    return torch.linalg.vector_norm(residual, dim=1) / size.clamp_min(torch.finfo(size.dtype).tiny)
