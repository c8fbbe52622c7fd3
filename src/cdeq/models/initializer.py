"""A small network that guesses the equilibrium from the context alone."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLPInitializer(nn.Module):
    r"""A guess that sees the whole context at once, which no single evaluation of a local f does.

    .. math:: z = W_2 \, \mathrm{ReLU}(W_1 x + b_1) + b_2

    Arguments:
        features: Numbers in the context of one sample.
        shape: The shape of one sample's state.
        hidden: The width of the layer between.

    Example:
        >>> import torch
        >>> guess = MLPInitializer(64, (3, 8, 8), hidden=16)
        >>> guess(torch.zeros(2, 3, 8, 8), torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, features: int, shape: Sequence[int], *, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, math.prod(shape)),
            nn.Unflatten(1, tuple(shape)),
        )

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.layers(x)
