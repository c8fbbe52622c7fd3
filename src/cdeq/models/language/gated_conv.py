"""Gated convolutional network: half of each convolution says how much of the rest passes."""

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.explicit import Answer, ExplicitLanguageModel, ExplicitSpec
from cdeq.models.language.tcn import Channels, latest, present


@dataclass(frozen=True, kw_only=True)
class Gated:
    """The settings of one residual block.

    Arguments:
        features: Of its answer.
        window: Positions that its convolution looks at, its own included.
        bottleneck: Features on which the convolution works, between two linear maps with gates;
            None convolves all of them.

    Raises:
        ValueError: When a number is below 1.
    """

    features: int
    window: int
    bottleneck: int | None = None

    def __post_init__(self) -> None:
        inner = self.features if self.bottleneck is None else self.bottleneck
        if min(self.features, self.window, inner) < 1:
            raise ValueError(
                f"a block has features, a window and a bottleneck of at least 1; got {self}."
            )

    @property
    def convolutions(self) -> list[tuple[int, int]]:
        """Features and window of each."""
        if self.bottleneck is None:
            return [(self.features, self.window)]
        return [(self.bottleneck, 1), (self.bottleneck, self.window), (self.features, 1)]


@dataclass(frozen=True, kw_only=True)
class GatedConvSpec(ExplicitSpec):
    """The settings of a `GatedConvNet`.

    Arguments:
        vocabulary: Tokens; None leaves it to the data.
        features: Of a word vector and of what the softmax reads.
        cutoffs: Where clusters of rarer tokens begin (see `AdaptiveVocabulary`).
        shrink: By what factor their vectors are shorter, cluster by cluster.
        dropout: Before every convolution; a share in [0, 1).
        word_dropout: Of the features of word vectors, the same at every position.
        head_dropout: Of the features that the softmax reads, the same at every position.
        blocks: One after the other.

    Raises:
        ValueError: When a setting is outside its range.
    """

    blocks: tuple[Gated, ...] = (Gated(features=320, window=4),) * 4

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("a network has at least one of `blocks`; got none.")
        super().__post_init__()

    @property
    def past(self) -> int:
        """All that the last position's answer can depend on besides itself."""
        return sum(block.window - 1 for block in self.blocks)


class GatedConvNet(ExplicitLanguageModel):
    r"""Residual blocks of causal convolutions with gated linear units and normalised weights.

    .. math:: h_{i+1} = \tfrac{1}{\sqrt 2} \big( S_i h_i + a \circ \sigma(b) \big) , \qquad
        [a, b] = \mathrm{conv}(\mathrm{dropout}(h_i))

    with S = I, or a linear map where widths differ; in a block with a bottleneck, three gated
    convolutions follow each other. A linear map of the last block's answer is what the softmax
    reads. There is no memory: the network reads the `past` tokens again. A position without a
    token is zero to every layer.

    References:
        | Language Modeling with Gated Convolutional Networks (Dauphin et al., 2017)
        | https://arxiv.org/abs/1612.08083

    Example:
        >>> import torch
        >>> blocks = (Gated(features=16, window=4), Gated(features=32, window=5, bottleneck=8))
        >>> model = GatedConvNet(GatedConvSpec(vocabulary=50, features=8, blocks=blocks))
        >>> text = torch.randint(50, (2, 6))
        >>> none = text[:, :0]
        >>> model(LanguageBatch(text[:, :-1], text[:, 1:], none, none.bool())).shape
        torch.Size([2, 5, 8])
        >>> model.spec.past
        7
    """

    Spec = GatedConvSpec
    spec: GatedConvSpec

    def __init__(self, spec: GatedConvSpec) -> None:
        super().__init__(spec)
        widths = [spec.features, *(block.features for block in spec.blocks)]
        self.blocks = nn.ModuleList(
            GatedBlock(inputs, block, dropout=spec.dropout)
            for inputs, block in zip(widths[:-1], spec.blocks, strict=True)
        )
        self.output = weight_norm(nn.Linear(widths[-1], spec.features))

    def run(self, batch: LanguageBatch) -> Answer:
        """The hidden features.

        Raises:
            ValueError: When a token is outside the vocabulary.
        """
        words, exists = self.read(batch, self.spec.past)
        h, exists = words.transpose(1, 2), exists.unsqueeze(1)
        for block in self.blocks:
            h = block(h, exists)
        hidden = self.output(h.transpose(1, 2))
        return Answer(self.dropped(hidden, self.spec.head_dropout))


class GatedBlock(nn.Module):
    """Gated convolutions and what they are added to.

    The answer is about the positions whose whole window is there, the last of those given.

    Arguments:
        inputs: Features in.
        block: The other settings.
        dropout: The share of each convolution's input that training leaves out.
    """

    def __init__(self, inputs: int, block: Gated, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        widths = [inputs, *(features for features, _ in block.convolutions)]
        self.convolutions = nn.ModuleList(
            _gated(before, features, window, dropout)
            for before, (features, window) in zip(widths[:-1], block.convolutions, strict=True)
        )
        same = inputs == block.features
        self.skip = nn.Identity() if same else weight_norm(nn.Conv1d(inputs, block.features, 1))

    def forward(self, x: Channels, exists: Bool[Tensor, "b 1 p"]) -> Channels:
        h = x
        for convolution in self.convolutions:
            wide = convolution(F.dropout(h, self.dropout, self.training))
            h = present(F.glu(wide, dim=1), exists)
        return present((h + self.skip(latest(x, h))) * 0.5**0.5, exists)


def _gated(inputs: int, outputs: int, window: int, dropout: float) -> nn.Module:
    """One that keeps the size of what passes, since 3 E[σ(√3 x)²] ≈ 1 for normal x."""
    convolution = nn.Conv1d(inputs, 2 * outputs, window)
    nn.init.normal_(convolution.weight, std=(3 * (1 - dropout) / (inputs * window)) ** 0.5)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return weight_norm(convolution)
