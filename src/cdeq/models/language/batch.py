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


def require_known(tokens: Int[Tensor, "b n"], size: int) -> None:
    """Refuse tokens that are not in the vocabulary.

    Raises:
        ValueError: Says which there are.
    """
    if tokens.numel() == 0:
        return
    low, high = (int(end) for end in tokens.aminmax())
    if low < 0 or high >= size:
        raise ValueError(
            f"the model knows {size} tokens, counted from 0; got tokens from {low} to {high}; is "
            "the text encoded with another vocabulary?"
        )
