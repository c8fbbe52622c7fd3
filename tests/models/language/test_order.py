"""The order of reading: no token is seen early, but by what mixes the positions of a sample."""

from collections.abc import Callable, Iterator

import pytest
import torch
from models.language.small import MEMORY, OTHER, close, disturbed, model_of, text_of, told
from torch import Tensor, nn

from cdeq import (
    Anderson,
    ConsistencyDEQ,
    Full,
    HyperDEQ,
    Picard,
    TimeSpan,
    UntiedDEQ,
    refine,
    solve,
)
from cdeq.hypersolver.scope import PerPosition
from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.deq_transformer import DEQTransformer

EPS = torch.tensor(TimeSpan().eps)
each_norm = pytest.mark.parametrize("norm", ["post", "pre"])


@torch.no_grad()
def states(student: object, model: DEQTransformer, batch: LanguageBatch, steps: int = 6) -> Tensor:
    """z_1 … z_J of a solver or a student."""
    x = model.encode(batch)
    if isinstance(student, (Anderson, Picard)):
        found = solve(model.bind(x), model.initial(x), student, max_steps=steps, record=True)
        return torch.stack(found.trajectory[1:])
    return torch.stack(list(refine(student, x, model.initial(x), EPS.expand(steps))))


def first_moved(run: Callable[[LanguageBatch], Tensor], place: int) -> tuple[bool, bool]:
    """Whether another token there moves what is before it at all, and what is at it or after."""
    text = text_of()
    other = text.clone()
    other[:, 6 + place] = OTHER[text[:, 6 + place]]
    before, after = run(told(text)), run(told(other))
    moved = (after != before).any(-1)  # … samples, positions
    return bool(moved[..., :place].any()), bool(moved[..., place:].any())


def causal_runs(norm: str) -> Iterator[tuple[str, Callable[[LanguageBatch], Tensor]]]:
    model = model_of(norm=norm)
    guess = disturbed(model.initializer().double())
    position = HyperDEQ.from_teacher(
        model, scope=PerPosition(), width=10, window=2, initializer=guess
    )
    plain = ConsistencyDEQ.from_teacher(model, accelerate=False)
    students = {
        "picard": Picard(),
        "untied": UntiedDEQ.from_teacher(model, steps=6),
        "untied-first": UntiedDEQ.from_teacher(model, steps=6, first=guess),
        "untied-free": UntiedDEQ.from_teacher(model, steps=6, increments=Full(free=True)),
        "hyper": position,
        "plain": plain,
    }
    for name, one in students.items():
        student = disturbed(one) if isinstance(one, nn.Module) else one
        yield name, lambda batch, student=student: states(student, model, batch)
    yield "answer", lambda batch: model(batch).detach()
    yield "guess", lambda batch: guess(model.initial(x := model.encode(batch)), x).detach()
    yield "words", lambda batch: model.encode(batch).inputs[:, MEMORY:].detach()


@each_norm
@pytest.mark.parametrize("place", [0, 1, 3])
def test_no_token_is_seen_before_its_turn(norm: str, place: int) -> None:
    """To the last bit, at every step of whatever treats positions alike."""
    for name, run in causal_runs(norm):
        early, late = first_moved(run, place)
        assert (name, early, late) == (name, False, True)


def mixing_runs() -> Iterator[tuple[str, Callable[[LanguageBatch], Tensor]]]:
    """Students of which the first two steps are plain, and what mixes whole samples after."""
    model = model_of()
    for name, student in {
        "anderson": Anderson(),
        "paper": ConsistencyDEQ.from_teacher(model),
        "tail": disturbed(UntiedDEQ.from_teacher(model, steps=1)),
        "pooled": disturbed(HyperDEQ.from_teacher(model, width=10, window=2)),
    }.items():
        yield name, lambda batch, student=student: states(student, model, batch)


def test_weights_of_whole_samples_see_ahead_before_convergence() -> None:
    """Anderson's weights come from all residuals of a sample: a leak that vanishes with them, and
    that nothing has in its first evaluation."""
    for name, run in mixing_runs():
        first = first_moved(lambda batch, run=run: run(batch)[:1], 3)
        assert (name, *first) == (name, name == "pooled", True)
        assert (name, *first_moved(run, 3)) == (name, True, True)


def test_converged_answers_of_mixing_solvers_do_not_see_ahead() -> None:
    model, text = model_of(solver=Anderson(), max_steps=80, tol=1e-13), text_of()
    other = text.clone()
    other[:, 9] = OTHER[text[:, 9]]
    with torch.no_grad():
        before, after = model(told(text)), model(told(other))
    close(after[:, :3], before[:, :3], 1e-9)
    assert float((after[:, 3] - before[:, 3]).abs().max()) > 1e-3


@each_norm
def test_samples_do_not_see_each_other(norm: str) -> None:
    model, text = model_of(norm=norm), text_of()
    steps = {"post": 6, "pre": 3}[norm]  # with "pre" this f is no contraction, and rounding grows
    for student in (Anderson(), UntiedDEQ.from_teacher(model), ConsistencyDEQ.from_teacher(model)):
        together = states(student, model, told(text), steps)
        for row in range(3):
            alone = LanguageBatch(*(part[row : row + 1] for part in told(text)))
            close(states(student, model, alone, steps), together[:, row : row + 1], 1e-7)
