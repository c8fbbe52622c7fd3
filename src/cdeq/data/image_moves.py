"""Random moves of images: a crop, a mirror, a patch painted over; each image its own.

All is drawn on the CPU from the generator alone, so that the draws do not depend on the device.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

Images = Float[Tensor, "b c h w"]
Boxes = Float[Tensor, "b 4"]
"""Top, left, height and width of a rectangle in each image, in pixels."""

TRIES = 10


def random_crop(image: Images, padding: int, fill: float, generator: torch.Generator) -> Images:
    """Images moved by up to `padding` pixels in both directions, all offsets alike.

    Arguments:
        image: The images.
        padding: The largest offset.
        fill: What is seen beyond the border.
        generator: Draws the offsets.

    Example:
        >>> image = torch.rand(2, 3, 8, 8)
        >>> random_crop(image, 1, 0.0, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    height, width = image.shape[2:]
    top, left = torch.randint(0, 2 * padding + 1, (2, len(image)), generator=generator)
    padded = F.pad(image, (padding,) * 4, value=fill)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: every crop there is
    return windows[torch.arange(len(image)), :, top, left]


def random_flip(image: Images, probability: float, generator: torch.Generator) -> Images:
    """Images of which each is mirrored, left to right, with this probability.

    Example:
        >>> random_flip(torch.tensor([[[[1.0, 2.0]]]]), 1.0, torch.Generator()).tolist()
        [[[[2.0, 1.0]]]]
    """
    chosen = torch.rand(len(image), generator=generator) < probability
    return torch.where(chosen.view(-1, 1, 1, 1).to(image.device), image.flip(3), image)


def random_boxes(
    image: Images,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Boxes:
    """A rectangle in each image: its share of the area uniform, its shape log-uniform, anywhere.

    One that does not fit is drawn anew, up to ten times, and then cut down to what fits.

    Arguments:
        image: The images.
        scale: The least and the largest share of the image's area.
        ratio: The least and the largest width over height.
        generator: Draws them.

    Example:
        >>> random_boxes(torch.zeros(1, 3, 8, 8), (1.0, 1.0), (1.0, 1.0), torch.Generator())
        tensor([[0., 0., 8., 8.]])
    """
    (height, width), count = image.shape[2:], len(image)
    area, shape, top, left = torch.rand(4, TRIES, count, generator=generator)
    area = (scale[0] + area * (scale[1] - scale[0])) * (height * width)
    low, high = (math.log(bound) for bound in ratio)
    shape = (low + shape * (high - low)).exp()
    tall, wide = ((area / shape).sqrt().round(), (area * shape).sqrt().round())
    fits = (tall <= height) & (wide <= width)
    chosen, all_images = fits.int().argmax(0), torch.arange(count)  # the first that fits
    tall, wide, top, left = (part[chosen, all_images] for part in (tall, wide, top, left))
    tall, wide = tall.clamp(1, height), wide.clamp(1, width)
    # a number just below 1 may round to 1 in the product
    top = (top * (height - tall + 1)).floor().minimum(height - tall)
    left = (left * (width - wide + 1)).floor().minimum(width - wide)
    return torch.stack([top, left, tall, wide], 1)


def resized_crop(image: Images, boxes: Boxes) -> Images:
    """What is in the rectangles, brought to the size of the images by bilinear interpolation.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 2, 2)
        >>> resized_crop(image, torch.tensor([[0.0, 1.0, 1.0, 1.0]])).flatten().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    top, left, tall, wide = boxes.to(image).unbind(1)
    rows = _places(image.shape[2], top, tall)
    columns = _places(image.shape[3], left, wide)
    shape = (len(image), image.shape[2], image.shape[3])
    grid = torch.stack([columns.unsqueeze(1).expand(shape), rows.unsqueeze(2).expand(shape)], 3)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _places(size: int, begin: Tensor, length: Tensor) -> Float[Tensor, "b size"]:
    """Where to look along one side, from -1 to 1: inside the rectangle's outermost centres."""
    steps = (torch.arange(size).to(begin) + 0.5) / size
    pixels = begin.unsqueeze(1) + (length.unsqueeze(1) * steps - 0.5).clamp_min(0.0)
    pixels = pixels.minimum((begin + length - 1).unsqueeze(1))
    return (2 * pixels + 1) / size - 1


def painted(image: Images, boxes: Boxes, chosen: Int[Tensor, " b"], fill: float) -> Images:
    """The images, the rectangles of those that are chosen filled.

    Example:
        >>> boxes = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
        >>> painted(torch.ones(1, 1, 2, 2), boxes, torch.tensor([True]), 0.0).flatten().tolist()
        [1.0, 0.0, 1.0, 1.0]
    """
    top, left, tall, wide = boxes.to(image.device).unsqueeze(2).unbind(1)
    rows, columns = (torch.arange(side, device=image.device) for side in image.shape[2:])
    inside = ((rows >= top) & (rows < top + tall)).unsqueeze(2)
    inside = inside & ((columns >= left) & (columns < left + wide)).unsqueeze(1)
    inside = inside & chosen.to(image.device).view(-1, 1, 1)
    return image.masked_fill(inside.unsqueeze(1), fill)
