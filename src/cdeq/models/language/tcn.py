"""TCN: a temporal convolutional network, dilated so that few layers see far back."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.explicit import Answer, ExplicitLanguageModel, ExplicitSpec

Channels = Float[Tensor, "b d n"]


@dataclass(frozen=True, kw_only=True)
class TCNSpec(ExplicitSpec):
    """The settings of a `TCN`.

    Arguments:
        vocabulary: Tokens; None leaves it to the data.
        features: Of a word vector and of the last block.
        cutoffs: Where clusters of rarer tokens begin (see `AdaptiveVocabulary`).
        shrink: By what factor their vectors are shorter, cluster by cluster.
        dropout: After every convolution; a share in [0, 1).
        word_dropout: Of the features of word vectors, the same at every position.
        head_dropout: Of the features that the softmax reads, the same at every position.
        layers: Blocks of two convolutions.
        hidden: Features of all of them but the last.
        window: Positions that a convolution looks at, its own included.

    Raises:
        ValueError: When a setting is outside its range.
    """

    layers: int = 4
    hidden: int = 320
    window: int = 3

    def __post_init__(self) -> None:
        self._require_counts("layers", "hidden", "window")
        super().__post_init__()

    @property
    def past(self) -> int:
        """All that the last position's answer can depend on besides itself: two convolutions of
        each dilation 1, 2, 4, …"""
        return 2 * (self.window - 1) * (2**self.layers - 1)


class TCN(ExplicitLanguageModel):
    r"""Residual blocks of two causal convolutions of dilation 1, 2, 4, … and normalised weights.

    .. math:: g &= \mathrm{dropout}(\mathrm{ReLU}(\mathrm{conv}(h_i))) \\
        h_{i+1} &= \mathrm{ReLU}(S_i h_i + \mathrm{dropout}(\mathrm{ReLU}(\mathrm{conv}(g))))

    with S = I, or a linear map where widths differ. There is no memory: the network reads the
    `past` tokens again. A position without a token is zero to every layer.

    References:
        | An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
        Modeling (Bai, Kolter & Koltun, 2018)
        | https://arxiv.org/abs/1803.01271

    Example:
        >>> import torch
        >>> model = TCN(TCNSpec(vocabulary=50, features=8, hidden=16, layers=2))
        >>> text = torch.randint(50, (2, 6))
        >>> none = text[:, :0]
        >>> model(LanguageBatch(text[:, :-1], text[:, 1:], none, none.bool())).shape
        torch.Size([2, 5, 8])
        >>> model.spec.past  # 2 · 2 of dilation 1, twice that of dilation 2
        12
    """

    Spec = TCNSpec
    spec: TCNSpec

    def __init__(self, spec: TCNSpec) -> None:
        super().__init__(spec)
        widths = [spec.features, *[spec.hidden] * (spec.layers - 1), spec.features]
        self.blocks = nn.ModuleList(
            TemporalBlock(
                widths[i], widths[i + 1], spec.window, dilation=2**i, dropout=spec.dropout
            )
            for i in range(spec.layers)
        )

    def run(self, batch: LanguageBatch) -> Answer:
        """The hidden features.

        Raises:
            ValueError: When a token is outside the vocabulary.
        """
        words, exists = self.read(batch, self.spec.past)
        h, exists = words.transpose(1, 2), exists.unsqueeze(1)
        for block in self.blocks:
            h = block(h, exists)
        return Answer(self.dropped(h.transpose(1, 2), self.spec.head_dropout))


class TemporalBlock(nn.Module):
    """Two causal convolutions and what they are added to.

    The answer is about the positions whose whole window is there, the last of those given.

    Arguments:
        inputs: Features in.
        outputs: Features out.
        window: Positions that a convolution looks at.
        dilation: How far apart these are.
        dropout: The share of each convolution's output that training leaves out.
    """

    def __init__(
        self, inputs: int, outputs: int, window: int, *, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.first = weight_norm(nn.Conv1d(inputs, outputs, window, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(outputs, outputs, window, dilation=dilation))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Channels, exists: Bool[Tensor, "b 1 p"]) -> Channels:
        h = present(self._dropped(self.first(x).relu()), exists)
        h = self._dropped(self.second(h).relu())
        return present((h + self.skip(latest(x, h))).relu(), exists)

    def _dropped(self, value: Channels) -> Channels:
        return F.dropout(value, self.dropout, self.training)


def latest(x: Tensor, like: Tensor) -> Tensor:
    """The last positions, as many as the other has."""
    return x[:, :, x.shape[2] - like.shape[2] :]


def present(x: Channels, exists: Bool[Tensor, "b 1 p"]) -> Channels:
    """The same, but zero at positions without a token.

    Arguments:
        x: Features of the last n positions.
        exists: Which of all p ≥ n positions have one.
    """
    return x.where(latest(exists, x), 0.0)
