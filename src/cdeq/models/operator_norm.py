"""A rigorous, smooth bound on the operator norm of a convolution."""

import torch
from jaxtyping import Float
from torch import Tensor


def conv_norm_bound(
    weight: Float[Tensor, "o i h w"], size: int, *, squarings: int = 3
) -> Float[Tensor, ""]:
    r"""An upper bound on the 2-norm of a zero-padded "same" convolution over size × size images.

    Zero padding embeds the image in a torus of side n = size + kernel - 1, where the convolution
    is block diagonal in frequency: with :math:`\hat W(\omega)` the kernel's Fourier transform,

    .. math:: \|W\| \le \max_\omega \|\hat W(\omega)\|_2
        \le \max_\omega \Big( \mathrm{tr}\, G(\omega)^{p} \Big)^{1/2p} , \qquad
        G = \hat W^* \hat W , \quad p = 2^\text{squarings} .

    The last step replaces the largest singular value by the Schatten norm of order 2p, which
    exceeds it by at most a factor (channels)^(1/2p), needs no decomposition and is differentiable.

    Arguments:
        weight: The kernel.
        size: The side of the images.
        squarings: How often G is squared; each one about halves the slack.

    Example:
        >>> identity = torch.zeros(1, 1, 3, 3)
        >>> identity[0, 0, 1, 1] = 1.0
        >>> conv_norm_bound(identity, size=8)
        tensor(1.)
    """
    side = size + max(weight.shape[2:]) - 1
    # scaled twice, so that no square over- or underflows; both scales cancel in value and gradient
    largest = weight.abs().amax().detach().clamp_min(torch.finfo(weight.dtype).tiny)
    spectrum = torch.fft.rfft2(weight / largest, s=(side, side)).permute(2, 3, 0, 1).flatten(0, 1)
    gram = spectrum.mH @ spectrum
    scale = _traces(gram).amax().detach().clamp_min(torch.finfo(weight.dtype).tiny)
    power = gram / scale
    for _ in range(squarings):
        power = power @ power
    return (_traces(power).amax() ** (0.5**squarings) * scale).sqrt() * largest


def _traces(matrices: Tensor) -> Tensor:
    return torch.diagonal(matrices, dim1=1, dim2=2).real.sum(1)
