"""A Gaussian blur as a symmetric linear operator."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "b 1 h w"]


class GaussianBlur(nn.Module):
    r"""Convolution with a Gaussian, zero outside the image.

    The kernel is separable, so on a square image it is the same small matrix from both sides,

    .. math:: K z = A z A , \qquad A_{ij} \propto e^{-(i - j)^2 / 2 \sigma^2}
        \text{ for } |i - j| \le r ,

    scaled such that a whole kernel sums to 1. A is symmetric, so K is its own transpose; no row
    sums to more than 1, so by Gershgorin ‖A‖ ≤ 1 and ‖K‖ = ‖A‖² ≤ 1.

    Arguments:
        sigma: The width σ > 0 in pixels.
        radius: Where the kernel ends, r ≥ 0 pixels from its middle.
        size: The side of the images.

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> blur = GaussianBlur(sigma=1.0, radius=1, size=3)
        >>> dot = torch.zeros(1, 1, 3, 3)
        >>> dot[0, 0, 1, 1] = 1.0
        >>> torch.allclose(blur(dot), blur.kernel)
        True
    """

    matrix: Float[Tensor, "h h"]

    def __init__(self, *, sigma: float, radius: int, size: int) -> None:
        super().__init__()
        if not 0.0 < sigma < float("inf") or radius < 0 or size < 1:
            raise ValueError(
                "a blur has a width σ > 0, a radius ≥ 0 and images of at least one pixel; got "
                f"σ = {sigma}, radius {radius} and size {size}."
            )
        self.sigma, self.radius = sigma, radius
        places = torch.arange(size, dtype=torch.float64)
        distance = (places.unsqueeze(1) - places).abs()
        self.register_buffer("matrix", _profile(distance, sigma, radius).float())

    @property
    def kernel(self) -> Float[Tensor, "1 1 k k"]:
        """The whole kernel, for a convolution."""
        offsets = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        line = _profile(offsets.abs(), self.sigma, self.radius)
        return torch.outer(line, line).to(self.matrix).view(1, 1, len(line), len(line))

    def forward(self, z: Images) -> Images:
        return self.matrix @ z @ self.matrix


def _profile(distance: Tensor, sigma: float, radius: int) -> Tensor:
    """The weights of these distances; those of a whole kernel sum to 1."""
    line = torch.arange(-radius, radius + 1, dtype=distance.dtype)
    total = (-0.5 * (line / sigma) ** 2).exp().sum()
    weight = (-0.5 * (distance / sigma) ** 2).exp() / total
    return weight.where(distance <= radius, torch.zeros((), dtype=distance.dtype))
