"""The DEQ-Transformer: a language model of infinite depth."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cdeq.core.adjoint import Implicit, Phantom
from cdeq.core.deq import DEQ
from cdeq.core.readout import LinearReadout
from cdeq.core.solvers import Anderson, Broyden, Picard
from cdeq.models.base import EquilibriumModel, Memory
from cdeq.models.language.adaptive import require_cutoffs, vocabulary_of
from cdeq.models.language.batch import LanguageBatch, require_known
from cdeq.models.language.cell import LanguageContext, Norm, TransformerCell
from cdeq.models.language.initializer import CausalInitializer
from cdeq.models.repeatable import dropout_mask, masked
from cdeq.typing import PerSample, State


@dataclass(frozen=True, kw_only=True)
class TransformerSpec:
    """The settings of a `DEQTransformer`.

    Arguments:
        vocabulary: Tokens; None leaves it to the data.
        features: Of a state, even.
        heads: Of attention, among which the features are divided evenly.
        inner: Features between the two linear maps of a layer.
        memory: Tokens m ≥ 0 before a segment whose states are remembered.
        cutoffs: Where clusters of rarer tokens begin (see `AdaptiveVocabulary`).
        shrink: By what factor their vectors are shorter, cluster by cluster.
        norm: Layer normalisation after or before each part of f.
        dropout: In f, fixed along a solve; a share in [0, 1).
        word_dropout: Of the features of word vectors.
        head_dropout: Of the features that the head reads.
        solver: The forward solver.
        max_steps: Its budget of evaluations.
        tol: Its relative residual; None spends the budget.
        adjoint_steps: The budget of the backward pass.
        phantom: Gradients of this kind instead, which need no solve.

    Raises:
        ValueError: When a setting is outside its range.
    """

    vocabulary: int | None = None
    features: int = 160
    heads: int = 4
    inner: int = 1280
    memory: int = 64
    cutoffs: tuple[int, ...] = ()
    shrink: int = 4
    norm: Norm = "post"
    dropout: float = 0.0
    word_dropout: float = 0.0
    head_dropout: float = 0.0
    solver: Anderson | Broyden | Picard = Anderson()
    max_steps: int = 16
    tol: float | None = None
    adjoint_steps: int = 12
    phantom: Phantom | None = None

    def __post_init__(self) -> None:
        for name in ("features", "heads", "inner", "max_steps", "adjoint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is a count of at least 1; got {getattr(self, name)}.")
        if self.features % 2 or self.features % self.heads:
            raise ValueError(
                "`features` are even, for pairs of waves, and divided evenly among `heads`; got "
                f"{self.features} and {self.heads}."
            )
        if self.memory < 0:
            raise ValueError(f"`memory` counts tokens from 0 up; got {self.memory}.")
        for name in ("dropout", "word_dropout", "head_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` is a share in [0, 1); got {getattr(self, name)}.")
        if self.vocabulary is not None:
            require_cutoffs(self.vocabulary, self.features, self.cutoffs, self.shrink)


class DEQTransformer(EquilibriumModel):
    r"""A language model: word vectors, `TransformerCell` to its equilibrium, a tied softmax.

    A sample is a segment of a text. What was computed for the m tokens before it is its memory
    (`remember`, `recall`), through which no gradient flows, as in Transformer-XL.

    The answer is the hidden features; `log_probs` gives the distribution over tokens that belongs
    to them, which for large vocabularies is too large to be computed for its own sake.

    References:
        | Deep Equilibrium Models (Bai, Kolter & Koltun, 2019)
        | https://arxiv.org/abs/1909.01377

    Example:
        >>> model = DEQTransformer(TransformerSpec(vocabulary=50, features=8, heads=2, inner=16))
        >>> text = torch.randint(50, (2, 6))
        >>> none = text[:, :0]
        >>> hidden = model(LanguageBatch(text[:, :-1], text[:, 1:], none, none.bool()))
        >>> model.log_probs(hidden).shape
        torch.Size([2, 5, 50])
    """

    Spec = TransformerSpec

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.vocabulary = vocabulary_of(spec)
        cell = TransformerCell(
            spec.features, spec.heads, spec.inner, norm=spec.norm, dropout=spec.dropout
        )
        self.deq = DEQ(
            cell,
            solver=spec.solver,
            adjoint=spec.phantom or Implicit(max_steps=spec.adjoint_steps, tol=None),
            max_steps=spec.max_steps,
            tol=spec.tol,
        )

    def encode(self, batch: LanguageBatch) -> LanguageContext:
        """Word vectors and memory, of which what is not known is zero.

        Raises:
            ValueError: When a token is outside the vocabulary, or the memory is not one state for
                each past token.
        """
        past, known, memory = batch.past, batch.known, batch.memory
        if memory is None:
            past, known = past[:, :0], known[:, :0]
            memory = self.vocabulary.tables[0].new_zeros(len(past), 0, self.spec.features)
        if memory.shape != (*past.shape, self.spec.features):
            raise ValueError(
                "a memory has one state for each past token; got "
                f"{tuple(memory.shape)} for {tuple(past.shape)} tokens and "
                f"{self.spec.features} features."
            )
        tokens = torch.cat([past.where(known, 0), batch.tokens], dim=1)
        require_known(tokens, self.vocabulary.size)
        words = self.vocabulary.embed(tokens)
        memory = memory.where(known.unsqueeze(2), 0.0)
        return LanguageContext(self._dropped(words, self.spec.word_dropout), memory, known)

    def initial(self, x: LanguageContext) -> Float[Tensor, "b l d"]:
        present = x.inputs.shape[1] - x.known.shape[1]
        return x.inputs.new_zeros(len(x.inputs), present, self.spec.features)

    def decode(self, z: State, x: LanguageContext) -> Float[Tensor, "b l d"]:
        """The features that the softmax reads."""
        assert isinstance(z, Tensor)
        return self._dropped(z, self.spec.head_dropout)

    def log_probs(self, hidden: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        """log p of every token, for each position."""
        return self.vocabulary.log_probs(hidden)

    def loss(self, output: Tensor, batch: LanguageBatch) -> PerSample:
        """-log p of the next token, averaged over the segment."""
        return self.vocabulary.losses(output, batch.target).mean(1)

    def divergence(self, output: Tensor, target: Tensor) -> PerSample:
        """KL of the two distributions over tokens, averaged over the segment."""
        return self.comparison(target)(output)

    def comparison(self, target: Tensor) -> Callable[[Tensor], PerSample]:
        wanted = self.vocabulary.by_cluster(target)
        return lambda output: self.vocabulary.divergence_of(output, wanted).mean(1)

    def readout(self) -> LinearReadout:
        return LinearReadout([self.spec.features], axis=-1)

    def initializer(self) -> CausalInitializer:
        return CausalInitializer(self.spec.features)

    def remember(self, z: State, x: LanguageContext) -> Float[Tensor, "b m d"]:
        """The states of the last m tokens, zeros where there were fewer."""
        assert isinstance(z, Tensor)
        states = torch.cat([x.memory, z], dim=1).detach()
        kept = states[:, max(0, states.shape[1] - self.spec.memory) :]
        return F.pad(kept, (0, 0, self.spec.memory - kept.shape[1], 0))

    def recall(self, batch: LanguageBatch, memory: Memory) -> LanguageBatch:
        """The next batch of the same streams, with the memory; as it is where there is None."""
        return batch if memory is None else batch._replace(memory=memory)

    def _dropped(self, value: Tensor, rate: float) -> Tensor:
        mask = dropout_mask(value, rate, shared=1) if self.training else None
        return masked(value, mask)
