"""Sweeps over a text: every method reads it in order, with memories of its own, and by hand."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
import torch
from models.language.small import WORDS, disturbed, model_of
from torch import Tensor

from cdeq import Anderson, ConsistencyDEQ, ExponentialSchedule, Picard, UntiedDEQ, refine, solve
from cdeq.data.indexed import FirstSamples, IndexedData
from cdeq.data.remembered import remembered
from cdeq.data.streams import Streams
from cdeq.evaluation.metrics import PERPLEXITY
from cdeq.evaluation.sweep import (
    Measurement,
    Method,
    distilled,
    score_few_step,
    sweep,
    truncated,
)
from cdeq.models.language.cell import LanguageContext
from cdeq.models.language.deq_transformer import DEQTransformer

STREAMS, MEMORY, BUDGETS = 3, 5, (1, 2, 4)
SCHEDULE = ExponentialSchedule(rate=0.4)
CUTS = {"shorter": 3, "longer": 7}
each_cut = pytest.mark.parametrize("length", CUTS.values(), ids=list(CUTS))


def text_of(length: int = 3, size: int = 50) -> Streams:
    tokens = torch.randint(WORDS, (size,), generator=torch.Generator().manual_seed(0))
    return Streams(tokens, streams=STREAMS, length=length, past=MEMORY, types=WORDS)


def teacher_of(memory: int = MEMORY) -> DEQTransformer:
    return model_of(memory=memory)


Run = Callable[[LanguageContext, int], Tensor]
"""The state after so many evaluations."""


def methods_of(model: DEQTransformer) -> dict[str, tuple[Method, Run]]:
    """As a sweep knows them, and by another route."""
    untied = disturbed(UntiedDEQ.from_teacher(model, steps=2), 0.02).eval()
    paper = disturbed(ConsistencyDEQ.from_teacher(model), 0.02).eval()

    def solver(method: Anderson | Picard) -> tuple[Method, Run]:
        def run(x: LanguageContext, nfe: int) -> Tensor:
            return solve(model.bind(x), model.initial(x), method, max_steps=nfe).z

        return truncated(method), run

    def student(one: UntiedDEQ | ConsistencyDEQ) -> tuple[Method, Run]:
        def run(x: LanguageContext, nfe: int) -> Tensor:
            *_, z = refine(one, x, model.initial(x), SCHEDULE.times(nfe))
            return z

        return distilled(one, SCHEDULE), run

    return {
        "picard": solver(Picard()),
        "anderson": solver(Anderson()),
        "untied": student(untied),
        "paper": student(paper),
    }


def exactly(model: DEQTransformer) -> Run:
    def run(x: LanguageContext, nfe: int) -> Tensor:
        return solve(model.bind(x), model.initial(x), Picard(), max_steps=100).z

    return run


@torch.no_grad()
def in_order(
    model: DEQTransformer, text: Streams, run: Run, nfe: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The states, losses and residuals of one segment after the other, as a reader has them."""
    memory = None
    for rows in torch.arange(len(text)).split(STREAMS):
        batch = text.take(rows)
        x = model.encode(batch if memory is None else batch._replace(memory=memory))
        z = run(x, nfe)
        states = torch.cat([torch.zeros(STREAMS, MEMORY, 8), x.memory, z], dim=1)
        memory = states[:, states.shape[1] - MEMORY :]
        value = model.bind(x)(z)
        residual = (value - z).flatten(1).norm(dim=1) / value.flatten(1).norm(dim=1)
        yield z, model.loss(model.decode(z, x), batch), residual


def equilibria(model: DEQTransformer, text: Streams) -> Tensor:
    return torch.cat([z for z, _, _ in in_order(model, text, exactly(model), 0)]).flatten(1)


def numbers(
    model: DEQTransformer, text: Streams, run: Run, nfe: int, goal: Tensor
) -> dict[str, float]:
    states, losses, residuals = zip(*in_order(model, text, run, nfe), strict=True)
    error = (torch.cat(states).flatten(1) - goal).norm(dim=1) / goal.norm(dim=1)
    return {
        "perplexity": math.exp(float(torch.cat(losses).mean())),
        "relative_error": median(error.tolist()),
        "relative_residual": median(torch.cat(residuals).tolist()),
    }


def rows(found: list[Measurement], model: str, nfe: int | None) -> dict[str, float]:
    return {row.metric: row.value for row in found if (row.model, row.nfe) == (model, nfe)}


def swept(
    model: DEQTransformer,
    data: IndexedData,
    names: tuple[str, ...] = ("picard", "anderson", "untied", "paper"),
    budgets: tuple[int, ...] = BUDGETS,
    batch_size: int = 512,
) -> list[Measurement]:
    methods = {name: method for name, (method, _) in methods_of(model).items() if name in names}
    return sweep(
        model, methods, data, PERPLEXITY, budgets,
        reference_steps=99, reference_tol=1e-12, batch_size=batch_size,
    )  # fmt: skip


@each_cut
def test_every_method_at_every_budget_reads_the_text_in_order(length: int) -> None:
    model, text = teacher_of(), text_of(length)
    found, goal = swept(model, text), equilibria(model, text)
    for name, (_, run) in methods_of(model).items():
        for nfe in BUDGETS:
            expected = numbers(model, text, run, nfe, goal)
            assert rows(found, name, nfe) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    expected = numbers(model, text, exactly(model), 0, goal)
    teacher = rows(found, "teacher", None)
    assert teacher["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-9)
    assert teacher["relative_residual"] < 1e-11


def test_budgets_and_methods_do_not_hear_of_each_other() -> None:
    model, text = teacher_of(), text_of()
    together = swept(model, text)
    for name in ("anderson", "untied"):
        for nfe in BUDGETS:
            alone = swept(model, text, names=(name,), budgets=(nfe,))
            assert rows(alone, name, nfe) == rows(together, name, nfe)


def test_few_answers_have_few_in_memory() -> None:
    """Not the teacher's: whoever answers with one evaluation remembers answers of one."""
    model, text = teacher_of(), text_of()
    own = numbers(model, text, methods_of(model)["picard"][1], 1, equilibria(model, text))
    memory, losses = None, []
    for index in range(text.segments):
        batch = text.take(torch.arange(STREAMS) + index * STREAMS)
        with torch.no_grad():
            x = model.encode(model.recall(batch, memory))
            losses.append(model.loss(model.decode(model.bind(x)(model.initial(x)), x), batch))
            memory = model.remember(exactly(model)(x, 0), x)
    borrowed = math.exp(float(torch.cat(losses).mean()))
    found = rows(swept(model, text, names=("picard",)), "picard", 1)["perplexity"]
    assert found == pytest.approx(own["perplexity"], rel=1e-9)
    assert abs(found - borrowed) > 1e-4 * found


@pytest.mark.parametrize("size", [1, 4, 999])
def test_batches_are_the_segments_whatever_size_is_asked_for(size: int) -> None:
    model, text = teacher_of(), text_of()
    assert swept(model, text, batch_size=size) == swept(model, text)
    few = [score_few_step(model, 2, text, PERPLEXITY, batch_size=n) for n in (size, 512)]
    assert few[0] == few[1]


@each_cut
@pytest.mark.parametrize("steps", [1, 3])
def test_networks_of_few_steps_read_the_text_in_order(length: int, steps: int) -> None:
    model, text = teacher_of(), text_of(length)
    found = score_few_step(model, steps, text, PERPLEXITY)
    run, goal = methods_of(model)["picard"][1], equilibria(model, text)
    expected = numbers(model, text, run, steps, goal)["perplexity"]
    assert found[:3] == ("few-step", steps, "perplexity")
    assert found.value == pytest.approx(expected, rel=1e-9)


def test_evaluations_are_those_of_the_budgets() -> None:
    """Each budget has a run of its own, since it has memories of its own."""
    model, text, taken = teacher_of(), text_of(), list[int]()

    def counting(model: DEQTransformer, x: LanguageContext, z0: Tensor) -> Iterator[Tensor]:
        taken.append(0)
        for z in truncated(Picard())(model, x, z0):
            taken[-1] += 1
            yield z

    sweep(model, {"counting": counting}, text, PERPLEXITY, BUDGETS, reference_steps=3)
    assert taken == [*BUDGETS] * text.segments


# Where nothing is left to the next


class Forgetful(DEQTransformer):
    """A model without a memory."""

    def remember(self, z: Tensor, x: LanguageContext) -> None:
        return None


@torch.no_grad()
def alone(model: DEQTransformer, data: IndexedData, run: Run, nfe: int) -> float:
    """The perplexity when every sample is answered for itself."""
    losses = []
    for row in range(len(data)):
        batch = data.take(torch.tensor([row]))
        x = model.encode(batch)
        losses.append(model.loss(model.decode(run(x, nfe), x), batch))
    return math.exp(float(torch.cat(losses).mean()))


def test_who_remembers_nothing_answers_each_sample_alone() -> None:
    """With a text as with any other data, and one run for all budgets."""
    text, taken = text_of(), list[int]()
    model = Forgetful(teacher_of().spec).double()
    model.load_state_dict(teacher_of().state_dict())

    def counting(model: DEQTransformer, x: LanguageContext, z0: Tensor) -> Iterator[Tensor]:
        taken.append(0)
        for z in truncated(Anderson())(model, x, z0):
            taken[-1] += 1
            yield z

    found = sweep(model, {"anderson": counting}, text, PERPLEXITY, BUDGETS)
    assert taken == [max(BUDGETS)] * text.segments
    for nfe in BUDGETS:
        expected = alone(model, text, methods_of(model)["anderson"][1], nfe)
        assert rows(found, "anderson", nfe)["perplexity"] == pytest.approx(expected, rel=1e-9)
    few = score_few_step(model, 2, text, PERPLEXITY).value
    assert few == pytest.approx(alone(model, text, methods_of(model)["picard"][1], 2), rel=1e-9)


@pytest.mark.parametrize("size", [1, 4, 512])
def test_samples_that_are_told_their_memory_go_on_from_nobody(size: int, tmp_path: Path) -> None:
    """They come in batches of any size, and what one leaves is no other's."""
    model = teacher_of().float()
    told = remembered(model, text_of(), tmp_path / "memory", identity="a", samples=7)
    single = {"picard": truncated(Picard())}
    found = sweep(model, single, told, PERPLEXITY, BUDGETS, batch_size=size)
    run = methods_of(model)["picard"][1]
    for nfe in BUDGETS:
        expected = alone(model, told, run, nfe)
        assert rows(found, "picard", nfe)["perplexity"] == pytest.approx(expected, rel=1e-5)
    few = score_few_step(model, 2, told, PERPLEXITY, batch_size=size).value
    assert few == pytest.approx(alone(model, told, run, 2), rel=1e-5)


@pytest.mark.parametrize("size", [2, 4, 512])
def test_a_part_of_a_text_is_samples_without_a_memory(size: int) -> None:
    model = teacher_of()
    part = FirstSamples(text_of(), 7)
    found = swept(model, part, names=("picard",), batch_size=size)
    run = methods_of(model)["picard"][1]
    for nfe in BUDGETS:
        expected = alone(model, part, run, nfe)
        assert rows(found, "picard", nfe)["perplexity"] == pytest.approx(expected, rel=1e-9)


def test_a_memory_of_no_tokens_is_none() -> None:
    model = teacher_of(memory=0)
    tokens = text_of().tokens
    text = Streams(tokens, streams=STREAMS, length=3, past=0, types=WORDS)
    found, run = swept(model, text), methods_of(model)["untied"][1]
    for nfe in BUDGETS:
        expected = alone(model, text, run, nfe)
        assert rows(found, "untied", nfe)["perplexity"] == pytest.approx(expected, rel=1e-6)
