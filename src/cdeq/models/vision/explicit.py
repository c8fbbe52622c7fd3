"""What the explicit image classifiers share: normalised pixels, losses, a folder to live in."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.blocks import Images
from cdeq.pretrained import Pretrained
from cdeq.typing import PerSample

Logits = Float[Tensor, "b n"]


@dataclass(frozen=True, kw_only=True)
class ExplicitImageSpec(ABC):
    """What the specifications of these models share.

    Arguments:
        classes: The number of classes.
        image_channels: Channels of the images.
        mean: Of each channel of the images, which is subtracted.
        deviation: Of each channel, by which the rest is divided.

    Raises:
        ValueError: When a setting is outside its range, or settings do not fit one another.
    """

    classes: int = 1000
    image_channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        self._require_counts("classes", "image_channels")
        for name in ("mean", "deviation"):
            if len(getattr(self, name)) != self.image_channels:
                raise ValueError(
                    f"`{name}` has one number for each of the {self.image_channels} "
                    f"`image_channels`; got {getattr(self, name)}."
                )
        if not all(number > 0.0 for number in self.deviation):
            raise ValueError(f"`deviation` divides, so it is above 0; got {self.deviation}.")

    @property
    @abstractmethod
    def smallest(self) -> int:
        """The least height and width of images."""

    def _require_counts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a count of at least 1; got {getattr(self, name)}.")

    def _require_all_counts(self, *names: str) -> None:
        for name in names:
            numbers = getattr(self, name)
            if not numbers or min(numbers) < 1:
                raise ValueError(f"`{name}` are counts of at least 1; got {numbers}.")


class ExplicitImageModel(Pretrained, ABC):
    r"""An image classifier of finitely many layers: no equilibrium, no solver.

    A subclass says which `logits` it makes of normalised images; everything else follows from it.

    .. math:: \text{forward}(\text{image}) = \text{logits}((\text{image} - \mu) / \sigma)

    Arguments:
        spec: Its settings.
    """

    mean: Float[Tensor, "c 1 1"]
    deviation: Float[Tensor, "c 1 1"]

    def __init__(self, spec: ExplicitImageSpec) -> None:
        super().__init__()
        self.spec = spec
        for name, numbers in (("mean", spec.mean), ("deviation", spec.deviation)):
            values = torch.tensor([float(number) for number in numbers]).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)  # not saved: they are settings

    @abstractmethod
    def logits(self, image: Images) -> Logits:
        """A logit a class, of images that are normalised."""

    def forward(self, batch: ImageBatch) -> Logits:
        """A logit a class; labels are not looked at.

        Raises:
            ValueError: When the images have another number of channels or are too small, or are in
                another precision or on another device than the weights.
        """
        self._require_fitting(batch.image)
        image = (batch.image - self.mean) / self.deviation
        # faster on a CPU, whose kernels pool and convolve in this order
        return self.logits(image.contiguous(memory_format=torch.channels_last))

    def losses(self, batch: ImageBatch) -> PerSample:
        """The cross-entropy of each image, which is what training minimises."""
        return self.loss(self(batch), batch)

    def loss(self, output: Logits, batch: ImageBatch) -> PerSample:
        """The cross-entropy of each image, given its logits."""
        return F.cross_entropy(output, batch.label, reduction="none")

    def _require_fitting(self, image: Tensor) -> None:
        channels, smallest = self.spec.image_channels, self.spec.smallest
        if image.ndim != 4 or image.shape[1] != channels:
            raise ValueError(
                f"the model takes images of shape (b, {channels}, height, width); got "
                f"{tuple(image.shape)}: convert them first."
            )
        if min(image.shape[2:]) < smallest:
            raise ValueError(
                "the last features would cover less than one position of such images, so height "
                f"and width are at least {smallest}; got {tuple(image.shape[2:])}: enlarge them, "
                "or build the network for small images."
            )
        if (image.dtype, image.device) != (self.mean.dtype, self.mean.device):
            raise ValueError(
                f"the model's weights are {self.mean.dtype} on {self.mean.device}; got images in "
                f"{image.dtype} on {image.device}; move one to the other first."
            )


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    bias: bool = False,
    relu: bool = True,
) -> nn.Sequential:
    r"""A convolution, batch normalisation and a ReLU; the side is kept, or divided by the stride.

    .. math:: y = \mathrm{ReLU}(\mathrm{BN}(W * x + b))

    The last side is rounded up. W is normal with variance :math:`2 / (k^2 \cdot \text{outputs})`.

    References:
        | Delving Deep into Rectifiers (He, Zhang, Ren & Sun, 2015)
        | https://arxiv.org/abs/1502.01852

    Arguments:
        inputs: Channels in.
        outputs: Channels out.
        kernel: The side k of the kernel, odd.
        stride: Of the convolution.
        bias: Whether there is b, which training normalises away.
        relu: Whether there is a ReLU.

    Example:
        >>> layer = conv_norm(3, 8, 3, stride=2)
        >>> layer(torch.rand(2, 3, 9, 6)).shape
        torch.Size([2, 8, 5, 3])
    """
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    last = [nn.ReLU(inplace=True)] if relu else []
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *last)
