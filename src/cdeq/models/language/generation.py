"""Going on with a text: each new token is one new position, and the equilibrium is only its own.

Attention is causal, so the states of earlier positions stay as they are when a token follows. They
are the memory of the new position, whose state is all that has to be found.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cdeq.errors import SolveError
from cdeq.models.language.decoding import Decoding
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.language.reading import Answerer, Reading, read, read_on, require_text

NewState = Float[Tensor, "b 1 d"]
Start: TypeAlias = Callable[[Reading, Int[Tensor, "b 1"], NewState], NewState]
"""Where the state of a new position starts: `start(reading, token, z_0)`."""


def cold(reading: Reading, token: Int[Tensor, "b 1"], z0: NewState) -> NewState:
    """At the model's z_0, which is where students have learned to start."""
    return z0


def previous(reading: Reading, token: Int[Tensor, "b 1"], z0: NewState) -> NewState:
    """At the state of the position before, or z_0 where there is none."""
    return _newest(reading, reading.known, z0)


def recurring(reading: Reading, token: Int[Tensor, "b 1"], z0: NewState) -> NewState:
    """At the newest state in memory of the very same token, or z_0 where there is none.

    Saves evaluations of a solver: an equilibrium depends on its own token most.
    """
    return _newest(reading, reading.known & (reading.past == token), z0)


def _newest(reading: Reading, chosen: Bool[Tensor, "b m"], z0: NewState) -> NewState:
    """The newest of the chosen states, or z_0 where none is chosen."""
    rows, m = chosen.shape
    places = chosen * torch.arange(1, m + 1, device=chosen.device)
    newest = F.pad(places, (1, 0)).amax(1)
    states = torch.cat([z0, reading.memory], dim=1)
    return states[torch.arange(rows, device=chosen.device), newest].unsqueeze(1)


class Step(NamedTuple):
    """A new token of each row."""

    token: Int[Tensor, " b"]
    log_prob: Float[Tensor, " b"]
    """log p of the token, by the model's own distribution whatever the decoding."""
    evaluations: int
    """How often f was evaluated for it, for all rows at once."""
    missed: int
    """In how many rows the state that it was chosen from missed its tolerance."""


def continuations(
    model: DEQTransformer,
    prompt: Int[Tensor, "b n"],
    answer: Answerer,
    *,
    tokens: int,
    decoding: Decoding = Decoding(),
    generator: torch.Generator | None = None,
    start: Start = cold,
    segment: int = 64,
    after: Reading | None = None,
) -> Iterator[Step]:
    r"""Go on with rows of text.

    The prompt is read but for its last token (see `read`). From there on one token after the other
    is read as one new position, and gives the next:

    .. math:: z_n = f(z_n, x_n; z_{n-m}, \dots, z_{n-1}) , \qquad w_{n+1} \sim p(\cdot \mid z_n)

    With exact answers this is what reading everything as one segment gives, as long as the m
    states in memory reach back to the beginning.

    Arguments:
        model: The model, which is set to evaluation.
        prompt: The ids, n ≥ 1; read at once, while new tokens come as they are asked for.
        answer: Finds the states, see `solved` and `stepped`.
        tokens: How many new tokens, ≥ 1.
        decoding: How they are chosen.
        generator: Decides draws; None takes torch's own.
        start: Where the state of a new position starts: `cold`, `previous` or `recurring`.
        segment: Tokens of the prompt read at once.
        after: What was read before the prompt.

    Raises:
        TypeError: When the prompt is no rows of ids.
        ValueError: When it is empty, a token is outside the vocabulary, or a count is below 1.
        SolveError: On the way, when a state is not finite.

    Example:
        >>> from cdeq.models.language.deq_transformer import TransformerSpec
        >>> from cdeq.models.language.reading import solved
        >>> model = DEQTransformer(TransformerSpec(vocabulary=9, features=8, heads=2, inner=8))
        >>> len([*continuations(model, torch.tensor([[1, 2]]), solved(model), tokens=4)])
        4
    """
    require_text(model, prompt)
    if tokens < 1 or prompt.shape[1] < 1:
        raise ValueError(
            "a continuation has at least 1 token, and goes on from at least 1; got `tokens` of "
            f"{tokens} after a prompt of {prompt.shape[1]}: where there is nothing to begin with, "
            "give what ends a line."
        )
    reading = read(model, prompt[:, :-1], answer, segment=segment, after=after)
    choose = partial(_chosen, model, decoding, generator)
    return _continued(model, reading, prompt[:, -1:], answer, start, choose, tokens)


def _continued(
    model: DEQTransformer,
    reading: Reading,
    token: Int[Tensor, "b 1"],
    answer: Answerer,
    start: Start,
    choose: Callable[[Tensor], tuple[Tensor, Tensor]],
    tokens: int,
) -> Iterator[Step]:
    for _ in range(tokens):
        before, first = reading, partial(start, reading, token)
        reading, hidden = read_on(model, before, token, answer, first)
        token, log_prob = choose(hidden)
        evaluations = reading.evaluations - before.evaluations
        yield Step(token[:, 0], log_prob[:, 0], evaluations, reading.missed - before.missed)


@torch.no_grad()
def _chosen(
    model: DEQTransformer,
    decoding: Decoding,
    generator: torch.Generator | None,
    hidden: Float[Tensor, "b 1 d"],
) -> tuple[Int[Tensor, "b 1"], Float[Tensor, "b 1"]]:
    """Tokens, and their log p."""
    log_probs = model.log_probs(hidden[:, -1])
    if bool(log_probs.isnan().any()):
        raise SolveError(
            "the next token is chosen from a finite state, and this one is not; look whether the "
            "model converges on such a text (its audit says), or give it more evaluations."
        )
    token = decoding.choose(log_probs, generator).unsqueeze(1)
    return token, log_probs.gather(1, token)


def unseen(model: DEQTransformer, length: int) -> int:
    """How many of a prompt's tokens the next one does not see: it sees the last of them and
    `spec.memory` before that.

    Arguments:
        model: The model.
        length: Of the prompt.

    Example:
        >>> from cdeq.models.language.deq_transformer import TransformerSpec
        >>> model = DEQTransformer(TransformerSpec(vocabulary=9, features=8, heads=2, memory=4))
        >>> unseen(model, 5), unseen(model, 7)
        (0, 2)
    """
    return max(0, length - model.spec.memory - 1)
