"""The map of MDEQ: all resolutions at once, a residual block each, and their fusion."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import nn

from cdeq.core.cell import Cell
from cdeq.models.repeatable import dropout_mask
from cdeq.models.vision.blocks import (
    Fusion,
    Images,
    Kernel,
    NormalisedConv,
    PreparedBlock,
    ResidualBlock,
    quiet,
)

Pyramid = tuple[Images, ...]
"""A state: one tensor a resolution, the highest first, each of half the side of the one before."""


def pyramid_shapes(x: Images, channels: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The shapes of the states that belong to injected features.

    Example:
        >>> pyramid_shapes(torch.zeros(2, 8, 32, 16), [8, 24])
        [(2, 8, 32, 16), (2, 24, 16, 8)]
    """
    samples, _, height, width = x.shape
    return [(samples, c, height >> i, width >> i) for i, c in enumerate(channels)]


class Prepared(NamedTuple):
    """What one evaluation needs besides z: computed once a solve."""

    branches: tuple[tuple[PreparedBlock, ...], ...]
    """The blocks of each resolution."""
    mixes: tuple[Kernel, ...]
    """The fusion's kernels; () for a single resolution."""


class MDEQCell(Cell):
    r"""One evaluation is one residual block a resolution, then their fusion.

    .. math:: f(z, x) = \mathrm{fusion}\big( \mathrm{block}_1(z_1, \mathrm{inject}(x)),
        \mathrm{block}_2(z_2, 0), \dots, \mathrm{block}_n(z_n, 0) \big) , \qquad
        \mathrm{inject}(x) = \mathrm{ReLU}(\mathrm{GN}(U * x))

    Only the highest resolution is told of x; the others hear of it through the fusion. Every
    output is normalised, so states stay bounded; that they settle is up to the weights (`QUIET`
    gives them a start at which they do). With one resolution there is nothing to fuse, and f is
    its block: the single-stream DEQ.

    U belongs to f, so a student's copy of f has its own; it is a 1 × 1 convolution, cheap even for
    steps that each prepare their own context.

    References:
        | Multiscale Deep Equilibrium Models (Bai, Koltun & Kolter, 2020)
        | https://arxiv.org/abs/2006.08656

    Arguments:
        channels: Of each resolution, the highest first; x has as many as the highest.
        blocks: A resolution, one after the other; x enters the first.
        expansion: How many times as many channels there are inside a block.
        groups: Of the normalisations, even; they divide all `channels`.
        dropout: The share of a block's second convolution that is zeroed, the same numbers all
            along a solve.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        blocks: int = 1,
        expansion: int = 5,
        groups: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels, self.dropout = tuple(channels), dropout
        self.injection = nn.Sequential(
            nn.Conv2d(channels[0], channels[0], 1, bias=False),
            nn.GroupNorm(groups, channels[0]),
            nn.ReLU(),
        )
        self.branches = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, expansion, groups) for _ in range(blocks))
            for width in channels
        )
        for lower in list(self.branches)[1:]:
            quiet(_blocks(lower)[-1].norms[-1])
        self.fusion = Fusion(channels, groups) if len(channels) > 1 else None

    def prepare(self, x: Images) -> Prepared:
        shapes, injected = pyramid_shapes(x, self.channels), self.injection(x)
        mixes = () if self.fusion is None else self.fusion.prepare()
        branches = []
        for blocks, shape in zip(self.branches, shapes, strict=True):
            prepared = []
            for block in _blocks(blocks):
                prepared.append(block.prepare(injected, self._mask(x, shape)))
                injected = None  # the first block of the highest resolution was told
            branches.append(tuple(prepared))
        return Prepared(tuple(branches), mixes)

    @torch.no_grad()
    def fold(self) -> None:
        """Compute the normalised kernels for the last time."""
        for layer in self.modules():
            if isinstance(layer, NormalisedConv):
                layer.fold()

    def forward(self, z: Pyramid, x: Prepared) -> Pyramid:
        branches = zip(self.branches, z, x.branches, strict=True)
        values = tuple(_through(blocks, part, prepared) for blocks, part, prepared in branches)
        return values if self.fusion is None else self.fusion(values, x.mixes)

    def _mask(self, x: Images, shape: tuple[int, ...]) -> Images | None:
        """Drawn anew for each block and number."""
        if not self.training or self.dropout == 0.0:
            return None
        return dropout_mask(x.new_empty(shape), self.dropout)


def _blocks(branch: nn.Module) -> list[ResidualBlock]:
    return list(cast("Iterable[ResidualBlock]", branch))


def _through(blocks: nn.Module, z: Images, prepared: tuple[PreparedBlock, ...]) -> Images:
    """One resolution's blocks, one after the other."""
    for block, part in zip(_blocks(blocks), prepared, strict=True):
        z = block(z, part)
    return z
