"""The map of the DEQ-Transformer: one Transformer layer, told of its input at every evaluation."""

from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.cell import Cell
from cdeq.models.language.attention import Heads, RelativeBias, visible
from cdeq.models.repeatable import NormalisedLinear, dropout_mask, masked

Sequence = Float[Tensor, "b l d"]
Norm: TypeAlias = Literal["post", "pre"]


class LanguageContext(NamedTuple):
    """What an equilibrium over a segment of l tokens depends on."""

    inputs: Float[Tensor, "b n d"]
    """The word vectors of the m remembered tokens and of the l present ones, n = m + l."""
    memory: Float[Tensor, "b m d"]
    """The states of the remembered tokens."""
    known: Bool[Tensor, "b m"]
    """Which of the remembered tokens exist."""


class Masks(NamedTuple):
    """Where dropout strikes along one solve; None where it does not."""

    attended: Tensor | None
    inner: Tensor | None
    outer: Tensor | None


class Prepared(NamedTuple):
    """What one evaluation needs besides z: computed once a solve."""

    injection: Float[Tensor, "b l e"]
    """U x of the present tokens, for query, key and value."""
    keys: Heads
    """Of the remembered tokens."""
    values: Heads
    """Of the remembered tokens."""
    places: Float[Tensor, "h n e"]
    """Of all distances."""
    seen: Bool[Tensor, "b 1 l n"]
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    """Of query, key and value; of the output of attention; of the two layers that follow."""
    masks: Masks


class TransformerCell(Cell):
    r"""One evaluation is one layer of attention and one of two linear maps.

    .. math:: [q, k, v] &= W z + U x , \qquad
        a = W_O \, \mathrm{attention}(q, [k_m, k], [v_m, v]) \\
        h &= \mathrm{LN}(z + a) , \qquad
        f(z, x) = \mathrm{LN}(h + W_2 \, \mathrm{ReLU}(W_1 h + b_1) + b_2)

    with relative positions (see `RelativeBias`), weight normalisation in every linear map, and
    :math:`k_m, v_m` of the remembered states, constant along a solve. `norm="pre"` normalises the
    input of each part instead of its sum with what it is added to:
    :math:`h = z + a(\mathrm{LN}(z))`, :math:`f = h + W_2 \, \mathrm{ReLU}(W_1 \mathrm{LN}(h) +
    b_1) + b_2`. Position i sees positions up to i alone.

    References:
        | Deep Equilibrium Models (Bai, Kolter & Koltun, 2019)
        | https://arxiv.org/abs/1909.01377

    Arguments:
        features: d, even.
        heads: Among which they are divided evenly.
        inner: Features between the two linear maps.
        norm: Where layer normalisation stands.
        dropout: The share of the features of a, of those between the two linear maps and of what
            the second gives that is dropped, the same at every position and every evaluation.
    """

    def __init__(
        self, features: int, heads: int, inner: int, *, norm: Norm = "post", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.norm, self.dropout = heads, norm, dropout
        self.qkv = NormalisedLinear(features, 3 * features, bias=False)
        self.injection = NormalisedLinear(features, 3 * features)
        self.output = NormalisedLinear(features, features, bias=False)
        self.relative = RelativeBias(features, heads)
        self.first = NormalisedLinear(features, inner)
        self.second = NormalisedLinear(inner, features)
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(2))

    def prepare(self, x: LanguageContext) -> Prepared:
        past, length = x.known.shape[1], x.inputs.shape[1]
        weight, told, bias = self.qkv.weight(), self.injection.weight(), self.injection.bias
        assert bias is not None
        # what is remembered is asked for keys and values alone
        pair = slice(x.memory.shape[2], None)
        remembered = F.linear(x.inputs[:, :past], told[pair], bias[pair])
        keys, values = self._split(remembered + F.linear(self._before(x.memory), weight[pair]))
        return Prepared(
            injection=F.linear(x.inputs[:, past:], told, bias),
            keys=keys,
            values=values,
            places=self.relative.keys(length),
            seen=visible(x.known, length - past),
            weights=(weight, self.output.weight(), self.first.weight(), self.second.weight()),
            masks=self._masks(x.inputs),
        )

    @torch.no_grad()
    def fold(self) -> None:
        """Compute the normalised weights for the last time."""
        for layer in self.modules():
            if isinstance(layer, NormalisedLinear):
                layer.fold()

    def forward(self, z: Sequence, x: Prepared) -> Sequence:
        normalise, (_, _, first, second) = self.norms[1], x.weights
        h = self._attended(z, x)
        inner = F.linear(normalise(h) if self.norm == "pre" else h, first, self.first.bias)
        outer = F.linear(masked(inner.relu_(), x.masks.inner), second, self.second.bias)
        value = h + masked(outer, x.masks.outer)
        return value if self.norm == "pre" else normalise(value)

    def _attended(self, z: Sequence, x: Prepared) -> Sequence:
        """h."""
        qkv, output, _, _ = x.weights
        query, key, value = self._split(F.linear(self._before(z), qkv) + x.injection)
        key, value = torch.cat([x.keys, key], dim=2), torch.cat([x.values, value], dim=2)
        attended = self.relative(query, key, value, x.places, x.seen)
        a = F.linear(attended.transpose(1, 2).flatten(2), output)
        h = z + masked(a, x.masks.attended)
        return h if self.norm == "pre" else self.norms[0](h)

    def _before(self, z: Sequence) -> Sequence:
        """What attention reads of a state."""
        return self.norms[0](z) if self.norm == "pre" else z

    def _split(self, parts: Float[Tensor, "b n e"]) -> tuple[Heads, ...]:
        """Query, key and value, or the latter two, heads before positions."""
        features = len(self.output.direction)
        return tuple(
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in parts.split(features, dim=2)
        )

    def _masks(self, like: Tensor) -> Masks:
        if not self.training or self.dropout == 0.0:
            return Masks(None, None, None)
        wide = like.new_empty(len(like), 1, len(self.first.direction))
        narrow = like[:, :1]
        return Masks(*(dropout_mask(part, self.dropout) for part in (narrow, wide, narrow)))
