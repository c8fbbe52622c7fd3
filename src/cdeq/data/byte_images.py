"""Labelled images kept as bytes; floats, four times their size, are only those of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from cdeq.data.indexed import Indices
from cdeq.digest import digest_of, digest_of_tensors
from cdeq.models.vision.batch import ImageBatch


@dataclass(frozen=True, eq=False, kw_only=True)
class ByteImageSet:
    """Images and their classes, in memory or mapped from a file, or some rows of them.

    Arguments:
        image: All images.
        label: Their classes.
        classes: The names of the classes.
        rows: Which images the set is, in its order; None takes all. Sets that share `image` take
            its memory once.
        pixels: A fingerprint of `image` and `label` where there is one, for images that are too
            many to look at.

    Raises:
        TypeError: When images are no bytes, or labels no int64.
        ValueError: When there is no image, a label is missing, or one has no class.

    Example:
        >>> image = torch.full((3, 1, 2, 2), 255, dtype=torch.uint8)
        >>> images = ByteImageSet(image=image, label=torch.tensor([0, 1, 1]), classes=("a", "b"))
        >>> images.take(torch.tensor([2, 0])).image.mean().item()
        1.0
        >>> images.part(torch.tensor([2, 0])).labels
        tensor([1, 0])
    """

    image: UInt8[Tensor, "n c h w"]
    label: Int[Tensor, " n"]
    classes: tuple[str, ...]
    rows: Int[Tensor, " m"] | None = None
    pixels: str | None = None

    def __post_init__(self) -> None:
        if self.image.dtype is not torch.uint8 or self.label.dtype is not torch.long:
            raise TypeError(
                "images are bytes and labels int64; got "
                f"{self.image.dtype} and {self.label.dtype}."
            )
        if self.image.ndim != 4 or len(self) == 0:
            raise ValueError(
                "an image set needs at least one image of channels, rows and columns; got "
                f"{tuple(self.image.shape)} and {len(self)} rows of it."
            )
        if len(self.image) != len(self.label):
            raise ValueError(
                f"every image needs one class; got {len(self.image)} images and {len(self.label)} "
                "labels."
            )
        require_classes(self.label, len(self.classes))

    def __len__(self) -> int:
        return len(self.image if self.rows is None else self.rows)

    @property
    def labels(self) -> Int[Tensor, " m"]:
        """The classes of the set's own images, in its order."""
        return self.label if self.rows is None else self.label[self.rows]

    def take(self, indices: Indices) -> ImageBatch:
        """The images at these positions, in [0, 1]."""
        rows = indices if self.rows is None else self.rows[indices]
        return ImageBatch(self.image[rows].float().div_(255), self.label[rows])

    def part(self, indices: Indices) -> "ByteImageSet":
        """The set of the images at these positions; nothing is copied."""
        return replace(self, rows=indices if self.rows is None else self.rows[indices])

    def digest(self) -> str:
        """A fingerprint of the images, their classes and their order."""
        rows = torch.arange(len(self.image)) if self.rows is None else self.rows
        if self.pixels is not None:
            return digest_of({"rows": rows}, settings=self.pixels)
        return digest_of_tensors(self.image[rows], self.label[rows])


def require_classes(label: Int[Tensor, " n"], classes: int) -> None:
    """Refuse labels that are no class.

    Raises:
        ValueError: Names the first one, and where it is.
    """
    wrong = ((label < 0) | (label >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"labels are classes from 0 to {classes - 1}; image {first} has {int(label[first])} "
            f"({len(wrong)} of {len(label)} labels are out of range)."
        )


class ImageParts(NamedTuple):
    """Train to fit, select on validation, report test."""

    train: ByteImageSet
    validation: ByteImageSet
    test: ByteImageSet
    skipped: tuple[str, ...] = ()
    """A sentence for each file that was left out."""


def divide(
    train: ByteImageSet,
    *,
    validation: ByteImageSet | float,
    test: ByteImageSet | float,
    seed: int,
) -> tuple[ByteImageSet, ByteImageSet, ByteImageSet]:
    """Three parts of which each is a set of its own or a share held out of the training images.

    All are in random order, so that the first so many images of one are a fair sample of it.

    Arguments:
        train: The training images.
        validation: A set, or a share in (0, 1) with the classes in proportion.
        test: Likewise.
        seed: Decides which images are held out, and the order; nothing else does.

    Raises:
        ValueError: When a share is none, or leaves nothing to train on.

    Example:
        >>> image = torch.zeros(20, 1, 2, 2, dtype=torch.uint8)
        >>> images = ByteImageSet(image=image, label=torch.arange(20) % 2, classes=("a", "b"))
        >>> parts = divide(images, validation=0.1, test=0.2, seed=0)
        >>> [part.labels.bincount().tolist() for part in parts]
        [[7, 7], [1, 1], [2, 2]]
    """
    shares = [part for part in (validation, test) if not isinstance(part, ByteImageSet)]
    if not all(0.0 < share < 1.0 for share in shares):
        raise ValueError(f"a share of the images lies between 0 and 1; got {shares}.")
    sizes = [round(share * len(train)) for share in shares]
    *drawn, rest = (train.part(rows) for rows in stratified(train.labels, sizes, seed=seed))
    held_out = iter(drawn)
    validation, test = (
        part.part(stratified(part.labels, (), seed=seed)[0])
        if isinstance(part, ByteImageSet)
        else next(held_out)
        for part in (validation, test)
    )
    return rest, validation, test


def stratified(
    label: Int[Tensor, " n"], sizes: Sequence[int], *, seed: int
) -> tuple[Int[Tensor, " m"], ...]:
    """Random parts in which every class has its share, to within one image, and what is left.

    Arguments:
        label: The class of each image.
        sizes: How many images each part has; together fewer than there are.
        seed: Decides which images; nothing else does.

    Returns:
        For each size a part, in random order, and last all other images.

    Raises:
        ValueError: When a size is below 1, or the sizes leave nothing.

    Example:
        >>> label = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> [label[part].sort().values.tolist() for part in stratified(label, (3,), seed=0)]
        [[0, 0, 1], [0, 0, 1]]
    """
    if any(size < 1 for size in sizes) or sum(sizes) >= len(label):
        raise ValueError(
            f"each part holds out at least 1 of {len(label)} images, and together they leave some "
            f"to train on; got parts of {list(sizes)}."
        )
    left, parts = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed)), []
    for size in sizes:
        chosen = _in_proportion(label[left], size)
        parts.append(left[chosen])
        left = left[~chosen]
    return (*parts, left)


def _in_proportion(label: Tensor, size: int) -> Tensor:
    """Where so many are that have the classes in proportion, the first ones of each class."""
    counts = label.bincount()
    quota, remainder = counts * size // len(label), counts * size % len(label)
    short = size - int(quota.sum())
    quota[remainder.argsort(descending=True, stable=True)[:short]] += 1
    order = label.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(label)) - (counts.cumsum(0) - counts)[label[order]]
    return rank < quota[label]
