"""Random light, contrast and colour; each image its own."""

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "b c h w"]
Factors = Float[Tensor, " b"]

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


def random_factors(image: Images, strength: float, generator: torch.Generator) -> Factors:
    """Uniform in 1 ± strength, but never below 0; drawn on the CPU, whatever the device.

    Example:
        >>> random_factors(torch.zeros(2, 3, 1, 1), 0.0, torch.Generator())
        tensor([1., 1.])
    """
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    return (low + (high - low) * torch.rand(len(image), generator=generator)).to(image)


def brightened(image: Images, factors: Factors) -> Images:
    """The images times the factors, at most 1.

    Example:
        >>> brightened(torch.full((1, 1, 1, 1), 0.4), torch.tensor([2.0])).item()
        0.800000...
    """
    return _away(image, torch.zeros_like(image[:, :1, :1, :1]), factors)


def contrasted(image: Images, factors: Factors) -> Images:
    """The images, their distances to the mean of their grey times the factors, within [0, 1].

    Example:
        >>> contrasted(torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([0.0])).flatten().tolist()
        [0.5, 0.5]
    """
    return _away(image, grey(image).mean((2, 3), keepdim=True), factors)


def saturated(image: Images, factors: Factors) -> Images:
    """The images, their distances to their grey times the factors, within [0, 1].

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> saturated(red, torch.tensor([0.0])).flatten().tolist()
        [0.298999..., 0.298999..., 0.298999...]
    """
    return _away(image, grey(image), factors)


def grey(image: Images) -> Float[Tensor, "b 1 h w"]:
    """The luma of red, green and blue; grey images are their own.

    Raises:
        ValueError: When the images have neither one channel nor three.
    """
    if image.shape[1] == 1:
        return image
    if image.shape[1] != 3:
        raise ValueError(
            "contrast and saturation are those of red, green and blue, or of grey; got images of "
            f"{image.shape[1]} channels."
        )
    return (image * torch.tensor(LUMA).to(image).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _away(image: Tensor, centre: Tensor, factors: Tensor) -> Tensor:
    return (centre + (image - centre) * factors.view(-1, 1, 1, 1)).clamp(0.0, 1.0)
