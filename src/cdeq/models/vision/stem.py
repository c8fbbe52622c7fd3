"""The two ends of an equilibrium of images: from pixels to features, and from states to classes.

Where the published networks normalise over the batch, these normalise each sample on its own, with
as many parameters: what is said of an image never depends on its batch mates, in training neither.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cdeq.models.vision.blocks import Images

WIDENING = 4
"""How many times as many channels come out of a bottleneck as there are inside."""


class Stem(nn.Module):
    r"""Pixels made features: :math:`(x - \mu) / \sigma`, then convolutions, each with GN and ReLU.

    Arguments:
        mean: μ, a channel each.
        deviation: σ, a channel each.
        channels: Of the features.
        strides: Of the 3 × 3 convolutions, one after the other.
        groups: Of the normalisations.

    Example:
        >>> stem = Stem((0.5,), (0.25,), channels=4, strides=(2, 2), groups=2)
        >>> stem(torch.rand(3, 1, 16, 16)).shape
        torch.Size([3, 4, 4, 4])
    """

    mean: Float[Tensor, "c 1 1"]
    deviation: Float[Tensor, "c 1 1"]

    def __init__(
        self,
        mean: Sequence[float],
        deviation: Sequence[float],
        channels: int,
        strides: Sequence[int],
        groups: int,
    ) -> None:
        super().__init__()
        for name, numbers in (("mean", mean), ("deviation", deviation)):
            # not saved: they are settings
            value = torch.tensor([float(number) for number in numbers]).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)
        layers: list[nn.Module] = []
        width = len(mean)
        for stride in strides:
            convolution = nn.Conv2d(width, channels, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(groups, channels), nn.ReLU()]
            width = channels
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Images) -> Images:
        return self.layers((image - self.mean) / self.deviation)


class PooledHead(nn.Module):
    """The mean over all positions of each resolution, then a linear map.

    Arguments:
        channels: Of each resolution.
        classes: How many.
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(sum(channels), classes)

    def forward(self, z: Sequence[Images]) -> Float[Tensor, "b n"]:
        return self.output(torch.cat([part.mean((2, 3)) for part in z], dim=1))


class Bottleneck(nn.Module):
    r"""A residual block with a narrow middle, whose width is a quarter of what comes out.

    .. math:: y = \mathrm{ReLU}\big( S(z) + \mathrm{N}(W_3 * \mathrm{ReLU}(\mathrm{N}(W_2 *
        \mathrm{ReLU}(\mathrm{N}(W_1 * z))))) \big)

    with :math:`W_1, W_3` of side 1 and :math:`W_2` of side 3, N normalisation over a sample, and S
    a normalised 1 × 1 convolution, or the identity where in and out are of one width.

    Arguments:
        inputs: Channels in.
        width: Of the middle.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        outputs = WIDENING * width
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.GroupNorm(1, width, affine=False),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(1, width, affine=False),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.GroupNorm(1, outputs, affine=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.GroupNorm(1, outputs))

    def forward(self, z: Images) -> Images:
        return (self.layers(z) + self.shortcut(z)).relu_()


class BottleneckHead(nn.Module):
    r"""MDEQ's head: each resolution widened, all gathered at the lowest, pooled, a linear map.

    .. math:: y_1 = B_1(z_1) , \qquad y_{i+1} = B_{i+1}(z_{i+1}) + D_i(y_i) , \qquad
        \text{logits} = V \, \mathrm{mean}(F(y_n)) + b

    with bottlenecks B, strided convolutions D and a 1 × 1 convolution F, the latter two normalised
    and followed by a ReLU.

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
        self.bottlenecks = nn.ModuleList(Bottleneck(inputs, width) for inputs, width in pairs)
        wide = [WIDENING * width for width in widths]
        self.downs = nn.ModuleList(
            _normalised(nn.Conv2d(inputs, outputs, 3, 2, padding=1))
            for inputs, outputs in pairwise(wide)
        )
        self.last = _normalised(nn.Conv2d(wide[-1], features, 1))
        self.output = nn.Linear(features, classes)

    def forward(self, z: Sequence[Images]) -> Float[Tensor, "b n"]:
        first, *others = (block(part) for block, part in zip(self.bottlenecks, z, strict=True))
        gathered = first
        for down, part in zip(self.downs, others, strict=True):
            gathered = part + down(gathered)
        return self.output(self.last(gathered).mean((2, 3)))


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GroupNorm(1, convolution.out_channels), nn.ReLU())
