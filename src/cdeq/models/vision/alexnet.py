"""AlexNet: five convolutions, then three linear maps that hold most of the parameters."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from cdeq.models.vision.blocks import Images
from cdeq.models.vision.explicit import ExplicitImageModel, ExplicitImageSpec, Logits

KERNELS = (5, 3, 3, 3)
"""Sides of the kernels after the first."""
POOLED = (0, 1, 4)
"""Which convolutions max-pooling follows."""


@dataclass(frozen=True, kw_only=True)
class AlexNetSpec(ExplicitImageSpec):
    """The settings of an `AlexNet`; `kernel=3, stride=1, padding=1` suits small images.

    Arguments:
        classes: The number of classes.
        image_channels: Channels of the images.
        mean: Of each channel of the images, which is subtracted.
        deviation: Of each channel, by which the rest is divided.
        widths: Channels of the five convolutions.
        hidden: Features of the two hidden linear layers.
        kernel: The side of the first convolution's kernel.
        stride: Of the first convolution.
        padding: Zeros on each side of the images, fewer than the kernel's side.
        pooled: The side to which the last features are averaged.
        dropout: After each hidden linear layer; a share in [0, 1).

    Raises:
        ValueError: When a setting is outside its range, or settings do not fit one another.
    """

    widths: tuple[int, ...] = (64, 192, 384, 256, 256)
    hidden: int = 4096
    kernel: int = 11
    stride: int = 4
    padding: int = 2
    pooled: int = 6
    dropout: float = 0.5

    @property
    def smallest(self) -> int:
        """Of which the last pooling leaves one position."""
        side = 1
        for _ in POOLED:
            side = 2 * side + 1
        return max(1, (side - 1) * self.stride + self.kernel - 2 * self.padding)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_counts("hidden", "kernel", "stride", "pooled")
        self._require_all_counts("widths")
        if len(self.widths) != 1 + len(KERNELS):
            raise ValueError(f"`widths` are of five convolutions; got {self.widths}.")
        if not 0 <= self.padding < self.kernel:
            raise ValueError(
                "`padding` is at least 0 and below the `kernel`, which would see nothing but "
                f"zeros; got {self.padding} and {self.kernel}."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`dropout` is a share in [0, 1); got {self.dropout}.")


class AlexNet(ExplicitImageModel):
    r"""Convolutions with ReLUs, some followed by max-pooling 3/2, then a perceptron.

    .. math:: h = \mathrm{mean}_{6 \times 6}(\text{convolutions}(x)) , \qquad
        \text{logits} = W_3 \, \phi(W_2 \, \phi(W_1 h)) , \qquad
        \phi(u) = \mathrm{dropout}(\mathrm{ReLU}(u)) ,

    each map with a bias. This is the later network of one column, without the response
    normalisations and the halves of the first one.

    References:
        | ImageNet Classification with Deep Convolutional Neural Networks (Krizhevsky, Sutskever &
        Hinton, 2012)
        | One weird trick for parallelizing convolutional neural networks (Krizhevsky, 2014)
        | https://arxiv.org/abs/1404.5997

    Arguments:
        spec: Its settings.

    Example:
        >>> import torch
        >>> from cdeq.models.vision.batch import ImageBatch
        >>> small = AlexNetSpec(
        ...     classes=10, kernel=3, stride=1, padding=1, pooled=3, widths=(8,) * 5, hidden=16
        ... )
        >>> model = AlexNet(small)
        >>> batch = ImageBatch(torch.rand(2, 3, 32, 32), torch.tensor([3, 7]))
        >>> model(batch).shape, small.smallest, AlexNetSpec().smallest
        (torch.Size([2, 10]), 15, 63)
    """

    Spec = AlexNetSpec
    spec: AlexNetSpec

    def __init__(self, spec: AlexNetSpec) -> None:
        super().__init__(spec)
        self.convolutions = _convolutions(spec)
        self.average = nn.AdaptiveAvgPool2d(spec.pooled)
        self.perceptron = nn.Sequential(
            *_hidden(spec.widths[-1] * spec.pooled**2, spec.hidden, spec.dropout),
            *_hidden(spec.hidden, spec.hidden, spec.dropout),
            nn.Linear(spec.hidden, spec.classes),
        )

    def logits(self, image: Images) -> Logits:
        return self.perceptron(self.average(self.convolutions(image)).flatten(1))


def _convolutions(spec: AlexNetSpec) -> nn.Sequential:
    first = nn.Conv2d(
        spec.image_channels, spec.widths[0], spec.kernel, spec.stride, padding=spec.padding
    )
    widths = zip(pairwise(spec.widths), KERNELS, strict=True)
    others = (nn.Conv2d(*pair, kernel, padding=kernel // 2) for pair, kernel in widths)
    layers: list[nn.Module] = []
    for number, convolution in enumerate((first, *others)):
        layers += [convolution, nn.ReLU(inplace=True)]
        if number in POOLED:
            layers.append(nn.MaxPool2d(3, 2))
    return nn.Sequential(*layers)


def _hidden(inputs: int, outputs: int, dropout: float) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)
