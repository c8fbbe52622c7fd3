"""A convolutional DEQ that is a contraction by construction, so right at its equilibrium."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.adjoint import Implicit
from cdeq.core.cell import Cell
from cdeq.core.deq import DEQ
from cdeq.core.readout import LinearReadout
from cdeq.core.solvers import Anderson
from cdeq.core.solvers.base import require_fraction
from cdeq.models.base import EquilibriumModel
from cdeq.models.initializer import MLPInitializer
from cdeq.models.operator_norm import conv_norm_bound
from cdeq.models.vision.batch import ImageBatch
from cdeq.typing import PerSample, State

Images = Float[Tensor, "b c h w"]


class Prepared(NamedTuple):
    """What one evaluation needs besides z: computed once a solve."""

    injection: Images
    """U x + b; the image itself where the cell is folded."""
    weight: Float[Tensor, "c _ 3 3"]


class ContractionCell(Cell):
    r"""One normalised convolution of the state, and one of the image that is injected,

    .. math:: f(z, x) = \mathrm{ReLU}\Big( \frac{\kappa}{\|W\|} \, W * z + U * x + b \Big) .

    ‖W‖ is bounded from above, so f is a contraction of factor κ in the 2-norm for every weight:
    its fixed point exists, is unique, and every solver finds it.

    U belongs to f, so a student's copy of f has its own.

    Arguments:
        image_channels: Channels of the images x.
        channels: Features of the state.
        size: The side of the images.
        factor: κ in (0, 1].
    """

    def __init__(self, image_channels: int, channels: int, size: int, factor: float) -> None:
        super().__init__()
        require_fraction("factor", factor, "the contraction factor κ")
        self.size, self.factor, self.folded = size, factor, False
        self.injection = nn.Conv2d(image_channels, channels, 3, padding=1)
        # f does not depend on the weight's scale, but how far a gradient step turns it does
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / (3 * channels**0.5))

    def prepare(self, x: Images) -> Prepared:
        if self.folded:
            return Prepared(x, self.weight)
        return Prepared(self.injection(x), self._normalised())

    @torch.no_grad()
    def fold(self) -> None:
        """Put κ W / ‖W‖ and U into one convolution of state and image, which for a cell that is
        evaluated once a solve, as a learned step is, is cheaper than an injection of its own."""
        if not self.folded:
            both = torch.cat([self._normalised(), self.injection.weight], dim=1)
            self.weight = nn.Parameter(both, requires_grad=self.weight.requires_grad)
        self.folded = True

    def _normalised(self) -> Tensor:
        """κ W / ‖W‖."""
        bound = conv_norm_bound(self.weight, self.size)
        # divided first: κ over a tiny bound would overflow; W = 0 is a contraction as it is
        unit = self.weight / bound.clamp_min(torch.finfo(bound.dtype).tiny)
        return unit * self.factor

    def forward(self, z: Images, x: Prepared) -> Images:
        if self.folded:
            both = torch.cat([z, x.injection], dim=1)
            return F.conv2d(both, x.weight, self.injection.bias, padding=1).relu_()
        return F.conv2d(z, x.weight, padding=1).add_(x.injection).relu_()


@dataclass(frozen=True, kw_only=True)
class ContractionSpec:
    """The settings of a `ContractionDEQ`.

    Arguments:
        channels: Features of the state.
        image_channels: Channels of the images.
        size: The side of the images.
        classes: The number of classes.
        factor: The contraction factor κ in (0, 1].
        solver: The forward solver.
        max_steps: Its budget.
        adjoint_steps: The budget of the backward pass.

    Raises:
        ValueError: When a count is below 1 or the factor outside (0, 1].
    """

    channels: int = 24
    image_channels: int = 1
    size: int = 8
    classes: int = 10
    factor: float = 0.98
    solver: Anderson = Anderson(window=5)
    max_steps: int = 40
    adjoint_steps: int = 12

    def __post_init__(self) -> None:
        counts = ("channels", "image_channels", "size", "classes", "max_steps", "adjoint_steps")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a count of at least 1; got {getattr(self, name)}.")
        require_fraction("factor", self.factor, "the contraction factor κ")


class ContractionDEQ(EquilibriumModel):
    """An image classifier: `ContractionCell` to its equilibrium, then a linear head.

    Example:
        >>> model = ContractionDEQ(ContractionSpec(channels=4))
        >>> model(ImageBatch(torch.rand(2, 1, 8, 8), torch.tensor([3, 7]))).shape
        torch.Size([2, 10])
    """

    Spec = ContractionSpec

    def __init__(self, spec: ContractionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.deq = DEQ(
            ContractionCell(spec.image_channels, spec.channels, spec.size, spec.factor),
            solver=spec.solver,
            adjoint=Implicit(max_steps=spec.adjoint_steps, tol=None),
            max_steps=spec.max_steps,
        )
        self.head = nn.Linear(spec.channels * spec.size**2, spec.classes)

    def encode(self, batch: ImageBatch) -> Images:
        """The images themselves: what f makes of them is its own (see `ContractionCell`).

        Raises:
            ValueError: When the images are not of the size or the number of channels trained for,
                or in another precision or on another device than the weights.
        """
        expected = (self.spec.image_channels, self.spec.size, self.spec.size)
        if tuple(batch.image.shape[1:]) != expected:
            raise ValueError(
                f"the model was built for images of shape {expected} (channels, height, width); "
                f"got {tuple(batch.image.shape[1:])}; resize them first."
            )
        here, there = self.head.weight, batch.image
        if (there.dtype, there.device) != (here.dtype, here.device):
            raise ValueError(
                f"the model's weights are {here.dtype} on {here.device}; got images in "
                f"{there.dtype} on {there.device}; move one to the other first."
            )
        return batch.image

    def initial(self, x: Images) -> State:
        return x.new_zeros(len(x), self.spec.channels, self.spec.size, self.spec.size)

    def decode(self, z: State, x: Images) -> Float[Tensor, "b n"]:
        assert isinstance(z, Tensor)
        return self.head(z.flatten(1))

    def loss(self, output: Tensor, batch: ImageBatch) -> PerSample:
        return F.cross_entropy(output, batch.label, reduction="none")

    def initializer(self) -> MLPInitializer:
        spec = self.spec
        pixels = spec.image_channels * spec.size**2
        return MLPInitializer(pixels, (spec.channels, spec.size, spec.size))

    def readout(self) -> LinearReadout:
        return LinearReadout([self.spec.channels], axis=1)
