"""A batch of text: one segment of every stream."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class LanguageBatch(NamedTuple):
    """Segments of l tokens, with the m tokens before each of them."""

    tokens: Int[Tensor, "b l"]
    """What is read."""
    target: Int[Tensor, "b l"]
    """The token after each of them."""
    past: Int[Tensor, "b m"]
    """The tokens before the segment; anything where there are none."""
    known: Bool[Tensor, "b m"]
    """Which of these belong to the same stream of text."""
    memory: Float[Tensor, "b m d"] | None = None
    """The states of the past tokens, once somebody knows them."""
