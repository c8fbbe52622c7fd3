"""What the explicit baselines share: a tied vocabulary around finitely many layers, and losses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from cdeq.models.base import Memory
from cdeq.models.language.adaptive import require_cutoffs, vocabulary_of
from cdeq.models.language.batch import LanguageBatch, require_known
from cdeq.models.repeatable import dropout_mask, masked
from cdeq.pretrained import Pretrained
from cdeq.typing import PerSample

Hidden = Float[Tensor, "b l d"]


class Answer(NamedTuple):
    """What a network makes of a batch."""

    hidden: Hidden
    """The features that the softmax reads."""
    memory: Memory = None
    """What the next batch of the same streams is told, without gradients; None where the tokens
    before it say everything."""
    penalty: PerSample | None = None
    """What training minimises besides the loss; None where there is no such thing."""


class Reading(NamedTuple):
    """A segment of l tokens, with the p tokens before it that a network looks at."""

    words: Float[Tensor, "b n d"]
    """Word vectors of the n = p + l tokens, zero where there is no token."""
    exists: Bool[Tensor, "b n"]
    """Where there is one."""


@dataclass(frozen=True, kw_only=True)
class ExplicitSpec(ABC):
    """What the specifications of these models share.

    Arguments:
        vocabulary: Tokens; None leaves it to the data.
        features: Of a word vector and of what the softmax reads.
        cutoffs: Where clusters of rarer tokens begin (see `AdaptiveVocabulary`).
        shrink: By what factor their vectors are shorter, cluster by cluster.
        dropout: Inside the network; a share in [0, 1).
        word_dropout: Of the features of word vectors, the same at every position.
        head_dropout: Of the features that the softmax reads, the same at every position.

    Raises:
        ValueError: When a setting is outside its range.
    """

    vocabulary: int | None = None
    features: int = 160
    cutoffs: tuple[int, ...] = ()
    shrink: int = 4
    dropout: float = 0.0
    word_dropout: float = 0.0
    head_dropout: float = 0.0

    def __post_init__(self) -> None:
        self._require_counts("features")
        self._require_shares("dropout", "word_dropout", "head_dropout")
        if self.vocabulary is not None:
            require_cutoffs(self.vocabulary, self.features, self.cutoffs, self.shrink)

    @property
    @abstractmethod
    def past(self) -> int:
        """How many tokens before a segment a batch has to tell of."""

    def _require_counts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a count of at least 1; got {getattr(self, name)}.")

    def _require_shares(self, *names: str) -> None:
        for name in names:
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` is a share in [0, 1); got {getattr(self, name)}.")


class ExplicitLanguageModel(Pretrained, ABC):
    r"""A language model of finitely many layers: no equilibrium, no solver.

    A sample is a segment of a text. A subclass says how it `run`s; the answer is the hidden
    features h, from which the tied vocabulary has :math:`p(\cdot \mid h)`. What stands before the
    segment is told by `past` tokens of the batch, and by a memory where the batch before left one;
    a sample whose past tokens are all unknown starts its text, whatever its memory holds.

    Arguments:
        spec: Its settings.
    """

    def __init__(self, spec: ExplicitSpec) -> None:
        super().__init__()
        self.spec = spec
        self.vocabulary = vocabulary_of(spec)

    @abstractmethod
    def run(self, batch: LanguageBatch) -> Answer:
        """The hidden features of every position, and what the batch leaves to the next."""

    def recall(self, batch: LanguageBatch, memory: Memory) -> LanguageBatch:
        """The next batch of the same streams, with the memory; as it is where there is None."""
        return batch if memory is None else batch._replace(memory=memory)

    def forward(self, batch: LanguageBatch) -> Hidden:
        """The hidden features of every position."""
        return self.run(batch).hidden

    def losses(self, batch: LanguageBatch) -> PerSample:
        """What training minimises: the loss, and the penalty where there is one."""
        return self.judged(batch)[0]

    def judged(self, batch: LanguageBatch) -> tuple[PerSample, Memory]:
        """What `losses` gives, and what the batch leaves to the next."""
        answer = self.run(batch)
        loss = self.loss(answer.hidden, batch)
        return loss if answer.penalty is None else loss + answer.penalty, answer.memory

    def loss(self, output: Hidden, batch: LanguageBatch) -> PerSample:
        """-log p of the next token, averaged over the segment."""
        return self.vocabulary.losses(output, batch.target).mean(1)

    def log_probs(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        """log p of every token, for each position."""
        return self.vocabulary.log_probs(hidden)

    def read(self, batch: LanguageBatch, past: int) -> Reading:
        """The segment after the last `past` tokens before it; those that the batch does not tell
        of are as unknown ones.

        Raises:
            ValueError: When a token is outside the vocabulary.
        """
        told = batch.past.shape[1]
        known = batch.known[:, max(0, told - past) :]
        before = batch.past[:, max(0, told - past) :].where(known, 0)
        lacking = past - known.shape[1]
        tokens = torch.cat([F.pad(before, (lacking, 0)), batch.tokens], dim=1)
        known = F.pad(known, (lacking, 0), value=False)
        exists = F.pad(known, (0, batch.tokens.shape[1]), value=True)
        require_known(tokens, self.vocabulary.size)
        words = self.dropped(self.vocabulary.embed(tokens), self.spec.word_dropout)
        return Reading(words.where(exists.unsqueeze(2), 0.0), exists)

    def dropped(self, value: Hidden, rate: float) -> Hidden:
        """The value without a share of its features in training, the same at every position."""
        mask = dropout_mask(value, rate, shared=1) if self.training else None
        return masked(value, mask)
