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
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.operator_norm import conv_norm_bound
from cdeq.typing import PerSample, State

Images = Float[Tensor, "b c h w"]


class Prepared(NamedTuple):
    """What one evaluation needs besides z: computed once a solve."""

    injection: Images
    weight: Float[Tensor, "c c 3 3"]


class ContractionCell(Cell):
    r"""One normalised convolution and an injection,

    .. math:: f(z, x) = \mathrm{ReLU}\Big( \frac{\kappa}{\|W\|} \, W * z + x \Big) .

    ‖W‖ is bounded from above, so f is a contraction of factor κ in the 2-norm for every weight:
    its fixed point exists, is unique, and every solver finds it.

    Arguments:
        channels: Features of the state.
        size: The side of the images.
        factor: κ in (0, 1].
    """

    def __init__(self, channels: int, size: int, factor: float) -> None:
        super().__init__()
        require_fraction("factor", factor, "the contraction factor κ")
        self.size, self.factor = size, factor
        # f does not depend on the weight's scale, but how far a gradient step turns it does
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / (3 * channels**0.5))

    def prepare(self, x: Images) -> Prepared:
        return Prepared(x, self.weight * (self.factor / conv_norm_bound(self.weight, self.size)))

    def forward(self, z: Images, x: Prepared) -> Images:
        return F.relu(F.conv2d(z, x.weight, padding=1) + x.injection)


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
        adjoint: The backward pass.
    """

    channels: int = 24
    image_channels: int = 1
    size: int = 8
    classes: int = 10
    factor: float = 0.98
    solver: Anderson = Anderson(window=5)
    max_steps: int = 40
    adjoint_steps: int = 12


class ContractionDEQ(EquilibriumModel):
    """An image classifier: one convolution, `ContractionCell` to its equilibrium, a linear head.

    Example:
        >>> model = ContractionDEQ(ContractionSpec(channels=4))
        >>> model(ImageBatch(torch.rand(2, 1, 8, 8), torch.tensor([3, 7]))).shape
        torch.Size([2, 10])
    """

    Spec = ContractionSpec

    def __init__(self, spec: ContractionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = nn.Conv2d(spec.image_channels, spec.channels, 3, padding=1)
        self.deq = DEQ(
            ContractionCell(spec.channels, spec.size, spec.factor),
            solver=spec.solver,
            adjoint=Implicit(max_steps=spec.adjoint_steps, tol=None),
            max_steps=spec.max_steps,
        )
        self.head = nn.Linear(spec.channels * spec.size**2, spec.classes)

    def encode(self, batch: ImageBatch) -> Images:
        """The injection.

        Raises:
            ValueError: When the images are not of the size or the number of channels trained for.
        """
        expected = (self.spec.image_channels, self.spec.size, self.spec.size)
        if tuple(batch.image.shape[1:]) != expected:
            raise ValueError(
                f"the model was built for images of shape {expected} (channels, height, width); "
                f"got {tuple(batch.image.shape[1:])}; resize them first."
            )
        return self.encoder(batch.image)

    def initial(self, x: Images) -> State:
        return torch.zeros_like(x)

    def decode(self, z: State, x: Images) -> Float[Tensor, "b n"]:
        assert isinstance(z, Tensor)
        return self.head(z.flatten(1))

    def loss(self, output: Tensor, batch: ImageBatch) -> PerSample:
        return F.cross_entropy(output, batch.label, reduction="none")

    def readout(self) -> LinearReadout:
        return LinearReadout([self.spec.channels], axis=1)
