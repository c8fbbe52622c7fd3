"""Deblurring: a gradient step on a strictly convex energy, so a contraction for every weight."""

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
from cdeq.models.base import EquilibriumModel
from cdeq.models.imaging.batch import DeblurBatch
from cdeq.models.imaging.blur import GaussianBlur, Images
from cdeq.models.initializer import MLPInitializer
from cdeq.models.operator_norm import conv_norm_bound
from cdeq.typing import PerSample, State

FLAT = 1e-4
"""Added to a target's variance where errors are measured by it: a patch of sky has none."""
PERFECT = 1e-6
"""Added to a mean squared error before its logarithm: nobody sees what is better than 60 dB."""


class Prepared(NamedTuple):
    """What one evaluation needs besides z: computed once a solve."""

    injection: Images
    """C Kᵀ y."""
    normal: Float[Tensor, "h h"]
    """A², so that KᵀK z = A² z A²."""
    filters: Float[Tensor, "c 1 k k"]
    """W of norm at most 1."""
    threshold: Float[Tensor, "c 1 1"]
    """τ."""
    weight: Float[Tensor, ""]
    """λ."""
    step: Float[Tensor, ""]
    """η."""


class REDCell(Cell):
    r"""One step of regularisation by denoising (RED) for a blurred image y,

    .. math:: f(z, y) = z - \eta \big( K^\top K z - C K^\top y + \lambda \, (z - D(z)) \big) ,
        \qquad D(z) = \kappa z - W^\top \varphi(W z) ,

    with K the blur, C a small convolution that starts as the identity, W a convolution scaled to
    norm ≤ 1, and φ the clip to [-τ, τ], a threshold a filter. D takes out what its filters see, up
    to τ: it smoothes noise and keeps edges.

    φ is the gradient of a convex function of curvature between 0 and 1, so the Jacobian of D is
    symmetric with eigenvalues in [κ - 1, κ], and that of the bracket has them in [μ, L],

    .. math:: \mu = \lambda (1 - \kappa) , \qquad L = 1 + \lambda (2 - \kappa) .

    With η = 1 / L, f contracts by the factor 1 - μ/L < 1 in the 2-norm for every weight: its fixed
    point, the minimiser of a strictly convex energy, exists and is unique. That is the worst case
    over all images; how fast a solver is depends on the weights that were learned.

    K is not learned: it is what the equation is about. C is, so that a student's copy of f can
    make more of the image than a gradient step does. It sees few pixels on purpose: a convolution
    as large as the blur could undo most of it at once, and nothing would be left to iterate for.

    References:
        | The Little Engine That Could: Regularization by Denoising (Romano et al., 2017)
        | https://arxiv.org/abs/1611.02862
        | A Neural-Network-Based Convex Regularizer for Inverse Problems (Goujon et al., 2023)
        | https://arxiv.org/abs/2211.12461

    Arguments:
        blur: K.
        channels: Filters of the denoiser W.
        width: The side of its filters and of C, odd.
        kappa: κ in (0, 1), the Lipschitz constant of D when κ ≥ 0.5.
    """

    def __init__(self, blur: GaussianBlur, channels: int, width: int, kappa: float) -> None:
        super().__init__()
        self.blur, self.kappa, self.size = blur, kappa, len(blur.matrix)
        self.folded = False
        self.sharpen = nn.Conv2d(1, 1, width, padding=width // 2, bias=False)
        nn.init.dirac_(self.sharpen.weight)
        filters = torch.randn(channels, 1, width, width)
        # a constant image is no noise; the scale decides only how fast training turns the filters
        filters = (filters - filters.mean((2, 3), keepdim=True)) / width
        self.filters = nn.Parameter(filters / channels**0.5)
        self.threshold = nn.Parameter(torch.full((channels, 1, 1), -5.0))  # τ = 0.007
        self.weight = nn.Parameter(torch.tensor(-3.0))  # λ = 0.05

    def prepare(self, x: Images) -> Prepared:
        weight = F.softplus(self.weight)
        return Prepared(
            injection=self.sharpen(self.blur(x)),
            normal=self.blur.matrix @ self.blur.matrix,
            filters=self.filters if self.folded else self._normalised(),
            threshold=F.softplus(self.threshold),
            weight=weight,
            step=1 / (1 + weight * (2 - self.kappa)),
        )

    @torch.no_grad()
    def fold(self) -> None:
        if not self.folded:
            self.filters.copy_(self._normalised())
        self.folded = True

    def _normalised(self) -> Tensor:
        """W, scaled to norm ≤ 1."""
        bound = conv_norm_bound(self.filters, self.size)
        return self.filters / bound.clamp_min(torch.finfo(bound.dtype).tiny)

    def denoise(self, z: Images, x: Prepared) -> Images:
        """D(z)."""
        padding = x.filters.shape[-1] // 2
        seen = F.conv2d(z, x.filters, padding=padding)
        clipped = torch.clamp(seen, -x.threshold, x.threshold)
        return self.kappa * z - F.conv_transpose2d(clipped, x.filters, padding=padding)

    def forward(self, z: Images, x: Prepared) -> Images:
        data = x.normal @ z @ x.normal - x.injection
        return z - x.step * (data + x.weight * (z - self.denoise(z, x)))


@dataclass(frozen=True, kw_only=True)
class REDSpec:
    """The settings of a `REDDEQ`.

    Arguments:
        channels: Filters of the denoiser.
        width: The side of the learned filters, odd.
        kappa: κ in (0, 1), the Lipschitz constant of the denoiser when κ ≥ 0.5.
        size: The side of the images.
        blur: The width σ of the blur in pixels.
        radius: Where the blur's kernel ends.
        solver: The forward solver.
        max_steps: Its budget.
        adjoint_steps: The budget of the backward pass.

    Raises:
        ValueError: When a setting is outside its range.
    """

    channels: int = 16
    width: int = 5
    kappa: float = 0.99
    size: int = 32
    blur: float = 2.0
    radius: int = 6
    solver: Anderson = Anderson(window=5)
    max_steps: int = 40
    adjoint_steps: int = 12

    def __post_init__(self) -> None:
        for name in ("channels", "width", "size", "radius", "max_steps", "adjoint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a count of at least 1; got {getattr(self, name)}.")
        if self.width % 2 == 0:
            raise ValueError(f"`width` is odd, so that filters have a middle; got {self.width}.")
        if not 0.0 < self.kappa < 1.0:
            raise ValueError(
                "`kappa` is the denoiser's Lipschitz constant κ in (0, 1), or there would be no "
                f"contraction; got {self.kappa}."
            )
        if not 0.0 < self.blur < float("inf"):
            raise ValueError(f"`blur` is a width σ > 0 in pixels; got {self.blur}.")


class REDDEQ(EquilibriumModel):
    """Deblurring: `REDCell` to its equilibrium, which is the answer itself.

    Example:
        >>> model = REDDEQ(REDSpec(channels=2, size=16))
        >>> sharp = torch.rand(3, 1, 16, 16) - 0.5
        >>> model(DeblurBatch(model.deq.cell.blur(sharp), sharp)).shape
        torch.Size([3, 1, 16, 16])
    """

    Spec = REDSpec
    headless = True

    def __init__(self, spec: REDSpec) -> None:
        super().__init__()
        self.spec = spec
        blur = GaussianBlur(sigma=spec.blur, radius=spec.radius, size=spec.size)
        self.deq = DEQ(
            REDCell(blur, spec.channels, spec.width, spec.kappa),
            solver=spec.solver,
            adjoint=Implicit(max_steps=spec.adjoint_steps, tol=None),
            max_steps=spec.max_steps,
        )

    def encode(self, batch: DeblurBatch) -> Images:
        """The blurred images themselves: what f makes of them is its own (see `REDCell`).

        Raises:
            ValueError: When the images are not of the size that the model was built for, or in
                another precision or on another device than the weights.
        """
        expected, seen = (1, self.spec.size, self.spec.size), batch.blurred
        if tuple(seen.shape[1:]) != expected:
            raise ValueError(
                f"the model was built for images of shape {expected} (channels, height, width); "
                f"got {tuple(seen.shape[1:])}; cut patches of that size."
            )
        here = next(self.parameters())
        if (seen.dtype, seen.device) != (here.dtype, here.device):
            raise ValueError(
                f"the model's weights are {here.dtype} on {here.device}; got images in "
                f"{seen.dtype} on {seen.device}; move one to the other first."
            )
        return seen

    def initial(self, x: Images) -> State:
        return torch.zeros_like(x)

    def decode(self, z: State, x: Images) -> Images:
        assert isinstance(z, Tensor)
        return z

    def loss(self, output: Images, batch: DeblurBatch) -> PerSample:
        r"""The logarithm of the mean squared error, which averages over images as dB do.

        .. math:: \ln \big( \mathrm{mean}\,(\text{output} - \text{sharp})^2 + 10^{-6} \big)

        The error itself would leave all training to the few patches full of edges.
        """
        error = (output - batch.sharp).square().flatten(1).mean(1)
        return (error + PERFECT).log()

    def divergence(self, output: Images, target: Images) -> PerSample:
        r"""The mean squared error as a share of the target's variance, a sample.

        .. math:: \frac{\mathrm{mean}\,(\text{output} - \text{target})^2}
            {\mathrm{var}(\text{target}) + 10^{-4}}

        The constant is one percent of full contrast, squared: a patch without content is measured
        by that.
        """
        error = (output - target).square().flatten(1).mean(1)
        return error / (target.flatten(1).var(1, correction=0) + FLAT)

    def initializer(self) -> MLPInitializer:
        size = self.spec.size
        return MLPInitializer(size**2, (1, size, size))

    def readout(self) -> LinearReadout:
        return LinearReadout([1], axis=1)
