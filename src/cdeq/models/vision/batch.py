"""A batch of labelled images."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class ImageBatch(NamedTuple):
    """Images in [0, 1] with their classes."""

    image: Float[Tensor, "b c h w"]
    label: Int[Tensor, " b"]
