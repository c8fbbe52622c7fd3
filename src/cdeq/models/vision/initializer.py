"""A small network that guesses the equilibrium at all resolutions from the features alone."""

from collections.abc import Sequence

from torch import nn
from torch.nn import functional as F

from cdeq.models.vision.blocks import Images


class PyramidInitializer(nn.Module):
    r"""A guess at every resolution, each of which sees the lower ones.

    .. math:: h_1 = \mathrm{ReLU}(C_1 * x) , \qquad h_{i+1} = \mathrm{ReLU}(C_{i+1} * h_i) , \qquad
        z_i = V_i * (h_i + \mathrm{up}(h_{i+1} + \mathrm{up}(\dots)))

    with 3 × 3 convolutions C, strided after the first, 1 × 1 convolutions V, and repetition of
    pixels on the way up.

    References:
        | Neural Deep Equilibrium Solvers (Bai, Koltun & Kolter, 2022)
        | https://openreview.net/forum?id=B0oHOwT5ENL

    Arguments:
        channels: Of each resolution, the highest first; x has as many as the highest.
        hidden: Channels between.

    Example:
        >>> import torch
        >>> guess = PyramidInitializer([4, 6], hidden=8)
        >>> [part.shape for part in guess((), torch.rand(2, 4, 8, 8))]
        [torch.Size([2, 4, 8, 8]), torch.Size([2, 6, 4, 4])]
    """

    def __init__(self, channels: Sequence[int], *, hidden: int = 32) -> None:
        super().__init__()
        first, *lower = channels
        self.downs = nn.ModuleList(
            [
                nn.Conv2d(first, hidden, 3, padding=1),
                *(nn.Conv2d(hidden, hidden, 3, 2, padding=1) for _ in lower),
            ]
        )
        self.outputs = nn.ModuleList(nn.Conv2d(hidden, width, 1) for width in channels)

    def forward(self, z: tuple[Images, ...], x: Images) -> tuple[Images, ...]:
        features = []
        for down in self.downs:
            x = down(x).relu()
            features.append(x)
        above = features[-1]
        guesses = [above]
        for each in reversed(features[:-1]):
            above = each + F.interpolate(above, scale_factor=2, mode="nearest")
            guesses.insert(0, above)
        return tuple(out(guess) for out, guess in zip(self.outputs, guesses, strict=True))
