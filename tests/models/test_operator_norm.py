"""The bound on a convolution's norm: never below the true one, close above it, scale-free."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cdeq.models.operator_norm import conv_norm_bound

each_shape = pytest.mark.parametrize(
    "shape", [(1, 1, 3, 3), (3, 3, 3, 3), (2, 5, 3, 3), (5, 2, 3, 3), (3, 3, 1, 1), (2, 2, 5, 5)]
)
each_size = pytest.mark.parametrize("size", [1, 2, 3, 6])


def kernel(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def dense(weight: Tensor, size: int) -> Tensor:
    """The matrix of the convolution: its values at all unit images."""
    inputs = weight.shape[1] * size**2
    units = torch.eye(inputs, dtype=weight.dtype).view(inputs, weight.shape[1], size, size)
    return F.conv2d(units, weight, padding=weight.shape[2] // 2).flatten(1).T


def true_norm(weight: Tensor, size: int) -> Tensor:
    return torch.linalg.matrix_norm(dense(weight, size), 2)


def torus_norm(weight: Tensor, size: int) -> Tensor:
    """The largest singular value over all frequencies, by decomposition."""
    side = size + weight.shape[2] - 1
    spectrum = torch.fft.fft2(weight, s=(side, side)).permute(2, 3, 0, 1)
    return torch.linalg.svdvals(spectrum).max()


@each_shape
@each_size
@pytest.mark.parametrize("squarings", [0, 3, 6])
def test_it_is_a_bound_and_not_a_loose_one(
    shape: tuple[int, ...], size: int, squarings: int
) -> None:
    for seed in range(3):
        weight = kernel(*shape, seed=seed)
        bound = conv_norm_bound(weight, size, squarings=squarings)
        torus = torus_norm(weight, size)
        assert true_norm(weight, size) <= torus * (1 + 1e-12) <= bound * (1 + 2e-12)
        assert bound <= torus * min(shape[:2]) ** (0.5 / 2**squarings) * (1 + 1e-12)


@each_shape
def test_more_squarings_are_tighter(shape: tuple[int, ...]) -> None:
    weight = kernel(*shape)
    bounds = [float(conv_norm_bound(weight, 5, squarings=n)) for n in range(8)]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(bounds))
    assert bounds[-1] == pytest.approx(float(torus_norm(weight, 5)), rel=0.01)


@each_shape
def test_the_padding_is_what_is_lost(shape: tuple[int, ...]) -> None:
    """Large images feel their border little: the bound of the torus becomes the norm."""
    weight = kernel(*shape)
    small, large = (float(torus_norm(weight, n) / true_norm(weight, n)) for n in (2, 12))
    assert 1 - 1e-12 <= large <= min(small + 1e-12, 1.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_it_is_homogeneous_at_every_scale(dtype: torch.dtype, scale: float) -> None:
    weight = kernel(3, 3, 3, 3).to(dtype)
    scaled = conv_norm_bound(scale * weight, 4)
    torch.testing.assert_close(scaled / scale, conv_norm_bound(weight, 4))


def test_nothing_has_norm_zero() -> None:
    assert conv_norm_bound(torch.zeros(2, 2, 3, 3), 4) == 0.0


def test_it_is_differentiable() -> None:
    weight = kernel(2, 3, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: conv_norm_bound(w, 4), (weight,))
