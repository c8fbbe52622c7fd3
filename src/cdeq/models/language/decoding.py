"""The most probable token, or a draw."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LogProbs = Float[Tensor, "b v"]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a token is chosen from the distribution over all of them.

    Limits apply one after the other, each to what the ones before left.

    Arguments:
        temperature: Divides the logarithms of the probabilities; 0 takes the most probable token.
        top_k: Draw from the k ≥ 1 most probable tokens only.
        top_p: Draw from the fewest tokens that together have at least this probability in (0, 1].

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.1, 0.4]]).log()
        >>> Decoding(top_k=2).distribution(log_probs).exp()
        tensor([[0.5556, 0.0000, 0.4444]])
        >>> Decoding(temperature=0.0).choose(log_probs)
        tensor([0])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        # below 1e-6 it would be float32's rounding that is drawn from
        if self.temperature != 0.0 and not 1e-6 <= self.temperature < math.inf:
            raise ValueError(
                "`temperature` is 0 for the most probable token, or at least 1e-6; got "
                f"{self.temperature}."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(
                f"`top_k` counts the tokens to draw from, at least 1; got {self.top_k}."
            )
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"`top_p` is the probability to keep, in (0, 1]; got {self.top_p}.")

    def distribution(self, log_probs: LogProbs) -> LogProbs:
        """The logarithms of the probabilities that tokens are drawn with; -∞ for those left out.

        Arguments:
            log_probs: Of all tokens, up to a constant.
        """
        top = log_probs.amax(1, keepdim=True)
        if self.temperature == 0.0:
            first = log_probs.argmax(1, keepdim=True)
            return torch.full_like(log_probs, -math.inf).scatter(1, first, 0.0)
        left = ((log_probs - top) / self.temperature).log_softmax(1)
        if self.top_k is not None and self.top_k < left.shape[1]:
            values, places = left.topk(self.top_k, dim=1)
            left = torch.full_like(left, -math.inf).scatter(1, places, values).log_softmax(1)
        if self.top_p is not None and self.top_p < 1.0:
            values, places = left.sort(dim=1, descending=True, stable=True)
            before = values.exp().cumsum(1) - values.exp()
            values = values.masked_fill(before >= self.top_p, -math.inf)
            left = torch.empty_like(left).scatter(1, places, values).log_softmax(1)
        return left

    def choose(
        self, log_probs: LogProbs, generator: torch.Generator | None = None
    ) -> Int[Tensor, " b"]:
        r"""A token of each row.

        A draw is :math:`\arg\max_w (\log p_w - \log e_w)` with exponential numbers e, so that from
        two distributions that are close, equal numbers draw the same token most of the time.

        Arguments:
            log_probs: Of all tokens, up to a constant.
            generator: Gives the numbers; None takes torch's own.
        """
        if self.temperature == 0.0:
            return log_probs.argmax(1)
        device = log_probs.device if generator is None else generator.device
        numbers = torch.empty(log_probs.shape, device=device).exponential_(generator=generator)
        return (self.distribution(log_probs) - numbers.to(log_probs).log()).argmax(1)
