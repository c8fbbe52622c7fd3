"""Transformer-XL: layers of attention that look back at what they saw of the segment before."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.language.attention import Heads, RelativeBias, visible
from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.explicit import Answer, ExplicitLanguageModel, ExplicitSpec, Hidden


@dataclass(frozen=True, kw_only=True)
class TransformerXLSpec(ExplicitSpec):
    """The settings of a `TransformerXL`.

    Arguments:
        vocabulary: Tokens; None leaves it to the data.
        features: Of a word vector and of every layer, even.
        cutoffs: Where clusters of rarer tokens begin (see `AdaptiveVocabulary`).
        shrink: By what factor their vectors are shorter, cluster by cluster.
        dropout: Of the output of attention and of both linear maps of a layer; a share in [0, 1).
        word_dropout: Of the features of word vectors, the same at every position.
        head_dropout: Of the features that the softmax reads, the same at every position.
        layers: How many.
        heads: Of attention, among which the features are divided evenly.
        inner: Features between the two linear maps of a layer.
        memory: Tokens m ≥ 0 before a segment that every layer remembers.
        deviation: Of the normal numbers that weights start with, above 0. The published 0.02 is
            for hundreds of features; fewer learn faster from about 1 / √features.

    Raises:
        ValueError: When a setting is outside its range.
    """

    layers: int = 4
    heads: int = 4
    inner: int = 640
    memory: int = 64
    deviation: float = 0.02

    def __post_init__(self) -> None:
        self._require_counts("layers", "heads", "inner")
        super().__post_init__()
        if self.features % 2 or self.features % self.heads:
            raise ValueError(
                "`features` are even, for pairs of waves, and divided evenly among `heads`; got "
                f"{self.features} and {self.heads}."
            )
        if self.memory < 0:
            raise ValueError(f"`memory` counts tokens from 0 up; got {self.memory}.")
        if not self.deviation > 0.0:
            raise ValueError(
                f"`deviation` is above 0, else weights start equal; got {self.deviation}."
            )

    @property
    def past(self) -> int:
        return self.memory


class TransformerXL(ExplicitLanguageModel):
    r"""Attention with relative positions over the present segment and m tokens before it.

    .. math:: q = W_Q h_i , \quad [k, v] = W_{KV} [\bar h_i, h_i] , \qquad
        a &= \mathrm{LN}(h_i + W_O \, \mathrm{attention}(q, k, v)) \\
        h_{i+1} &= \mathrm{LN}(a + W_2 \, \mathrm{ReLU}(W_1 a + b_1) + b_2)

    with `RelativeBias`. The memory :math:`\bar h_i` is what layer i read at the last m tokens; no
    gradient flows through it. Segment by segment, the answers are those to the text in one piece
    as long as the memory reaches back to its beginning.

    References:
        | Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context (Dai et al.,
        2019)
        | https://arxiv.org/abs/1901.02860

    Example:
        >>> spec = TransformerXLSpec(vocabulary=50, features=8, heads=2, inner=16, memory=3)
        >>> text = torch.randint(50, (2, 6))
        >>> none = text[:, :0]
        >>> answer = TransformerXL(spec).run(
        ...     LanguageBatch(text[:, :-1], text[:, 1:], none, none.bool())
        ... )
        >>> answer.hidden.shape, answer.memory.shape  # of four layers
        (torch.Size([2, 5, 8]), torch.Size([2, 3, 32]))
    """

    Spec = TransformerXLSpec
    spec: TransformerXLSpec

    def __init__(self, spec: TransformerXLSpec) -> None:
        super().__init__(spec)
        self.layers = nn.ModuleList(
            TransformerLayer(
                spec.features,
                spec.heads,
                spec.inner,
                dropout=spec.dropout,
                deviation=spec.deviation,
            )
            for _ in range(spec.layers)
        )

    def run(self, batch: LanguageBatch) -> Answer:
        """The hidden features, and what each layer read at the last m tokens, layer by layer.

        Raises:
            ValueError: When a token is outside the vocabulary, or the memory is not one of each
                past token.
        """
        memory, known = self._remembered(batch)
        states, seen = [self.read(batch, 0).words], visible(known, batch.tokens.shape[1])
        for layer, before in zip(self.layers, memory.chunk(len(self.layers), 2), strict=True):
            states.append(layer(states[-1], before, seen))
        *read, last = states
        present = torch.cat(read, dim=2).detach()
        kept = self._last(torch.cat([memory, present], dim=1))
        return Answer(self.dropped(last, self.spec.head_dropout), kept)

    def _remembered(
        self, batch: LanguageBatch
    ) -> tuple[Float[Tensor, "b m d"], Bool[Tensor, "b m"]]:
        """The memory, zero where it is not known, and where it is."""
        memory, known = batch.memory, batch.known
        wide = self.spec.layers * self.spec.features
        if memory is None:
            like = self.vocabulary.tables[0]
            return like.new_zeros(len(known), 0, wide), known[:, :0]
        if memory.shape != (*known.shape, wide):
            raise ValueError(
                f"a memory has {wide} features of each past token, those of {self.spec.layers} "
                f"layers; got {tuple(memory.shape)} for {tuple(known.shape)} tokens."
            )
        return memory.where(known.unsqueeze(2), 0.0), known

    def _last(self, states: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Those of the last m tokens, zeros where there were fewer."""
        wanted = self.spec.memory
        kept = states[:, max(0, states.shape[1] - wanted) :]
        return F.pad(kept, (0, 0, wanted - kept.shape[1], 0))


class TransformerLayer(nn.Module):
    """One layer of attention and one of two linear maps, each normalised with what it is added to.

    Arguments:
        features: d, even.
        heads: Among which they are divided evenly.
        inner: Features between the two linear maps.
        dropout: The share of the output of attention and of both maps that training leaves out.
        deviation: Of the normal numbers that weights start with.
    """

    def __init__(
        self, features: int, heads: int, inner: int, *, dropout: float, deviation: float
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(features, features, bias=False)
        self.pair = nn.Linear(features, 2 * features, bias=False)
        self.output = nn.Linear(features, features, bias=False)
        self.first, self.second = nn.Linear(features, inner), nn.Linear(inner, features)
        for layer in (self.query, self.pair, self.output, self.first, self.second):
            nn.init.normal_(layer.weight, std=deviation)
        for layer in (self.first, self.second):
            nn.init.zeros_(layer.bias)
        self.relative = RelativeBias(features, heads, deviation=deviation)
        self.relative.positions.fold()  # this network has no normalised weights
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(2))

    def forward(
        self, h: Hidden, memory: Float[Tensor, "b m d"], seen: Bool[Tensor, "b 1 l n"]
    ) -> Hidden:
        everything = torch.cat([memory, h], dim=1)
        key, value = (self._split(part) for part in self.pair(everything).chunk(2, dim=2))
        places = self.relative.keys(everything.shape[1])
        attended = self.relative(self._split(self.query(h)), key, value, places, seen)
        h = self.norms[0](h + self._dropped(self.output(attended.transpose(1, 2).flatten(2))))
        inner = self._dropped(self.first(h).relu())
        return self.norms[1](h + self._dropped(self.second(inner)))

    def _split(self, wide: Float[Tensor, "b n d"]) -> Heads:
        """Heads before positions."""
        return wide.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _dropped(self, value: Tensor) -> Tensor:
        return F.dropout(value, self.dropout, self.training)
