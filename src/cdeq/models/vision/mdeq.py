"""MDEQ: an image classifier whose features at several resolutions are one equilibrium."""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.adjoint import Implicit, Phantom
from cdeq.core.deq import DEQ
from cdeq.core.readout import LinearReadout
from cdeq.core.solvers import Anderson, Broyden, Picard
from cdeq.models.base import EquilibriumModel
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.blocks import Images
from cdeq.models.vision.initializer import PyramidInitializer
from cdeq.models.vision.mdeq_cell import MDEQCell, Pyramid, pyramid_shapes
from cdeq.models.vision.stem import BottleneckHead, PooledHead, Stem
from cdeq.typing import PerSample, State


@dataclass(frozen=True, kw_only=True)
class MDEQSpec:
    """The settings of an `MDEQ`. Images may be of any size that its `stride` divides.

    Arguments:
        channels: Of each resolution, the highest first; one alone makes a single-stream DEQ.
        blocks: Residual blocks a resolution.
        expansion: How many times as many channels there are inside a block.
        groups: Of the normalisations, even; they divide all `channels`.
        strides: Of the convolutions before f, one after the other.
        head: Widths of the head's bottlenecks, a resolution each; () is global average pooling.
        features: Channels that the head with bottlenecks pools.
        classes: The number of classes.
        image_channels: Channels of the images.
        mean: Of each channel of the images, which is subtracted.
        deviation: Of each channel, by which the rest is divided.
        dropout: In f, fixed along a solve; a share in [0, 1).
        solver: The forward solver.
        max_steps: Its budget of evaluations.
        tol: Its relative residual; None spends the budget.
        adjoint_steps: The budget of the backward pass.
        phantom: Gradients of this kind instead, which need no solve.

    Raises:
        ValueError: When a setting is outside its range, or settings do not fit one another.
    """

    channels: tuple[int, ...] = (24, 24)
    blocks: int = 1
    expansion: int = 5
    groups: int = 8
    strides: tuple[int, ...] = (1, 1)
    head: tuple[int, ...] = (8, 16)
    features: int = 200
    classes: int = 10
    image_channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.25, 0.25, 0.25)
    dropout: float = 0.0
    solver: Anderson | Broyden | Picard = Anderson()
    max_steps: int = 18
    tol: float | None = None
    adjoint_steps: int = 20
    phantom: Phantom | None = None

    @property
    def stride(self) -> int:
        """By how much the lowest resolution is below the images'."""
        return prod(self.strides) * 2 ** (len(self.channels) - 1)

    def __post_init__(self) -> None:
        self._require_counts()
        self._require_groups()
        if self.head and len(self.head) != len(self.channels):
            raise ValueError(
                "`head` has one width for each of the `channels`, or none for global average "
                f"pooling; got {self.head} and {self.channels}."
            )
        for name in ("mean", "deviation"):
            if len(getattr(self, name)) != self.image_channels:
                raise ValueError(
                    f"`{name}` has one number for each of the {self.image_channels} "
                    f"`image_channels`; got {getattr(self, name)}."
                )
        if not all(number > 0.0 for number in self.deviation):
            raise ValueError(f"`deviation` divides, so it is above 0; got {self.deviation}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`dropout` is a share in [0, 1); got {self.dropout}.")

    def _require_counts(self) -> None:
        single = ("blocks", "expansion", "groups", "features", "classes", "image_channels")
        for name in (*single, "max_steps", "adjoint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a count of at least 1; got {getattr(self, name)}.")
        for name in ("channels", "strides", "head"):
            numbers = getattr(self, name)
            if min(numbers, default=1) < 1 or (not numbers and name != "head"):
                raise ValueError(f"`{name}` are counts of at least 1; got {numbers}.")

    def _require_groups(self) -> None:
        if self.groups % 2 or any(width % self.groups for width in self.channels):
            raise ValueError(
                "`groups` are even, since the last normalisation has half as many, and divide "
                f"all `channels`; got {self.groups} and {self.channels}."
            )


class MDEQ(EquilibriumModel):
    r"""An image classifier: a stem, `MDEQCell` to its equilibrium, a head over all resolutions.

    A state is a tuple of tensors, one a resolution, even if there is but one. That f has an
    equilibrium, and only one, is nothing its form guarantees: training has to see to it.

    References:
        | Multiscale Deep Equilibrium Models (Bai, Koltun & Kolter, 2020)
        | https://arxiv.org/abs/2006.08656

    Example:
        >>> import torch
        >>> model = MDEQ(MDEQSpec(channels=(8, 16), head=(4, 8), features=32))
        >>> batch = ImageBatch(torch.rand(2, 3, 16, 16), torch.tensor([3, 7]))
        >>> x = model.encode(batch)
        >>> [tuple(part.shape) for part in model.initial(x)], model(batch).shape
        ([(2, 8, 16, 16), (2, 16, 8, 8)], torch.Size([2, 10]))
    """

    Spec = MDEQSpec

    def __init__(self, spec: MDEQSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = Stem(spec.mean, spec.deviation, spec.channels[0], spec.strides, spec.groups)
        cell = MDEQCell(
            spec.channels,
            blocks=spec.blocks,
            expansion=spec.expansion,
            groups=spec.groups,
            dropout=spec.dropout,
        )
        self.deq = DEQ(
            cell,
            solver=spec.solver,
            adjoint=spec.phantom or Implicit(max_steps=spec.adjoint_steps, tol=None),
            max_steps=spec.max_steps,
            tol=spec.tol,
        )
        self.head = _head(spec)

    def encode(self, batch: ImageBatch) -> Images:
        """The features that are injected, normalised images through the stem.

        Raises:
            ValueError: When the images have another number of channels or a size that the stride
                does not divide, or are in another precision or on another device than the weights.
        """
        image, (channels, stride) = batch.image, (self.spec.image_channels, self.spec.stride)
        if image.ndim != 4 or image.shape[1] != channels:
            raise ValueError(
                f"the model takes images of shape (b, {channels}, height, width); got "
                f"{tuple(image.shape)}: convert them first."
            )
        if image.shape[2] % stride or image.shape[3] % stride or 0 in image.shape[2:]:
            raise ValueError(
                f"the lowest resolution is {stride} times below the images', so height and width "
                f"are multiples of {stride}; got {tuple(image.shape[2:])}: resize or crop them."
            )
        here = self.stem.mean
        if (image.dtype, image.device) != (here.dtype, here.device):
            raise ValueError(
                f"the model's weights are {here.dtype} on {here.device}; got images in "
                f"{image.dtype} on {image.device}; move one to the other first."
            )
        return self.stem(image)

    def initial(self, x: Images) -> Pyramid:
        # x may be narrow under mixed precision, which states never are
        dtype = self.stem.mean.dtype
        return tuple(x.new_zeros(s, dtype=dtype) for s in pyramid_shapes(x, self.spec.channels))

    def decode(self, z: State, x: Images) -> Tensor:
        """A logit a class."""
        return self.head(z)

    def loss(self, output: Tensor, batch: ImageBatch) -> PerSample:
        """The cross-entropy."""
        return F.cross_entropy(output, batch.label, reduction="none")

    def readout(self) -> LinearReadout:
        return LinearReadout(self.spec.channels, axis=1)

    def initializer(self) -> PyramidInitializer:
        return PyramidInitializer(self.spec.channels)


def _head(spec: MDEQSpec) -> nn.Module:
    if not spec.head:
        return PooledHead(spec.channels, spec.classes)
    return BottleneckHead(spec.channels, spec.head, spec.features, spec.classes)
