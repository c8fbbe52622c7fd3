"""Labelled images in memory; scikit-learn's digits."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdeq.data.indexed import Indices
from cdeq.models.vision.batch import ImageBatch


@dataclass(frozen=True)
class ImageSet:
    """Images in [0, 1] with their classes, in memory.

    Raises:
        TypeError: When pixels are no floating-point numbers, or labels no int64.
        ValueError: When there is no image, a label is missing or negative, or a pixel is not
            finite.

    Example:
        >>> images = ImageSet(torch.rand(5, 1, 8, 8), torch.arange(5))
        >>> images.take(torch.tensor([4, 0])).label
        tensor([4, 0])
    """

    image: Float[Tensor, "n c h w"]
    label: Int[Tensor, " n"]

    def __post_init__(self) -> None:
        if not self.image.is_floating_point() or self.label.dtype != torch.long:
            raise TypeError(
                "images are floating-point numbers in [0, 1] and labels int64; got "
                f"{self.image.dtype} and {self.label.dtype}."
            )
        if len(self.image) == 0:
            raise ValueError("an image set needs at least one image; got none.")
        if len(self.image) != len(self.label):
            raise ValueError(
                f"every image needs one class; got {len(self.image)} images and {len(self.label)} "
                "labels."
            )
        if bool((self.label < 0).any()):
            raise ValueError(f"classes count from 0; got the label {int(self.label.min())}.")
        if not bool(torch.isfinite(self.image).all()):
            bad = int((~torch.isfinite(self.image.flatten(1))).any(1).sum())
            raise ValueError(f"pixels must be finite numbers; {bad} images hold NaN or infinity.")

    def __len__(self) -> int:
        return len(self.image)

    def take(self, indices: Indices) -> ImageBatch:
        """The images at these positions."""
        return ImageBatch(self.image[indices], self.label[indices])


class ImageSplits(NamedTuple):
    """Train to fit, select on validation, report test."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


def load_digits(*, limit: int | None = None) -> ImageSplits:
    """Scikit-learn's 1,797 handwritten digits, 8 × 8 pixels, in three fixed stratified parts.

    60 % train, 15 % validation, 25 % test (1,077, 270 and 450 images). The split does not depend
    on any seed of a run.

    Arguments:
        limit: Keep only the first so many images of each part, for quick trials.

    Example:
        >>> [len(part) for part in load_digits()]
        [1077, 270, 450]
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, classes = load(return_X_y=True)
    image = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16.0
    label = torch.tensor(classes)
    rest, test = train_test_split(
        torch.arange(len(label)), test_size=450, stratify=label, random_state=0
    )
    train, validation = train_test_split(rest, test_size=270, stratify=label[rest], random_state=0)
    parts = (part[:limit] for part in (train, validation, test))
    return ImageSplits(*(ImageSet(image[part], label[part]) for part in parts))


def shift(image: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """The images moved by one random offset of at most a pixel, filled with zeros.

    Example:
        >>> shift(torch.ones(1, 1, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 8, 8])
    """
    dy, dx = torch.randint(0, 3, (2,), generator=generator).tolist()
    height, width = image.shape[2:]
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    return padded[:, :, dy : dy + height, dx : dx + width]
