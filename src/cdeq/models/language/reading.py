"""Reading a text, segment by segment, with any way to find the states."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cdeq.core.norms import relative
from cdeq.core.solve import Status, require_budget, require_tolerance, solve
from cdeq.core.solvers import Solver
from cdeq.errors import SolveError
from cdeq.models.language.batch import LanguageBatch, require_known
from cdeq.models.language.cell import LanguageContext
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.typing import State


class Answer(NamedTuple):
    """The states of new positions, and what they cost."""

    z: State
    evaluations: int
    """How often f was evaluated, for all rows at once."""
    missed: int = 0
    """In how many rows a tolerance was asked for that was not reached."""


Answerer: TypeAlias = Callable[[LanguageContext, State], Answer]
"""How the states of new positions are found, for a context, from where they start."""


def solved(
    model: DEQTransformer,
    *,
    tol: float = 1e-3,
    max_steps: int = 100,
    solver: Solver[Any] | None = None,
) -> Answerer:
    """The model's equilibrium, to a tolerance.

    Arguments:
        model: The model.
        tol: The relative residual at which a row is done.
        max_steps: Evaluations after which a row goes on as it is, and counts as missed.
        solver: The solver; None takes the model's own.

    Raises:
        ValueError: When `max_steps` < 1, or `tol` cannot be met in the model's precision.
        SolveError: When answering, if f is not finite.
    """
    require_budget(max_steps)
    require_tolerance(tol, relative, model.vocabulary.tables[0].dtype)
    method = model.deq.solver if solver is None else solver

    def answer(x: LanguageContext, z0: State) -> Answer:
        found = solve(model.bind(x), z0, method, max_steps=max_steps, tol=tol)
        if found.status is Status.NONFINITE:
            raise SolveError(f"there is no state to go on from: {found.status.value}.")
        return Answer(found.z, found.nfe, int((~found.converged).sum()))

    return answer


def stepped(run: Callable[[LanguageContext, State], Iterable[State]]) -> Answerer:
    """The last state of a run that yields one after each evaluation, such as `refine`'s.

    Arguments:
        run: Gives the states of a run, for a context, from where it starts.

    Example:
        >>> from cdeq import ConsistencyDEQ, refine
        >>> from cdeq.models.language.deq_transformer import TransformerSpec
        >>> model = DEQTransformer(TransformerSpec(vocabulary=9, features=8, heads=2, inner=8))
        >>> student, times = ConsistencyDEQ.from_teacher(model), torch.tensor([0.0, 0.5])
        >>> answer = stepped(lambda x, z0: refine(student, x, z0, times))
        >>> read(model, torch.tensor([[1, 2, 3]]), answer).evaluations
        2
    """

    def answer(x: LanguageContext, z0: State) -> Answer:
        found = Answer(z0, 0)
        for z in run(x, z0):
            found = Answer(z, found.evaluations + 1)
        return found

    return answer


class Reading(NamedTuple):
    """Where the reader of some rows of text stands."""

    past: Int[Tensor, "b m"]
    """The last m tokens, 0 where there were fewer."""
    known: Bool[Tensor, "b m"]
    """Which of these were read."""
    memory: Float[Tensor, "b m d"]
    """Their states."""
    evaluations: int = 0
    """How often f was evaluated so far."""
    missed: int = 0
    """How many answers missed their tolerance so far."""

    @classmethod
    def start(cls, model: DEQTransformer, rows: int) -> "Reading":
        """Before the first token."""
        table, size = model.vocabulary.tables[0], (rows, model.spec.memory)
        past = table.new_zeros(size, dtype=torch.long)
        return cls(past, past.bool(), table.new_zeros(*size, model.spec.features))


def read(
    model: DEQTransformer,
    text: Int[Tensor, "b n"],
    answer: Answerer,
    *,
    segment: int = 64,
    after: Reading | None = None,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Reading:
    """Read rows of text, as the model was trained to.

    A text may be longer than what a position sees, which is its segment up to itself and the
    `spec.memory` tokens before the segment: what is further back has its say through the states in
    memory alone.

    Arguments:
        model: The model, which is set to evaluation.
        text: The ids; there may be none.
        answer: Finds the states.
        segment: Tokens read at once, ≥ 1.
        after: What was read before.
        advance: Called with the segments done and those in all.

    Raises:
        TypeError: When the text is no rows of ids.
        ValueError: When there is a token outside the vocabulary, another number of rows was read
            before, or `segment` < 1.
    """
    require_text(model, text)
    if segment < 1:
        raise ValueError(f"`segment` counts tokens, at least 1; got {segment}.")
    reading = Reading.start(model, len(text)) if after is None else after
    if len(reading.past) != len(text):
        raise ValueError(
            "a text goes on row by row where the one before it ended; got "
            f"{len(text)} rows after {len(reading.past)}."
        )
    model.eval()
    total = -(-text.shape[1] // segment)
    for done, tokens in enumerate(text.split(segment, dim=1)[:total], start=1):
        reading, _ = read_on(model, reading, tokens, answer)
        advance(done, total)
    return reading


@torch.no_grad()
def read_on(
    model: DEQTransformer,
    reading: Reading,
    tokens: Int[Tensor, "b l"],
    answer: Answerer,
    start: Callable[[Tensor], Tensor] = lambda z0: z0,
) -> tuple[Reading, Float[Tensor, "b l d"]]:
    """Read one segment more.

    Arguments:
        model: The model, in evaluation.
        reading: What was read before.
        tokens: The segment.
        answer: Finds its states.
        start: Where from, given the model's z_0.

    Returns:
        What was read by then, and the features from which the model tells what comes next.
    """
    # nobody looks at the target, which is what is wanted
    batch = LanguageBatch(tokens, tokens, reading.past, reading.known)
    x = model.encode(model.recall(batch, reading.memory))
    found, new = answer(x, start(model.initial(x))), tokens.shape[1]
    further = Reading(
        past=torch.cat([reading.past, tokens], dim=1)[:, new:],
        known=F.pad(reading.known, (0, new), value=True)[:, new:],
        memory=model.remember(found.z, x),
        evaluations=reading.evaluations + found.evaluations,
        missed=reading.missed + found.missed,
    )
    return further, model.decode(found.z, x)


def require_text(model: DEQTransformer, text: Int[Tensor, "b n"]) -> None:
    """Refuse what is no rows of ids of the model's vocabulary.

    Raises:
        TypeError: When it is no rows of ids.
        ValueError: When a token is outside the vocabulary.
    """
    if text.dim() != 2 or text.dtype not in (torch.int32, torch.int64):
        raise TypeError(
            f"a text is rows of ids, int32 or int64; got shape {tuple(text.shape)} of "
            f"{text.dtype}."
        )
    require_known(text, model.vocabulary.size)
