"""Attention whose scores depend on how far apart two positions are."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.repeatable import NormalisedLinear

Heads = Float[Tensor, "b h l e"]


def sinusoids(length: int, features: int, like: Tensor) -> Float[Tensor, "n d"]:
    r"""Waves of falling frequency at the distances n - 1, n - 2, …, 0, sines first.

    .. math:: \omega_i = 10000^{-2i/d} , \qquad [\sin(\omega_i n), \cos(\omega_i n)]

    Arguments:
        length: n.
        features: d, even.
        like: A tensor of the wanted dtype and device.

    Example:
        >>> sinusoids(2, 4, torch.empty(0))[-1]
        tensor([0., 0., 1., 1.])
    """
    distance = torch.arange(length - 1, -1, -1, device=like.device, dtype=torch.float32)
    waves = torch.arange(0, features, 2, device=like.device, dtype=torch.float32)
    angle = torch.outer(distance, 10000.0 ** (-waves / features))
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(like.dtype)


def shifted(scores: Float[Tensor, "b h l n"]) -> Float[Tensor, "b h l n"]:
    """Scores by distance to scores by key: of l queries at the end of n keys, the i-th row moves
    left by l - 1 - i; what enters on the right belongs to keys after the query, which a mask has
    to hide.

    Example:
        >>> shifted(torch.arange(3.0, -1, -1).expand(1, 1, 2, 4))[0, 0]  # distances 3, 2, 1, 0
        tensor([[2., 1., 0., 0.],
                [3., 2., 1., 0.]])
    """
    b, h, queries, keys = scores.shape
    padded = F.pad(scores, (1, 0)).reshape(b, h, keys + 1, queries)
    return padded[:, :, 1:].reshape(b, h, queries, keys)


def causal(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "l n"]:
    """Which of n keys each of the last l positions may look at: itself and those before.

    Example:
        >>> causal(2, 3, torch.device("cpu")).int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def visible(known: Bool[Tensor, "b m"], queries: int) -> Bool[Tensor, "b 1 l n"]:
    """Which of the m remembered positions and l present ones each present one may look at.

    Arguments:
        known: Which of the remembered positions exist.
        queries: l.
    """
    present = causal(queries, known.shape[1] + queries, known.device)
    exists = F.pad(known, (0, queries), value=True)
    return (present & exists.unsqueeze(1)).unsqueeze(1)


class RelativeBias(nn.Module):
    r"""The part of the scores of attention that depends on distance.

    .. math:: s_{ij} = \frac{(q_i + u)^\top k_j + (q_i + v)^\top W_R R_{i-j}}{\sqrt e}

    References:
        | Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context (Dai et al.,
        2019)
        | https://arxiv.org/abs/1901.02860

    Arguments:
        features: d, even.
        heads: Among which they are divided evenly.
        deviation: Of the normal numbers that the weights start with.
    """

    def __init__(self, features: int, heads: int, *, deviation: float = 0.02) -> None:
        super().__init__()
        self.features, self.heads = features, heads
        self.content = nn.Parameter(torch.zeros(heads, 1, features // heads))  # u
        self.place = nn.Parameter(torch.zeros(heads, 1, features // heads))  # v
        self.positions = NormalisedLinear(features, features, bias=False, deviation=deviation)

    def keys(self, length: int) -> Float[Tensor, "h n e"]:
        """W_R R at the distances length - 1 … 0; constant along a solve."""
        waves = sinusoids(length, self.features, self.content)
        return self.positions(waves).unflatten(1, (self.heads, -1)).transpose(0, 1)

    def forward(
        self,
        query: Heads,
        key: Float[Tensor, "b h n e"],
        value: Float[Tensor, "b h n e"],
        keys: Float[Tensor, "h n e"],
        seen: Bool[Tensor, "b 1 l n"],
    ) -> Heads:
        """Attention of the queries, the last l of n positions.

        Arguments:
            query: q of the last l positions.
            key: k of all.
            value: v of all.
            keys: What `keys(n)` gave.
            seen: Which keys each query may look at.
        """
        scale = query.shape[-1] ** -0.5
        near = shifted((query + self.place) @ keys.transpose(1, 2)) * scale
        bias = near.masked_fill(~seen, float("-inf"))
        query = query + self.content
        if torch.is_grad_enabled():  # fused kernels know no second derivative, penalties need it
            return ((query * scale) @ key.transpose(2, 3) + bias).softmax(-1) @ value
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
