"""Reading and going on token by token: the same numbers as reading everything at once."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from models.language.contracting import WORDS, at_once, close, contracting, exactly, text_of
from torch import Tensor, nn

from cdeq import AnchoredDEQ, ConsistencyDEQ, ExponentialSchedule, UntiedDEQ, refine
from cdeq.errors import SolveError
from cdeq.models.language.decoding import Decoding
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.language.generation import (
    Start,
    Step,
    cold,
    continuations,
    previous,
    recurring,
    unseen,
)
from cdeq.models.language.reading import (
    Answer,
    Answerer,
    Reading,
    read,
    solved,
    stepped,
)

GREEDY = Decoding(temperature=0.0)
TIMES = ExponentialSchedule.from_ratio(0.5)
STARTS: dict[str, Start] = {"cold": cold, "previous": previous, "recurring": recurring}
each_start = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)


def tokens_of(steps: list[Step]) -> Tensor:
    return torch.stack([step.token for step in steps], dim=1)


def log_probs_of(steps: list[Step]) -> Tensor:
    return torch.stack([step.log_prob for step in steps], dim=1)


@pytest.mark.parametrize("segment", [2, 64])
@each_start
def test_going_on_is_reading_the_same_text_at_once(start: Start, segment: int) -> None:
    model, prompt = contracting(), text_of(length=5)
    steps = list(
        continuations(
            model,
            prompt,
            exactly(model),
            tokens=9,
            generator=torch.Generator().manual_seed(4),
            start=start,
            segment=segment,
        )
    )
    new = tokens_of(steps)
    assert not any(step.missed for step in steps)
    _, log_probs = at_once(model, torch.cat([prompt, new[:, :-1]], dim=1))
    expected = log_probs[:, 4:].gather(2, new.unsqueeze(2)).squeeze(2)
    close(log_probs_of(steps), expected)


def test_greedy_text_is_the_most_probable_token_each_time() -> None:
    model, prompt = contracting(), text_of(length=5)
    run = partial(continuations, model, prompt, exactly(model), tokens=9, decoding=GREEDY)
    new = tokens_of(list(run()))
    _, log_probs = at_once(model, torch.cat([prompt, new[:, :-1]], dim=1))
    assert torch.equal(new, log_probs[:, 4:].argmax(2))
    assert torch.equal(tokens_of(list(run())), new)


@pytest.mark.parametrize("memory", [0, 1, 4, 20])
def test_the_next_token_sees_what_is_said(memory: int) -> None:
    """States in memory speak of what was before them; here each speaks of its own word alone."""
    model, prompt = contracting(memory), text_of(rows=1, length=10)

    def own_word(x, z0: Tensor) -> Answer:
        return Answer(x.inputs[:, -z0.shape[1] :], 0)

    def next_one(text: Tensor) -> Tensor:
        reading = read(model, text[:, :-1], own_word, segment=3)
        (step,) = continuations(
            model, text[:, -1:], exactly(model), tokens=1, decoding=GREEDY, after=reading
        )
        return step.log_prob

    seen = []
    for place in range(10):
        other = prompt.clone()
        other[0, place] = (other[0, place] + 1) % WORDS
        seen.append(not torch.equal(next_one(other), next_one(prompt)))
    assert seen == [place >= unseen(model, 10) for place in range(10)]


def test_without_a_memory_each_token_is_alone() -> None:
    model, prompt = contracting(memory=0), text_of(length=6)
    (step,) = continuations(model, prompt, exactly(model), tokens=1, decoding=GREEDY)
    _, alone = at_once(model, prompt[:, -1:])
    close(step.log_prob, alone[:, 0].amax(1))


def test_a_prompt_in_two_parts_is_one_prompt() -> None:
    model, prompt, answer = contracting(), text_of(length=9), exactly(contracting())
    whole = list(continuations(model, prompt, answer, tokens=4, decoding=GREEDY))
    before = read(model, prompt[:, :5], answer)
    parts = list(
        continuations(model, prompt[:, 5:], answer, tokens=4, decoding=GREEDY, after=before)
    )
    assert torch.equal(tokens_of(parts), tokens_of(whole))
    close(log_probs_of(parts), log_probs_of(whole))


@each_start
def test_rows_are_independent(start: Start) -> None:
    model, prompt = contracting(), text_of(rows=4, length=7)

    def go_on(rows: Tensor) -> list[Step]:
        answer = exactly(model)
        return list(continuations(model, rows, answer, tokens=6, decoding=GREEDY, start=start))

    together = go_on(prompt)
    for index in range(4):
        alone = go_on(prompt[index : index + 1])
        assert torch.equal(tokens_of(alone)[0], tokens_of(together)[index])
        close(log_probs_of(alone)[0], log_probs_of(together)[index])


def test_draws_are_those_of_the_seed() -> None:
    model, prompt = contracting(), text_of()

    def text(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        steps = continuations(model, prompt, solved(model), tokens=12, generator=generator)
        return tokens_of(list(steps))

    assert torch.equal(text(0), text(0))
    assert not torch.equal(text(0), text(1))


def counted(module: nn.Module) -> list[int]:
    """A list that grows with every call of a module."""
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def paper(model: DEQTransformer, steps: int) -> tuple[Answerer, list[list[int]]]:
    student = ConsistencyDEQ.from_teacher(model).double().eval()
    return stepped(lambda x, z: refine(student, x, z, TIMES.times(steps))), [counted(student.cell)]


def untied(model: DEQTransformer, steps: int) -> tuple[Answerer, list[list[int]]]:
    student = UntiedDEQ.from_teacher(model, steps=2).double().eval()
    cells = [*student.learned.cells, student.cell]
    return (
        stepped(lambda x, z: refine(student, x, z, TIMES.times(steps))),
        [counted(cell) for cell in cells],
    )


def teacher(model: DEQTransformer, steps: int) -> tuple[Answerer, list[list[int]]]:
    return solved(model, tol=10.0**-steps), [counted(model.deq.cell)]


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("kind", [paper, untied, teacher])
@each_start
def test_evaluations_are_counted_as_they_are_made(
    kind: Callable[[DEQTransformer, int], tuple[Answerer, list[list[int]]]],
    steps: int,
    start: Start,
) -> None:
    model, prompt = contracting(), text_of(length=9)
    answer, calls = kind(model, steps)

    def spent() -> int:
        return sum(map(len, calls))

    reading = read(model, prompt[:, :-1], answer, segment=3)
    assert reading.evaluations == spent() > 0
    run = continuations(model, prompt[:, -1:], answer, tokens=5, start=start, after=reading)
    before = spent()
    for step in run:
        assert step.evaluations == spent() - before > 0
        before = spent()


def test_no_token_costs_anything_before_it_is_asked_for() -> None:
    model, prompt = contracting(), text_of(length=9)
    answer, (calls,) = teacher(model, 3)
    run = continuations(model, prompt, answer, tokens=5)
    after_prompt = len(calls)
    first = next(run)
    assert len(calls) - after_prompt == first.evaluations


def test_a_start_changes_the_cost_and_not_the_text() -> None:
    model, prompt = contracting(), torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2]])
    found = {}
    for name, start in STARTS.items():
        steps = list(
            continuations(model, prompt, exactly(model), tokens=8, decoding=GREEDY, start=start)
        )
        found[name] = steps
        assert torch.equal(tokens_of(steps), tokens_of(found["cold"]))
        close(log_probs_of(steps), log_probs_of(found["cold"]))
    costs = {name: sum(step.evaluations for step in steps) for name, steps in found.items()}
    assert costs["recurring"] < costs["cold"] != costs["previous"]


@pytest.mark.parametrize("memory", [0, 1, 5])
def test_starts_are_those_that_are_said(memory: int) -> None:
    model, text = contracting(memory), text_of(rows=6, length=4)
    reading = read(model, text, exactly(model), segment=2)
    token, z0 = text_of(rows=6, length=1, seed=5), torch.randn(6, 1, 8).double()
    assert cold(reading, token, z0) is z0
    seen = text[:, max(0, 4 - memory) :] if memory else text[:, :0]
    for row in range(6):
        words, states = seen[row].tolist(), reading.memory[row, memory - seen.shape[1] :]
        last = states[-1] if words else z0[row, 0]
        assert torch.equal(previous(reading, token, z0)[row, 0], last)
        places = [place for place, word in enumerate(words) if word == token[row, 0]]
        same = states[places[-1]] if places else z0[row, 0]
        assert torch.equal(recurring(reading, token, z0)[row, 0], same)


@each_start
def test_before_the_first_token_all_starts_are_cold(start: Start) -> None:
    model, z0 = contracting(), torch.randn(2, 1, 8).double()
    reading = Reading.start(model, 2)
    assert torch.equal(start(reading, torch.zeros(2, 1, dtype=torch.long), z0), z0)


def test_what_misses_its_tolerance_is_counted() -> None:
    model, prompt = contracting(), text_of(rows=3, length=9)
    answer = solved(model, tol=1e-12, max_steps=2)
    reading = read(model, prompt[:, :-1], answer, segment=4)
    assert (reading.evaluations, reading.missed) == (4, 6)
    steps = continuations(model, prompt[:, -1:], answer, tokens=2, after=reading)
    assert [(step.evaluations, step.missed) for step in steps] == [(2, 3)] * 2


def test_the_solvers_own_run_is_the_same_answer() -> None:
    """As a student that is its teacher's solver from the first step on."""
    model, prompt = contracting(), text_of()
    tail = AnchoredDEQ(ConsistencyDEQ.from_teacher(model), model, steps=0)
    answer = stepped(lambda x, z: refine(tail, x, z, TIMES.times(40)))
    found, exact = (
        list(continuations(model, prompt, each, tokens=5, decoding=GREEDY))
        for each in (answer, exactly(model))
    )
    assert torch.equal(tokens_of(found), tokens_of(exact))
    torch.testing.assert_close(log_probs_of(found), log_probs_of(exact), rtol=1e-6, atol=1e-6)


def test_nothing_is_trained_or_dropped() -> None:
    model = contracting(dropout=0.5, word_dropout=0.5, head_dropout=0.5).train()
    prompt = text_of()
    first, second = (
        list(continuations(model, prompt, exactly(model), tokens=3, decoding=GREEDY))
        for _ in range(2)
    )
    assert torch.equal(log_probs_of(first), log_probs_of(second))
    assert not log_probs_of(first).requires_grad


@pytest.mark.parametrize("place", ["state", "words"])
def test_what_is_not_finite_is_no_text(place: str) -> None:
    model = contracting()
    run = continuations(model, text_of(), solved(model), tokens=3)
    next(run)
    broken = model.deq.cell.injection.bias if place == "state" else model.vocabulary.biases[0]
    with torch.no_grad():
        broken.fill_(torch.nan)
    with pytest.raises(SolveError, match="finite"):
        next(run)


def test_tokens_may_be_32_bits_wide() -> None:
    model, prompt = contracting(), text_of()
    wide, narrow = (
        list(continuations(model, ids, exactly(model), tokens=3, decoding=GREEDY))
        for ids in (prompt, prompt.int())
    )
    assert torch.equal(tokens_of(wide), tokens_of(narrow))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"tokens": 0}, ValueError, "at least 1 token"),
        ({"prompt": torch.zeros(2, 0, dtype=torch.long)}, ValueError, "what ends a line"),
        ({"prompt": torch.zeros(3, dtype=torch.long)}, TypeError, "rows of ids"),
        ({"prompt": torch.zeros(2, 3)}, TypeError, "rows of ids, int32 or int64; got shape"),
        ({"prompt": torch.full((1, 2), WORDS)}, ValueError, "another vocabulary"),
        ({"prompt": torch.full((1, 2), -1)}, ValueError, "another vocabulary"),
        ({"segment": 0}, ValueError, "`segment` counts tokens"),
        ({"prompt": text_of(rows=2)}, ValueError, "2 rows after 3"),
    ],
)
def test_misuse_is_refused_at_once(
    changes: dict[str, object], error: type[Exception], said: str
) -> None:
    model = contracting()
    given = {"prompt": text_of(), "tokens": 3, "segment": 2, **changes}
    after = read(model, text_of(), solved(model)) if "rows after" in said else None
    with pytest.raises(error, match=said):
        continuations(model, answer=solved(model), after=after, **given)  # type: ignore[arg-type]
