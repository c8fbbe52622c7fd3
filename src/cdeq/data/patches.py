"""Patches of two photographs, sharp and blurred, in memory."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cdeq.data.indexed import Indices
from cdeq.errors import CDEQError
from cdeq.models.imaging.batch import DeblurBatch
from cdeq.models.imaging.blur import GaussianBlur

PARTS = ((0, 304, 12), (304, 384, 16), (384, 640, 16))
"""The columns of each part, in both photographs, and the distance of its patches."""
CONTENT = 0.03
"""The standard deviation of the pixels below which a patch is empty sky or the like."""


@dataclass(frozen=True)
class PatchSet:
    """Blurred and sharp patches (see `DeblurBatch`), in memory.

    Raises:
        TypeError: When pixels are no floating-point numbers.
        ValueError: When there is no patch, shapes differ, or a pixel is not finite.

    Example:
        >>> patches = PatchSet(torch.zeros(5, 1, 8, 8), torch.rand(5, 1, 8, 8))
        >>> patches.take(torch.tensor([4, 0])).sharp.shape
        torch.Size([2, 1, 8, 8])
    """

    blurred: Float[Tensor, "n 1 h w"]
    sharp: Float[Tensor, "n 1 h w"]

    def __post_init__(self) -> None:
        if not (self.blurred.is_floating_point() and self.blurred.dtype == self.sharp.dtype):
            raise TypeError(
                "patches are floating-point numbers, blurred and sharp alike; got "
                f"{self.blurred.dtype} and {self.sharp.dtype}."
            )
        if len(self.blurred) == 0:
            raise ValueError("a patch set needs at least one patch; got none.")
        if self.blurred.shape != self.sharp.shape:
            raise ValueError(
                "every blurred patch needs its sharp one, of the same size; got shapes "
                f"{tuple(self.blurred.shape)} and {tuple(self.sharp.shape)}."
            )
        finite = torch.isfinite(self.blurred) & torch.isfinite(self.sharp)
        if not bool(finite.all()):
            bad = int((~finite.flatten(1)).any(1).sum())
            raise ValueError(f"pixels must be finite numbers; {bad} patches hold NaN or infinity.")

    def __len__(self) -> int:
        return len(self.sharp)

    def take(self, indices: Indices) -> DeblurBatch:
        """The patches at these positions."""
        return DeblurBatch(self.blurred[indices], self.sharp[indices])


class PatchSplits(NamedTuple):
    """Train to fit, select on validation, report test."""

    train: PatchSet
    validation: PatchSet
    test: PatchSet


def load_patches(blur: GaussianBlur, *, noise: float, limit: int | None = None) -> PatchSplits:
    """Patches of the two photographs that come with scikit-learn, blurred, with white noise.

    The three parts are disjoint vertical strips of both (921, 150 and 304 patches of 32 × 32
    pixels); within a part, patches overlap. Patches without content are left out, because any
    method is right there. A patch is cut out before it is blurred, and so has nothing around it,
    as `GaussianBlur` assumes. Neither split nor noise depends on any seed of a run.

    Arguments:
        blur: The blur; its size is that of the patches.
        noise: The standard deviation of the noise, ≥ 0, in units of the full contrast.
        limit: Keep only so many patches of each part, evenly spread, for quick trials.

    Raises:
        CDEQError: When scikit-learn's photographs cannot be read.
        ValueError: When `noise` is negative, or patches are larger than the narrowest strip.

    Example:
        >>> parts = load_patches(GaussianBlur(sigma=2.0, radius=6, size=32), noise=0.01)
        >>> [len(part) for part in parts]
        [921, 150, 304]
    """
    size, narrowest = len(blur.matrix), min(right - left for left, right, _ in PARTS)
    if not 0.0 <= noise < float("inf"):
        raise ValueError(f"`noise` is a standard deviation ≥ 0; got {noise}.")
    if size > narrowest:
        raise ValueError(
            f"patches are cut from strips of {narrowest} columns or more; got patches of {size}."
        )
    photographs = _photographs()
    generator = torch.Generator().manual_seed(0)
    parts = []
    for left, right, distance in PARTS:
        sharp = _cut(photographs[:, :, left:right], size, distance)
        seen = blur(sharp) + noise * torch.randn(sharp.shape, generator=generator)
        parts.append(_spread(PatchSet(seen, sharp), limit))
    return PatchSplits(*parts)


def _cut(strips: Float[Tensor, "n h w"], size: int, distance: int) -> Float[Tensor, "m 1 h w"]:
    """All patches with content, so many pixels apart."""
    patches = strips.unfold(1, size, distance).unfold(2, size, distance)
    patches = patches.reshape(-1, 1, size, size)
    return patches[patches.flatten(1).std(1) > CONTENT]


def _photographs() -> Float[Tensor, "n h w"]:
    """Both in grey, by the luma weights of ITU-R BT.601, in [-0.5, 0.5]."""
    from sklearn.datasets import load_sample_images

    try:
        images = load_sample_images().images
    except ImportError as error:
        raise CDEQError(
            "scikit-learn reads its photographs with pillow, which is missing; install "
            "cdeq[train]."
        ) from error
    colour = torch.stack([torch.tensor(image) for image in images]).float() / 255
    return colour @ torch.tensor([0.299, 0.587, 0.114]) - 0.5


def _spread(part: PatchSet, limit: int | None) -> PatchSet:
    if limit is None or limit >= len(part):
        return part
    kept = torch.arange(limit) * len(part) // limit
    return PatchSet(part.blurred[kept], part.sharp[kept])


def flip(batch: DeblurBatch, generator: torch.Generator) -> DeblurBatch:
    """The batch, mirrored or not, transposed or not, all patches alike.

    A Gaussian blur commutes with all of it, so blurred and sharp still belong together.

    Example:
        >>> images = torch.rand(1, 1, 8, 8)
        >>> flipped = flip(DeblurBatch(images, images), torch.Generator().manual_seed(0))
        >>> torch.equal(flipped.blurred, flipped.sharp)
        True
    """
    across, down, turned = torch.randint(0, 2, (3,), generator=generator).tolist()
    axes = [axis for axis, wanted in ((2, down), (3, across)) if wanted]
    blurred, sharp = (images.flip(axes) for images in batch)
    if turned:
        blurred, sharp = blurred.transpose(2, 3), sharp.transpose(2, 3)
    return DeblurBatch(blurred, sharp)
