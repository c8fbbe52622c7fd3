"""MDEQ and single-stream DEQ in the published sizes.

Widths, groups, dropout and budgets of `tiny` and `small` are those of the configurations that were
released with the paper, whose own round figures are a little higher. The released tiny network has
720 parameters fewer: no scale and shift after its fusion, and no convolution of the injection.
Single-stream networks were not released: these are as wide as comes closest.

References:
    | Multiscale Deep Equilibrium Models (Bai, Koltun & Kolter, 2020)
    | https://arxiv.org/abs/2006.08656
"""

from dataclasses import replace

from cdeq.core.solvers import Broyden
from cdeq.models.vision.mdeq import MDEQSpec

CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and deviation of the channels of CIFAR-10's training images."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of the channels of ImageNet's training images."""


def tiny() -> MDEQSpec:
    """Two resolutions for CIFAR-10: 159,610 parameters (published: 170 k)."""
    return MDEQSpec(
        channels=(24, 24),
        head=(8, 16),
        features=200,
        mean=CIFAR[0],
        deviation=CIFAR[1],
        dropout=0.25,
        solver=Broyden(),
        max_steps=18,
        adjoint_steps=20,
    )


def small() -> MDEQSpec:
    """Four resolutions for ImageNet: 16,808,936 parameters (published: 18 M)."""
    return MDEQSpec(
        channels=(32, 64, 128, 256),
        strides=(2, 2),
        head=(24, 48, 96, 192),
        features=2048,
        classes=1000,
        mean=IMAGENET[0],
        deviation=IMAGENET[1],
        solver=Broyden(),
        max_steps=26,
        adjoint_steps=27,
    )


def single_stream_tiny() -> MDEQSpec:
    """One resolution for CIFAR-10, pooled: 162,530 parameters (published: 170 k)."""
    return replace(tiny(), channels=(40,), head=())


def single_stream_small() -> MDEQSpec:
    """One resolution for ImageNet, pooled: 17,744,648 parameters (published: 18 M)."""
    return replace(small(), channels=(416,), head=())
