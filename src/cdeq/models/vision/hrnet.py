"""HRNet: several resolutions side by side through the whole network, fused again and again."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TypeAlias, cast

from torch import nn
from torch.nn import functional as F

from cdeq.models.vision.blocks import Images
from cdeq.models.vision.explicit import ExplicitImageModel, ExplicitImageSpec, Logits, conv_norm
from cdeq.models.vision.stem import WIDENING

Pyramid: TypeAlias = tuple[Images, ...]
"""Features of each resolution, the highest first."""


@dataclass(frozen=True, kw_only=True)
class HRNetSpec(ExplicitImageSpec):
    """The settings of an `HRNet`, by default of HRNet-W18-C.

    Arguments:
        classes: The number of classes.
        image_channels: Channels of the images.
        mean: Of each channel of the images, which is subtracted.
        deviation: Of each channel, by which the rest is divided.
        stem: Channels of the convolutions before the first stage.
        strides: Of these convolutions, one after the other; ones suit small images.
        first: The width of the first stage's bottlenecks, of which a multiple comes out.
        widths: Channels of each resolution, the highest first; at least two.
        modules: How often each later stage fuses its resolutions, a stage for each but the first.
        blocks: Residual units between two fusions, and in the first stage.
        head: Widths of the head's bottlenecks, a resolution each.
        features: Channels that the head pools.

    Raises:
        ValueError: When a setting is outside its range, or settings do not fit one another.
    """

    stem: int = 64
    strides: tuple[int, ...] = (2, 2)
    first: int = 64
    widths: tuple[int, ...] = (18, 36, 72, 144)
    modules: tuple[int, ...] = (1, 4, 3)
    blocks: int = 4
    head: tuple[int, ...] = (32, 64, 128, 256)
    features: int = 2048

    @property
    def smallest(self) -> int:
        """By how much the lowest resolution is below the images'."""
        return prod(self.strides) * 2 ** (len(self.widths) - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_counts("stem", "first", "blocks", "features")
        self._require_all_counts("strides", "widths", "modules", "head")
        if len(self.modules) != len(self.widths) - 1:
            raise ValueError(
                "`modules` has one count for each of the `widths` but the first, since every "
                f"later stage adds a resolution; got {self.modules} and {self.widths}."
            )
        if len(self.head) != len(self.widths):
            raise ValueError(
                f"`head` has one width for each of the `widths`; got {self.head} and "
                f"{self.widths}."
            )


class HRNet(ExplicitImageModel):
    r"""A stage of one resolution, then stages each with one resolution more, then a head over all.

    .. math:: z^{(1)} = \text{first}(\text{stem}(x)) , \qquad
        z^{(s + 1)} = \text{stage}_{s + 1} \big( \text{transition}_s(z^{(s)}) \big) , \qquad
        \text{logits} = \text{head}(z^{(n)}) .

    Every convolution is followed by batch normalisation.

    References:
        | Deep High-Resolution Representation Learning for Visual Recognition (Wang et al., 2019)
        | https://arxiv.org/abs/1908.07919

    Arguments:
        spec: Its settings.

    Example:
        >>> import torch
        >>> from cdeq.models.vision.batch import ImageBatch
        >>> small = HRNetSpec(
        ...     classes=10, stem=8, strides=(1, 1), first=4, widths=(4, 8), modules=(1,), blocks=1,
        ...     head=(4, 8), features=32,
        ... )
        >>> model = HRNet(small)
        >>> batch = ImageBatch(torch.rand(2, 3, 16, 16), torch.tensor([3, 7]))
        >>> [tuple(part.shape) for part in model.pyramid(batch.image)], model(batch).shape
        ([(2, 4, 16, 16), (2, 8, 8, 8)], torch.Size([2, 10]))
    """

    Spec = HRNetSpec
    spec: HRNetSpec

    def __init__(self, spec: HRNetSpec) -> None:
        super().__init__(spec)
        widths = [spec.image_channels, *[spec.stem] * len(spec.strides)]
        self.stem = nn.Sequential(
            *(
                conv_norm(*pair, 3, n)
                for pair, n in zip(pairwise(widths), spec.strides, strict=True)
            )
        )
        wide = WIDENING * spec.first
        starts = [spec.stem, *[wide] * (spec.blocks - 1)]
        self.first = nn.Sequential(*(bottleneck(inputs, spec.first) for inputs in starts))
        self.stages = nn.Sequential()
        before: tuple[int, ...] = (wide,)
        for count, modules in enumerate(spec.modules, start=2):
            after = spec.widths[:count]
            self.stages.append(Transition(before, after))
            self.stages.extend(Exchange(after, spec.blocks) for _ in range(modules))
            before = after
        self.head = HRNetHead(spec.widths, spec.head, spec.features, spec.classes)

    def pyramid(self, image: Images) -> Pyramid:
        """The features of every resolution that the head reads."""
        return self.stages((self.first(self.stem(image)),))

    def logits(self, image: Images) -> Logits:
        return self.head(self.pyramid(image))


class Residual(nn.Module):
    r"""Layers, and what they are added to.

    .. math:: y = \mathrm{ReLU}(\text{layers}(x) + \text{shortcut}(x))

    Arguments:
        layers: End in a normalisation.
        shortcut: As many channels come out of it as of the layers.
    """

    def __init__(self, layers: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.shortcut = shortcut

    def forward(self, x: Images) -> Images:
        return (self.layers(x) + self.shortcut(x)).relu_()


def basic(width: int) -> Residual:
    """Two 3 × 3 convolutions of as many channels as come in."""
    layers = nn.Sequential(conv_norm(width, width, 3), conv_norm(width, width, 3, relu=False))
    return Residual(layers, nn.Identity())


def bottleneck(inputs: int, width: int) -> Residual:
    """A 3 × 3 convolution between two of 1 × 1, the last of which is `WIDENING` times as wide.

    Arguments:
        inputs: Channels in.
        width: Of the middle.

    Example:
        >>> import torch
        >>> bottleneck(3, 2)(torch.rand(1, 3, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """
    outputs = WIDENING * width
    same = inputs == outputs
    shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, relu=False)
    middle, last = conv_norm(width, width, 3), conv_norm(width, outputs, 1, relu=False)
    return Residual(nn.Sequential(conv_norm(inputs, width, 1), middle, last), shortcut)


class Transition(nn.Module):
    """From one stage's resolutions to the next one's, of which the last is new.

    A resolution whose width stays is passed on; the others are convolved, the new one from the
    last by a stride of 2.

    Arguments:
        before: Channels of each resolution so far.
        after: Channels of each of the next stage.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        super().__init__()
        self.kept = nn.ModuleList(
            nn.Identity() if inputs == outputs else conv_norm(inputs, outputs, 3)
            for inputs, outputs in zip(before, after[:-1], strict=True)
        )
        self.new = conv_norm(before[-1], after[-1], 3, stride=2)

    def forward(self, z: Pyramid) -> Pyramid:
        kept = (layer(part) for layer, part in zip(self.kept, z, strict=True))
        return (*kept, self.new(z[-1]))


class Exchange(nn.Module):
    r"""Residual units at every resolution, after which each hears of all the others.

    .. math:: u_i = \text{units}_i(z_i) , \qquad
        y_i = \mathrm{ReLU} \Big( u_i + \textstyle\sum_{j \ne i} P_{ij}(u_j) \Big)

    :math:`P_{ij}` goes down by one strided convolution a halving, with a ReLU between two; and up
    by a 1 × 1 convolution and repetition of pixels.

    Arguments:
        widths: Channels of each resolution, the highest first.
        blocks: Units a resolution.

    Example:
        >>> import torch
        >>> z = (torch.rand(2, 3, 9, 6), torch.rand(2, 4, 5, 3))
        >>> [tuple(part.shape) for part in Exchange((3, 4), blocks=1)(z)]
        [(2, 3, 9, 6), (2, 4, 5, 3)]
    """

    def __init__(self, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(*(basic(width) for _ in range(blocks))) for width in widths
        )
        places = range(len(widths))
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(widths, start, end) for start in places) for end in places
        )

    def forward(self, z: Pyramid) -> Pyramid:
        u = tuple(unit(part) for unit, part in zip(self.units, z, strict=True))
        return tuple(_arrived(paths, u, like) for paths, like in zip(self.paths, u, strict=True))


def _path(widths: Sequence[int], start: int, end: int) -> nn.Module:
    """From one resolution to another, but for the repetition of pixels."""
    inputs, outputs = widths[start], widths[end]
    if start == end:
        return nn.Identity()
    if start > end:
        return conv_norm(inputs, outputs, 1, relu=False)
    between = (conv_norm(inputs, inputs, 3, stride=2) for _ in range(end - start - 1))
    return nn.Sequential(*between, conv_norm(inputs, outputs, 3, stride=2, relu=False))


def _arrived(paths: nn.Module, u: Pyramid, like: Images) -> Images:
    """What one resolution hears, of its own size."""
    pairs = zip(cast("nn.ModuleList", paths), u, strict=True)
    first, *others = (_enlarged(path(part), like) for path, part in pairs)
    return sum(others, start=first).relu()


def _enlarged(x: Images, like: Images) -> Images:
    size = like.shape[2:]
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="nearest")


class HRNetHead(nn.Module):
    r"""Each resolution widened, all gathered at the lowest, pooled, a linear map.

    .. math:: y_1 = B_1(z_1) , \qquad y_{i+1} = B_{i+1}(z_{i+1}) + D_i(y_i) , \qquad
        \text{logits} = V \, \mathrm{mean}(F(y_n)) + b

    with bottlenecks B, strided convolutions D and a 1 × 1 convolution F, the latter two with
    biases and followed by a ReLU.

    Arguments:
        channels: Of each resolution, the highest first.
        widths: Of the bottlenecks' middles, a resolution each.
        features: Channels that are pooled.
        classes: How many.
    """

    def __init__(
        self, channels: Sequence[int], widths: Sequence[int], features: int, classes: int
    ) -> None:
        super().__init__()
        pairs = zip(channels, widths, strict=True)
        self.bottlenecks = nn.ModuleList(bottleneck(inputs, width) for inputs, width in pairs)
        wide = [WIDENING * width for width in widths]
        self.downs = nn.ModuleList(
            conv_norm(inputs, outputs, 3, stride=2, bias=True)
            for inputs, outputs in pairwise(wide)
        )
        self.last = conv_norm(wide[-1], features, 1, bias=True)
        self.output = nn.Linear(features, classes)

    def forward(self, z: Pyramid) -> Logits:
        first, *others = (block(part) for block, part in zip(self.bottlenecks, z, strict=True))
        gathered = first
        for down, part in zip(self.downs, others, strict=True):
            gathered = part + down(gathered)
        return self.output(self.last(gathered).mean((2, 3)))
