"""Random changes of image batches that keep their labels right."""

from dataclasses import dataclass

import torch

from cdeq.data.colours import brightened, contrasted, random_factors, saturated
from cdeq.data.image_moves import (
    Images,
    painted,
    random_boxes,
    random_crop,
    random_flip,
    resized_crop,
)
from cdeq.models.vision.batch import ImageBatch


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Moves, colours and erased patches, drawn for each image from the generator alone.

    They follow each other in the order of the arguments. All are off by default, and what is off
    draws nothing. CIFAR-10's usual ones are `Augmentation(padding=4, flip=0.5)`, ImageNet's
    `Augmentation(scale=(0.08, 1.0), flip=0.5)`; cutout is `erasing=1.0` with an `erased` share
    and a `patch` ratio that are constant.

    Arguments:
        padding: The images move by up to so many pixels, ≥ 0.
        scale: A crop takes between these shares of the area, 0 < low ≤ high ≤ 1, and is brought
            back to the whole size; None leaves it out.
        ratio: The crop's width over height lies between these, 0 < low ≤ high.
        flip: The probability of a mirror image.
        brightness: Pixels are multiplied by a factor within 1 ± this, ≥ 0.
        contrast: The same of distances to the mean of the image's grey.
        saturation: The same of distances to the pixel's grey.
        erasing: The probability of a patch painted over.
        erased: It takes between these shares of the area.
        patch: Its width over height lies between these.
        fill: What is painted, and seen beyond the border: a brightness in [0, 1].

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> batch = ImageBatch(torch.rand(2, 3, 32, 32), torch.tensor([3, 7]))
        >>> augment = Augmentation(padding=4, flip=0.5)
        >>> first, second = (augment(batch, torch.Generator().manual_seed(0)) for _ in range(2))
        >>> torch.equal(first.image, second.image), first.label
        (True, tensor([3, 7]))
    """

    padding: int = 0
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erasing: float = 0.0
    erased: tuple[float, float] = (0.02, 0.33)
    patch: tuple[float, float] = (0.3, 3.3)
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"`padding` is a number of pixels ≥ 0; got {self.padding}.")
        for name in ("flip", "erasing", "fill"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` lies in [0, 1]; got {getattr(self, name)}.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` is a strength ≥ 0; got {getattr(self, name)}.")
        _require_range("scale", self.scale or (1.0, 1.0), most=1.0)
        _require_range("erased", self.erased, most=1.0)
        _require_range("ratio", self.ratio, most=float("inf"))
        _require_range("patch", self.patch, most=float("inf"))

    def __call__(self, batch: ImageBatch, generator: torch.Generator) -> ImageBatch:
        """The batch with other images."""
        image = self._moved(batch.image, generator)
        image = self._coloured(image, generator)
        if self.erasing:
            chosen = torch.rand(len(image), generator=generator) < self.erasing
            boxes = random_boxes(image, self.erased, self.patch, generator)
            image = painted(image, boxes, chosen, self.fill)
        return batch._replace(image=image)

    def _moved(self, image: Images, generator: torch.Generator) -> Images:
        if self.padding:
            image = random_crop(image, self.padding, self.fill, generator)
        if self.scale is not None:
            image = resized_crop(image, random_boxes(image, self.scale, self.ratio, generator))
        if self.flip:
            image = random_flip(image, self.flip, generator)
        return image

    def _coloured(self, image: Images, generator: torch.Generator) -> Images:
        changes = (
            (self.brightness, brightened),
            (self.contrast, contrasted),
            (self.saturation, saturated),
        )
        for strength, change in changes:
            if strength:
                image = change(image, random_factors(image, strength, generator))
        return image


def _require_range(name: str, bounds: tuple[float, float], *, most: float) -> None:
    low, high = bounds
    if not 0.0 < low <= high <= most or high == float("inf"):
        limit = f" ≤ {most:g}" if most < float("inf") else ", both finite"
        raise ValueError(f"`{name}` is two numbers 0 < low ≤ high{limit}; got {low} and {high}.")
