"""A batch of degraded images and what they were."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class DeblurBatch(NamedTuple):
    """Grey images, 0.5 subtracted from the values in [0, 1], so that black is -0.5."""

    blurred: Float[Tensor, "b 1 h w"]
    """What the camera saw: the sharp image blurred, with noise."""
    sharp: Float[Tensor, "b 1 h w"]
    """What is wanted."""
