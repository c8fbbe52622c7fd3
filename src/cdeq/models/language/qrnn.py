"""QRNN: gates that all positions compute at once, and a recurrence without weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.explicit import Answer, ExplicitLanguageModel, ExplicitSpec, Hidden
from cdeq.typing import PerSample


@dataclass(frozen=True, kw_only=True)
class QRNNSpec(ExplicitSpec):
    """The settings of a `QRNN`.

    Arguments:
        vocabulary: Tokens; None leaves it to the data.
        features: Of a word vector and of the last layer.
        cutoffs: Where clusters of rarer tokens begin (see `AdaptiveVocabulary`).
        shrink: By what factor their vectors are shorter, cluster by cluster.
        dropout: Of the features between two layers, the same at every position; in [0, 1).
        word_dropout: Of the features of word vectors, the same at every position.
        head_dropout: Of the features that the softmax reads, the same at every position.
        layers: How many.
        hidden: Features of all of them but the last.
        window: Tokens that the first layer looks at, its own included; the others look at one.
        weight_dropout: Of the weights of every layer, once a batch.
        activation_penalty: α ≥ 0, for large answers.
        change_penalty: β ≥ 0, for states that change a lot from token to token.

    Raises:
        ValueError: When a setting is outside its range.
    """

    layers: int = 4
    hidden: int = 320
    window: int = 2
    weight_dropout: float = 0.0
    activation_penalty: float = 0.0
    change_penalty: float = 0.0

    def __post_init__(self) -> None:
        self._require_counts("layers", "hidden", "window")
        self._require_shares("weight_dropout")
        super().__post_init__()
        for name in ("activation_penalty", "change_penalty"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(
                    f"`{name}` weighs a penalty, so it is ≥ 0; got {getattr(self, name)}."
                )

    @property
    def widths(self) -> list[int]:
        """Features of each layer."""
        return [*[self.hidden] * (self.layers - 1), self.features]

    @property
    def past(self) -> int:
        """The first layer's window, and at least the one token that tells who goes on."""
        return max(1, self.window - 1)


class QRNN(ExplicitLanguageModel):
    r"""Layers of gates, each with a state that keeps a share f of itself from token to token.

    .. math:: [z, f, o]_t &= [\tanh, \sigma, \sigma](W [x_{t-w+1}, \dots, x_t] + b) \\
        c_t &= f_t \circ c_{t-1} + (1 - f_t) \circ z_t , \qquad h_t = o_t \circ c_t

    with w = `window` in the first layer and 1 in the others. The memory is the last state c of
    every layer; no gradient flows through it. Segment by segment, the answers are those to the
    text in one piece. In training, weights and features are dropped as in the AWD-LSTM, and large
    or quickly changing answers of the last layer cost

    .. math:: \alpha \, \overline{\mathrm{dropout}(h)^2} + \beta \, \overline{(h_t - h_{t-1})^2}

    References:
        | Quasi-Recurrent Neural Networks (Bradbury et al., 2017)
        | https://arxiv.org/abs/1611.01576
        | An Analysis of Neural Language Modeling at Multiple Scales (Merity, Keskar & Socher,
        2018)
        | https://arxiv.org/abs/1803.08240

    Example:
        >>> model = QRNN(QRNNSpec(vocabulary=50, features=8, hidden=16, layers=3))
        >>> text = torch.randint(50, (2, 6))
        >>> none = text[:, :0]
        >>> answer = model.run(LanguageBatch(text[:, :-1], text[:, 1:], none, none.bool()))
        >>> answer.hidden.shape, answer.memory.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 1, 40]))
    """

    Spec = QRNNSpec
    spec: QRNNSpec

    def __init__(self, spec: QRNNSpec) -> None:
        super().__init__(spec)
        inputs = [spec.features, *spec.widths[:-1]]
        self.layers = nn.ModuleList(
            PooledLayer(
                before,
                outputs,
                spec.window if i == 0 else 1,
                weight_dropout=spec.weight_dropout,
            )
            for i, (before, outputs) in enumerate(zip(inputs, spec.widths, strict=True))
        )

    def run(self, batch: LanguageBatch) -> Answer:
        """The hidden features, and the last states of all layers, one after the other.

        Raises:
            ValueError: When a token is outside the vocabulary, the memory is not one of every
                sample, or no past token tells whether a sample has one.
        """
        states = self._remembered(batch).split(self.spec.widths, dim=2)
        h, kept = self.read(batch, self.spec.window - 1).words, []
        for i, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            h, last = layer(h if i == 0 else self.dropped(h, self.spec.dropout), state)
            kept.append(last)
        hidden = self.dropped(h, self.spec.head_dropout)
        memory = torch.cat(kept, dim=2).detach()
        return Answer(hidden, memory, self._penalty(h, hidden))

    def _remembered(self, batch: LanguageBatch) -> Float[Tensor, "b 1 d"]:
        """The memory, zero where a text starts."""
        known, shape = batch.known, (len(batch.tokens), 1, sum(self.spec.widths))
        if batch.memory is None:
            return self.vocabulary.tables[0].new_zeros(shape)
        if batch.memory.shape != shape:
            raise ValueError(
                f"a memory has the states of all layers, {shape} for this batch; got "
                f"{tuple(batch.memory.shape)}."
            )
        if known.shape[1] < self.spec.past:
            raise ValueError(
                f"a batch that goes on tells of the last {self.spec.past} tokens at least, "
                f"`spec.past`, or whether they exist; got {known.shape[1]} of them."
            )
        return batch.memory.where(known.any(1)[:, None, None], 0.0)

    def _penalty(self, raw: Hidden, hidden: Hidden) -> PerSample | None:
        """Of each sample; None where nothing costs anything."""
        alpha, beta = self.spec.activation_penalty, self.spec.change_penalty
        if not self.training or alpha == beta == 0.0:
            return None
        changes = raw.diff(dim=1).square().mean(2).sum(1) / max(1, raw.shape[1] - 1)
        return alpha * hidden.square().mean((1, 2)) + beta * changes


class PooledLayer(nn.Module):
    """One layer: gates of a window of positions, and the pooling that they steer.

    Arguments:
        inputs: Features in.
        outputs: Features out.
        window: Positions that the gates look at.
        weight_dropout: The share of their weights that training leaves out.
    """

    def __init__(self, inputs: int, outputs: int, window: int, *, weight_dropout: float) -> None:
        super().__init__()
        self.window, self.weight_dropout = window, weight_dropout
        self.gates = nn.Linear(window * inputs, 3 * outputs)

    def forward(
        self, x: Float[Tensor, "b n d"], state: Float[Tensor, "b 1 e"]
    ) -> tuple[Float[Tensor, "b l e"], Float[Tensor, "b 1 e"]]:
        """The answer at each position whose whole window is there, and the last state."""
        windows = x.unfold(1, self.window, 1).flatten(2)
        weight = F.dropout(self.gates.weight, self.weight_dropout, self.training)
        update, keep, out = F.linear(windows, weight, self.gates.bias).chunk(3, dim=2)
        states = pooled(update.tanh(), keep.sigmoid(), state.squeeze(1))
        return out.sigmoid() * states, states[:, -1:]


def pooled(
    update: Float[Tensor, "b l e"], keep: Float[Tensor, "b l e"], state: Float[Tensor, "b e"]
) -> Float[Tensor, "b l e"]:
    r"""The states :math:`c_t = f_t c_{t-1} + (1 - f_t) z_t`.

    Arguments:
        update: z.
        keep: f.
        state: The one before the first.

    Example:
        >>> half = torch.full((1, 3, 1), 0.5)
        >>> pooled(torch.ones(1, 3, 1), half, torch.zeros(1, 1)).flatten()
        tensor([0.5000, 0.7500, 0.8750])
    """
    states = []
    for z, f in zip(((1 - keep) * update).unbind(1), keep.unbind(1), strict=True):
        state = f * state + z
        states.append(state)
    return torch.stack(states, dim=1)
