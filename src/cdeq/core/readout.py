"""Readouts: how the student adds time to its backbone's output."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cdeq.core.state import like, tensors
from cdeq.typing import State

Time = Float[Tensor, "*b"]
"""One time for all samples (no dimension), or one a sample."""


class LinearReadout(nn.Module):
    r"""The time-dependent linear readout, one matrix a tensor of the state.

    .. math:: h = W \, [\, f \,\|\, \mathbf t \,]

    The time is broadcast over positions and appended to the features; W starts as :math:`[I \,|\,
    0]`, so a fresh student has h = f.

    Paper: Eq. (8).

    Arguments:
        features: The feature size of each tensor of the state.
        axis: Where features stand in each tensor: 1 for images, -1 for sequences and graphs.

    Raises:
        ValueError: When `axis` is neither.

    Example:
        >>> readout = LinearReadout([3], axis=-1)
        >>> torch.equal(readout(torch.ones(2, 3), torch.tensor(0.5)), torch.ones(2, 3))
        True
    """

    def __init__(self, features: Sequence[int], *, axis: int) -> None:
        super().__init__()
        _require_axis(axis)
        self.axis = axis
        self.features = tuple(features)
        self.weights = nn.ParameterList(torch.eye(width, width + 1) for width in features)

    def forward(self, value: State, t: Time) -> State:
        parts = zip(self.weights, tensors(value), strict=True)
        return like(value, tuple(self._project(weight, part, t) for weight, part in parts))

    def _project(self, weight: Tensor, value: Tensor, t: Tensor) -> Tensor:
        width = weight.shape[0]
        matrix, shift = weight[:, :width], t.to(value).unsqueeze(-1) * weight[:, width]
        if self.axis == -1:
            mixed = nn.functional.linear(value, matrix)
            mixed = mixed + shift.reshape(feature_shape(shift, value.ndim, self.axis))
        else:  # one product of matrices a sample, many times as fast as einsum's on two cores
            places = value.flatten(2) if value.ndim > 2 else value.unsqueeze(2)
            feature_shape(shift, value.ndim, self.axis)
            shift = shift.reshape(-1, width, 1).to(value)
            mixed = torch.baddbmm(shift, matrix.expand(len(value), -1, -1), places)
        return mixed.to(value.dtype).reshape(value.shape)  # mixed precision may have narrowed it


class MLPReadout(nn.Module):
    r"""The two-layer readout of the released code.

    .. math:: h = W_2 \, \mathrm{ReLU}(W_1 [\, f \,\|\, \mathbf t \,])

    Deviates from the paper's Eq. (8): two layers, three times as wide, started at random, so that
    a fresh student is not its teacher.

    Arguments:
        features: The feature size of each tensor of the state.
        axis: Where features stand in each tensor: 1 or -1.

    Raises:
        ValueError: When `axis` is neither.

    Example:
        >>> MLPReadout([3], axis=1)(torch.ones(2, 3, 4, 4), torch.tensor([0.1, 0.2])).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(self, features: Sequence[int], *, axis: int) -> None:
        super().__init__()
        _require_axis(axis)
        self.axis = axis
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(w + 1, 3 * w), nn.ReLU(), nn.Linear(3 * w, w))
            for w in features
        )

    def forward(self, value: State, t: Time) -> State:
        parts = zip(self.layers, tensors(value), strict=True)
        return like(value, tuple(self._project(layer, part, t) for layer, part in parts))

    def _project(self, layer: nn.Module, value: Tensor, t: Tensor) -> Tensor:
        last = value.movedim(self.axis, -1)
        time = t.to(value).reshape(t.shape + (1,) * (last.ndim - t.ndim))
        time = time.expand(*last.shape[:-1], 1)
        return layer(torch.cat([last, time], dim=-1)).to(value.dtype).movedim(-1, self.axis)


def _require_axis(axis: int) -> None:
    if axis not in (1, -1):
        raise ValueError(
            f"`axis` is where features stand, 1 for images or -1 for sequences and graphs; got "
            f"{axis}."
        )


def feature_shape(shift: Tensor, ndim: int, axis: int) -> tuple[int, ...]:
    """The shape in which a `(features,)` or `(b, features)` tensor broadcasts over a state.

    Example:
        >>> feature_shape(torch.zeros(2, 5), ndim=4, axis=1)
        (2, 5, 1, 1)
    """
    shape = [1] * ndim
    shape[axis] = shift.shape[-1]
    if shift.ndim == 2:
        shape[0] = shift.shape[0]
    if math.prod(shape) != shift.numel():
        raise ValueError(
            f"one time a sample cannot broadcast over features along axis {axis} of {ndim} "
            "dimensions; pass a single time for an unbatched state."
        )
    return tuple(shape)
