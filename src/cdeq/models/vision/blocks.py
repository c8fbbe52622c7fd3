"""What an evaluation of MDEQ's map is made of: a residual block a resolution, and their fusion."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.repeatable import TINY, masked

Images = Float[Tensor, "b c h w"]
Kernel = Float[Tensor, "o i k k"]

QUIET = 0.25
"""What f multiplies by at first where it passes on what it made of states alone. From the
published start, 1, a fresh map of several resolutions amplifies small changes, so that solvers
stall; from here, in the published widths, they converge."""


class NormalisedConv(nn.Module):
    r"""A convolution whose output channels have kernels of learned lengths, size kept, no bias.

    .. math:: W_o = g_o \, \frac{V_o}{\|V_o\|}

    `weight()` is computed once a solve, and `fold` makes it a plain kernel. Directions start at
    random.

    References:
        | Weight Normalization (Salimans & Kingma, 2016)
        | https://arxiv.org/abs/1602.07868

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        kernel: The side of the kernel, odd.
        length: What all g start at.

    Example:
        >>> layer = NormalisedConv(2, 3, 3)
        >>> layer(torch.rand(1, 2, 5, 5), layer.weight()).shape
        torch.Size([1, 3, 5, 5])
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, length: float = 1.0) -> None:
        super().__init__()
        self.direction = nn.Parameter(_drawn(outputs, inputs, kernel))
        self.length: nn.Parameter | None = nn.Parameter(torch.full((outputs,), length))

    def weight(self) -> Kernel:
        """W."""
        if self.length is None:
            return self.direction
        return self.direction * (self.length.view(-1, 1, 1, 1) / self._norms().clamp_min(TINY))

    @torch.no_grad()
    def fold(self) -> None:
        """Put W in the place of V."""
        self.direction.copy_(self.weight())
        self.length = None

    def forward(self, x: Images, weight: Kernel) -> Images:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def _norms(self) -> Float[Tensor, "o 1 1 1"]:
        return torch.linalg.vector_norm(self.direction, dim=(1, 2, 3), keepdim=True)


class PreparedBlock(NamedTuple):
    """What a block needs besides z: computed once a solve."""

    first: Kernel
    second: Kernel
    injection: Images | None
    """None where nothing is injected."""
    mask: Images | None
    """Where dropout strikes; None where it does not."""


class ResidualBlock(nn.Module):
    r"""Two convolutions around a wide middle, told of the input.

    .. math:: u &= W_2 * \mathrm{ReLU}(\mathrm{GN}(W_1 * z)) \odot \text{mask} + \text{injection}
        \\ y &= \mathrm{GN}(\mathrm{ReLU}(\mathrm{GN}(u) + z))

    References:
        | Multiscale Deep Equilibrium Models (Bai, Koltun & Kolter, 2020)
        | https://arxiv.org/abs/2006.08656

    Arguments:
        channels: In and out.
        expansion: How many times as many there are in the middle.
        groups: Of the normalisations.
    """

    def __init__(self, channels: int, expansion: int, groups: int) -> None:
        super().__init__()
        inner = expansion * channels
        self.first = NormalisedConv(channels, inner, 3)
        self.second = NormalisedConv(inner, channels, 3, length=QUIET)
        self.norms = nn.ModuleList(
            nn.GroupNorm(groups, width) for width in (inner, channels, channels)
        )

    def prepare(self, injection: Images | None, mask: Images | None) -> PreparedBlock:
        """What stays the same over one solve."""
        return PreparedBlock(self.first.weight(), self.second.weight(), injection, mask)

    def forward(self, z: Images, x: PreparedBlock) -> Images:
        inner, outer, last = self.norms
        u = self.second(inner(self.first(z, x.first)).relu_(), x.second)
        u = masked(u, x.mask)
        u = u if x.injection is None else u + x.injection
        return last((outer(u) + z).relu_())


class Fusion(nn.Module):
    r"""Every resolution hears of every other.

    .. math:: y_i = \mathrm{GN} \Big( W_i * \mathrm{ReLU}
        \big( z_i + \textstyle\sum_{j \ne i} P_{ij}(z_j) \big) \Big)

    :math:`P_{ij}` goes down by one strided convolution a halving, each normalised, with a ReLU
    between two; and up by a 1 × 1 convolution, normalisation and repetition of pixels. The last
    normalisation has half as many groups as the others.

    References:
        | Multiscale Deep Equilibrium Models (Bai, Koltun & Kolter, 2020)
        | https://arxiv.org/abs/2006.08656

    Arguments:
        channels: Of each resolution, the highest first; each has half the side of the one before.
        groups: Of the normalisations, even.
    """

    def __init__(self, channels: Sequence[int], groups: int) -> None:
        super().__init__()
        places = range(len(channels))
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(channels, start, end, groups) for start in places)
            for end in places
        )
        self.mixes = nn.ModuleList(NormalisedConv(width, width, 1) for width in channels)
        self.norms = nn.ModuleList(quiet(nn.GroupNorm(groups // 2, width)) for width in channels)

    def prepare(self) -> tuple[Kernel, ...]:
        """W, a resolution each."""
        return tuple(cast("NormalisedConv", mix).weight() for mix in self.mixes)

    def forward(self, z: tuple[Images, ...], weights: tuple[Kernel, ...]) -> tuple[Images, ...]:
        parts = zip(self.paths, self.mixes, self.norms, weights, strict=True)
        return tuple(
            norm(mix(_total(paths, z).relu_(), weight)) for paths, mix, norm, weight in parts
        )


def _total(paths: nn.Module, z: tuple[Images, ...]) -> Images:
    """What arrives at one resolution, of which it may change the memory."""
    pairs = zip(cast("nn.ModuleList", paths), z, strict=True)
    first, *others = (path(part) for path, part in pairs)
    total = first + others[0]  # the identity is among them: this is memory of our own
    for part in others[1:]:
        total = total.add_(part)
    return total


def _path(channels: Sequence[int], start: int, end: int, groups: int) -> nn.Module:
    """From one resolution to another."""
    inputs, outputs = channels[start], channels[end]
    if start == end:
        return nn.Identity()
    last = nn.GroupNorm(groups, outputs)
    if start > 0:  # only the highest resolution is told of the input
        quiet(last)
    if start > end:
        up = nn.Upsample(scale_factor=2 ** (start - end), mode="nearest")
        return nn.Sequential(_conv(inputs, outputs, 1), last, up)
    layers: list[nn.Module] = []
    for _ in range(end - start - 1):
        layers += [_conv(inputs, inputs, 3, 2), nn.GroupNorm(groups, inputs), nn.ReLU()]
    return nn.Sequential(*layers, _conv(inputs, outputs, 3, 2), last)


def quiet(norm: nn.Module) -> nn.Module:
    """The normalisation, started at `QUIET`."""
    nn.init.constant_(cast("nn.GroupNorm", norm).weight, QUIET)
    return norm


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    layer.weight = nn.Parameter(_drawn(outputs, inputs, kernel))
    return layer


def _drawn(outputs: int, inputs: int, side: int) -> Kernel:
    """Kernels of length 1 or so. What follows is normalised, so their scale is no part of f; it
    decides how far a step of the optimiser turns them."""
    return torch.randn(outputs, inputs, side, side) / (side * inputs**0.5)
