"""Maps whose cost is that of real models, for timing and memory: their weights are random."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.consistency.student import ConsistencyDEQ
from cdeq.core.cell import Cell
from cdeq.core.readout import LinearReadout

Tokens = Float[Tensor, "b l d"]


class TransformerWorkload(Cell):
    """One post-LN transformer layer with its input injected into queries, keys and values.

    The proportions of the DEQ-Transformer of Bai et al. (2019) at any width: `expansion=68` is its
    published feed-forward ratio (48,000 over 700), 4 is the usual one.

    Arguments:
        features: The width d.
        heads: Attention heads.
        expansion: Feed-forward width over d.
    """

    def __init__(self, features: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.injection = nn.Linear(features, 3 * features)
        self.out = nn.Linear(features, features)
        self.up = nn.Linear(features, expansion * features)
        self.down = nn.Linear(expansion * features, features)
        self.norm_attention, self.norm_forward = nn.LayerNorm(features), nn.LayerNorm(features)

    def prepare(self, x: Tokens) -> Tokens:
        return self.injection(x)

    def forward(self, z: Tokens, x: Tokens) -> Tokens:
        b, length, d = z.shape
        heads = (self.qkv(z) + x).view(b, length, 3, self.heads, d // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = self.norm_attention(z + self.out(mixed.transpose(1, 2).reshape(b, length, d)))
        return self.norm_forward(z + self.down(F.relu(self.up(z))))

    def student(self) -> ConsistencyDEQ:
        """The paper's student of this map."""
        width = self.qkv.in_features
        return ConsistencyDEQ(self, LinearReadout([width], axis=-1)).eval()


def cheap_map(x: Tensor) -> "nn.Module":
    """z ↦ z / 2 + x on a large state: the solver's own cost is everything.

    Example:
        >>> cheap_map(torch.ones(1, 2))(torch.ones(1, 2))
        tensor([[1.5000, 1.5000]])
    """
    return _Affine(x)


class _Affine(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("x", x)

    def forward(self, z: Tensor) -> Tensor:
        return torch.add(self.get_buffer("x"), z, alpha=0.5)


def seeded_tokens(b: int, length: int, d: int) -> Tokens:
    """The same random tokens every time.

    Example:
        >>> torch.equal(seeded_tokens(1, 2, 3), seeded_tokens(1, 2, 3))
        True
    """
    generator = torch.Generator().manual_seed(0)
    return torch.randn(b, length, d, generator=generator) / math.sqrt(2)
