"""BN-Inception, also called Inception-V2: blocks of parallel convolutions, each normalised.

Where the paper's table contradicts itself, its counts of filters are taken, not its totals: block
4c has 608 channels, and so has 4d, so that 4e has 1056. The first convolution is a full one, as in
the networks that others released, where the paper's is separable.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import torch
from torch import nn

from cdeq.models.vision.blocks import Images
from cdeq.models.vision.explicit import ExplicitImageModel, ExplicitImageSpec, Logits, conv_norm

LEAST = 4
"""Channels that narrow networks have at least, wherever there are any."""


class Filters(NamedTuple):
    """How many channels the branches of an Inception block have."""

    single: int
    """After the 1 × 1 convolution; 0 where there is none, and the block halves the side."""
    three: tuple[int, int]
    """After the reduction by a 1 × 1 convolution, and after the 3 × 3 one."""
    double: tuple[int, int]
    """After the reduction by a 1 × 1 convolution, and after each of two 3 × 3 ones."""
    pool: type[nn.AvgPool2d] | type[nn.MaxPool2d]
    """How neighbours are pooled, 3 × 3 of them."""
    projected: int
    """After the pooling and a 1 × 1 convolution; 0 where pooled channels are passed on."""

    @property
    def stride(self) -> int:
        """By what the block divides the side."""
        return 1 if self.single else 2

    def outputs(self, inputs: int) -> int:
        """Channels that come out where so many come in."""
        return self.single + self.three[1] + self.double[1] + (self.projected or inputs)

    def scaled(self, width: float) -> "Filters":
        """The same, of a narrower or wider network."""
        (three, wide), (double, widest) = self.three, self.double
        return self._replace(
            single=scaled(self.single, width),
            three=(scaled(three, width), scaled(wide, width)),
            double=(scaled(double, width), scaled(widest, width)),
            projected=scaled(self.projected, width),
        )


BLOCKS = {
    "3a": Filters(64, (64, 64), (64, 96), nn.AvgPool2d, 32),
    "3b": Filters(64, (64, 96), (64, 96), nn.AvgPool2d, 64),
    "3c": Filters(0, (128, 160), (64, 96), nn.MaxPool2d, 0),
    "4a": Filters(224, (64, 96), (96, 128), nn.AvgPool2d, 128),
    "4b": Filters(192, (96, 128), (96, 128), nn.AvgPool2d, 128),
    "4c": Filters(160, (128, 160), (128, 160), nn.AvgPool2d, 128),
    "4d": Filters(96, (128, 192), (160, 192), nn.AvgPool2d, 128),
    "4e": Filters(0, (128, 192), (192, 256), nn.MaxPool2d, 0),
    "5a": Filters(352, (192, 320), (160, 224), nn.AvgPool2d, 128),
    "5b": Filters(352, (192, 320), (192, 224), nn.MaxPool2d, 128),
}
"""The blocks by the paper's names, in their order."""


@dataclass(frozen=True, kw_only=True)
class BNInceptionSpec(ExplicitImageSpec):
    """The settings of a `BNInception`.

    Arguments:
        classes: The number of classes.
        image_channels: Channels of the images.
        mean: Of each channel of the images, which is subtracted.
        deviation: Of each channel, by which the rest is divided.
        width: The share of the published channels that every layer has, above 0.
        small: Whether images are small: then one 3 × 3 convolution stands before the blocks, and
            nothing that divides the side.

    Raises:
        ValueError: When a setting is outside its range, or settings do not fit one another.
    """

    width: float = 1.0
    small: bool = False

    @property
    def smallest(self) -> int:
        """By how much the last features' side is below the images'."""
        return 4 if self.small else 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.width < inf:
            raise ValueError(
                f"`width` is a share of the channels, finite and above 0; got {self.width}."
            )


class BNInception(ExplicitImageModel):
    r"""Two convolutions, ten Inception blocks, the mean over all positions, a linear map.

    .. math:: \text{logits} = W \, \mathrm{mean}(B_{5b}(\dots B_{3a}(\text{stem}(x)))) + b

    Every convolution is without a bias, and followed by batch normalisation and a ReLU. There is
    no dropout, which the paper finds unneeded, and there are no side branches for training.

    References:
        | Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
        Shift (Ioffe & Szegedy, 2015)
        | https://arxiv.org/abs/1502.03167

    Arguments:
        spec: Its settings.

    Example:
        >>> from cdeq.models.vision.batch import ImageBatch
        >>> model = BNInception(BNInceptionSpec(classes=10, width=0.125, small=True))
        >>> batch = ImageBatch(torch.rand(2, 3, 32, 32), torch.tensor([3, 7]))
        >>> model.features(batch.image).shape, model(batch).shape
        (torch.Size([2, 128, 8, 8]), torch.Size([2, 10]))
    """

    Spec = BNInceptionSpec
    spec: BNInceptionSpec

    def __init__(self, spec: BNInceptionSpec) -> None:
        super().__init__(spec)
        channels = scaled(192, spec.width)
        self.stem = nn.Sequential(*_stem(spec, channels))
        self.blocks = nn.Sequential()
        for name, published in BLOCKS.items():
            filters = published.scaled(spec.width)
            self.blocks.add_module(name, Inception(channels, filters))
            channels = filters.outputs(channels)
        self.output = nn.Linear(channels, spec.classes)

    def features(self, image: Images) -> Images:
        """What is pooled."""
        return self.blocks(self.stem(image))

    def logits(self, image: Images) -> Logits:
        return self.output(self.features(image).mean((2, 3)))


class Inception(nn.Module):
    """Branches over the same features, whose channels are put side by side.

    Arguments:
        inputs: Channels in.
        filters: Channels of the branches.

    Example:
        >>> block = Inception(8, Filters(0, (4, 6), (4, 6), nn.MaxPool2d, 0))
        >>> block(torch.rand(2, 8, 5, 4)).shape  # 6 and 6, and those that came in
        torch.Size([2, 20, 3, 2])
    """

    def __init__(self, inputs: int, filters: Filters) -> None:
        super().__init__()
        stride, (three, wide), (double, widest) = filters.stride, filters.three, filters.double
        pooled = nn.Sequential(filters.pool(3, stride, padding=1))
        if filters.projected:
            pooled.append(conv_norm(inputs, filters.projected, 1))
        branches = [
            nn.Sequential(conv_norm(inputs, three, 1), conv_norm(three, wide, 3, stride)),
            nn.Sequential(
                conv_norm(inputs, double, 1),
                conv_norm(double, widest, 3),
                conv_norm(widest, widest, 3, stride),
            ),
            pooled,
        ]
        if filters.single:
            branches.insert(0, conv_norm(inputs, filters.single, 1))
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Images) -> Images:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def scaled(channels: int, width: float) -> int:
    """So many times as many channels, rounded; at least `LEAST` where there are any.

    Example:
        >>> scaled(96, 0.25), scaled(96, 0.01), scaled(0, 0.25)
        (24, 4, 0)
    """
    return max(LEAST, round(width * channels)) if channels else 0


def _stem(spec: BNInceptionSpec, channels: int) -> Iterator[nn.Module]:
    if spec.small:
        yield conv_norm(spec.image_channels, channels, 3)
        return
    narrow = scaled(64, spec.width)
    yield conv_norm(spec.image_channels, narrow, 7, stride=2)
    yield nn.MaxPool2d(3, 2, padding=1)
    yield conv_norm(narrow, narrow, 1)
    yield conv_norm(narrow, channels, 3)
    yield nn.MaxPool2d(3, 2, padding=1)
