"""What batches leave to the next: training by hand, resuming to the bit, looking unnoticed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.language.small import SPEC, WORDS
from torch import Tensor, nn
from training.toys import CPU, Killed, die, images, same, stopped_at, teacher

from cdeq.data.streams import Streams
from cdeq.evaluation.metrics import PERPLEXITY
from cdeq.evaluation.sweep import sweep
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.language.transformer_xl import TransformerXL, TransformerXLSpec
from cdeq.training.carry import Carry
from cdeq.training.engine import CHECKPOINT, Score, fit
from cdeq.training.objective import Objective
from cdeq.training.plan import Plan
from cdeq.training.supervised import StreamObjective
from cdeq.training.teacher import FewStepObjective, TeacherLoss, TeacherObjective

STREAMS, LENGTH, MEMORY = 3, 4, 6
PLAN = Plan(steps=9, batch_size=STREAMS, learning_rate=0.02, warmup=2, checkpoint_every=2)
LOSS = TeacherLoss(shortest=2, longest=5, jacobian_weight=0.3)


def text_of(size: int = 80) -> Streams:
    """Six segments a stream, so that training comes to its end and begins again."""
    tokens = torch.randint(WORDS, (size,), generator=torch.Generator().manual_seed(0))
    return Streams(tokens, streams=STREAMS, length=LENGTH, past=MEMORY, types=WORDS)


def language_model() -> DEQTransformer:
    torch.manual_seed(1)
    rates = {"dropout": 0.1, "word_dropout": 0.1, "head_dropout": 0.1}
    return DEQTransformer(replace(SPEC, memory=MEMORY, max_steps=5, adjoint_steps=4, **rates))


def network() -> TransformerXL:
    torch.manual_seed(1)
    small = {"features": 8, "layers": 2, "heads": 2, "inner": 6, "dropout": 0.1}
    return TransformerXL(TransformerXLSpec(vocabulary=WORDS, memory=MEMORY, **small))


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "teacher": lambda: TeacherObjective(language_model(), LOSS),
    "few-step": lambda: FewStepObjective(language_model(), steps=2),
    "explicit": lambda: StreamObjective(network()),
}
each_objective = pytest.mark.parametrize("name", OBJECTIVES)


def run(
    name: str,
    folder: Path,
    plan: Plan = PLAN,
    objective: Objective | None = None,
    score: Score | None = None,
) -> Objective:
    trained = OBJECTIVES[name]() if objective is None else objective
    data = text_of()
    fit(
        trained, data, plan, folder,
        seed=3, identity="a" * 64, label="", hardware=CPU, score=score,
    )  # fmt: skip
    return trained


def judged(
    model: nn.Module, name: str, batch: tuple, generator: torch.Generator
) -> tuple[Mapping[str, Tensor], Tensor]:
    """The loss of a batch that was told everything, and what it leaves."""
    if name == "teacher":
        return LOSS(model, batch, generator)
    if name == "explicit":
        losses, memory = model.judged(batch)
        return {"loss": losses.mean()}, memory
    x = model.encode(batch)
    f = model.bind(x)
    z = f(f(model.initial(x)))
    return {"loss": model.loss(model.decode(z, x), batch).mean()}, model.remember(z, x)


def by_hand(name: str, *, told: bool = True) -> tuple[nn.Module, list[Tensor]]:
    """The same training as plain PyTorch, and the memories after each update."""
    model, text, memory, memories = OBJECTIVES[name]().model, text_of(), None, []
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=PLAN.weight_decay)
    for step in range(PLAN.steps):
        optimizer.param_groups[0]["lr"] = PLAN.rate(step)
        seed = (3 * 1_000_003 + step) * 1_009
        torch.manual_seed(seed)
        rows = step % text.segments * STREAMS + torch.arange(STREAMS)
        batch = model.train().recall(text.take(rows), memory if told else None)
        terms, memory = judged(model, name, batch, torch.Generator().manual_seed(seed))
        memories.append(memory)
        optimizer.zero_grad()
        terms["loss"].backward()
        if PLAN.clip:
            nn.utils.clip_grad_norm_(model.parameters(), PLAN.clip)
        optimizer.step()
    return model, memories


# Training


@each_objective
def test_every_batch_is_told_what_the_one_before_left(name: str, tmp_path: Path) -> None:
    trained = run(name, tmp_path)
    model, memories = by_hand(name)
    assert text_of().segments < PLAN.steps
    assert same(trained.model, model)
    assert torch.equal(trained.carry.memory, memories[-1])
    assert not same(model, by_hand(name, told=False)[0])


@each_objective
@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_killed_run_continues_to_the_same_bits(name: str, step: int, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(name, tmp_path, objective=stopped_at(OBJECTIVES[name](), step, die))
    resumed = run(name, tmp_path)
    model, memories = by_hand(name)
    assert same(resumed.model, model)
    assert torch.equal(resumed.carry.memory, memories[-1])


@each_objective
def test_a_checkpoint_holds_the_memory_without_what_it_came_from(
    name: str, tmp_path: Path
) -> None:
    run(name, tmp_path)
    held = torch.load(tmp_path / CHECKPOINT, weights_only=True)["parts"]["objective"]
    memory = held["carry._extra_state"]
    assert torch.equal(memory, by_hand(name)[1][-1])
    assert memory.untyped_storage().nbytes() == memory.numel() * memory.itemsize
    assert not memory.requires_grad


def looking(objective: Objective, values: list[float], seen: list[dict]) -> Score:
    """A sweep over a text of its own, with memories of its own; the values are made up."""
    data = text_of(50)

    def score() -> float:
        before = objective.carry.memory.clone()
        if isinstance(objective.model, DEQTransformer):
            sweep(objective.model, {}, data, PERPLEXITY, (1,), reference_steps=3)
        assert torch.equal(objective.carry.memory, before)
        seen.append({key: value.clone() for key, value in objective.state_dict().items()})
        return values[len(seen) - 1]

    return score


def watched(name: str, folder: Path, values: list[float], kill: int = 0) -> tuple:
    plan, seen = replace(PLAN, validate_every=2), list[dict]()
    objective = OBJECTIVES[name]()
    score = looking(objective, values, seen)
    if kill:
        with pytest.raises(Killed):
            run(name, folder, plan, stopped_at(objective, kill, die), score)
        return objective, seen
    return run(name, folder, plan, objective, score), seen


@each_objective
def test_looking_changes_nothing_and_the_best_survives_a_kill(name: str, tmp_path: Path) -> None:
    rising, _ = watched(name, tmp_path / "last", [1.0, 2.0, 3.0, 4.0, 5.0])
    assert same(rising.model, by_hand(name)[0])
    best, seen = watched(name, tmp_path / "best", [0.1, 0.9, 0.3, 0.4, 0.5])
    assert all(torch.equal(value, seen[1][key]) for key, value in best.state_dict().items())
    watched(name, tmp_path / "killed", [0.1, 0.9, 0.3], kill=7)
    resumed, _ = watched(name, tmp_path / "killed", [0.4, 0.5])
    assert same(resumed, best)


def test_a_batch_is_a_segment_of_every_stream(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the batch size is the number of streams, 3; got 2"):
        run("teacher", tmp_path, replace(PLAN, batch_size=2))


# The carry itself


def some_memories() -> Iterator[Tensor]:
    yield torch.rand(2, 3, 4)
    yield torch.rand(1, 1, 1, dtype=torch.float64)


def test_a_memory_goes_through_a_state() -> None:
    for memory in some_memories():
        carry, other = Carry(), Carry()
        carry.leave(memory)
        other.load_state_dict(carry.state_dict())
        assert torch.equal(other.memory, memory)
        other.load_state_dict(Carry().state_dict())
        assert other.memory is None


def test_a_memory_is_put_where_the_module_is() -> None:
    """A checkpoint is read on the CPU, wherever the training goes on."""
    carry, away = Carry(), Carry().to("meta")
    carry.leave(torch.rand(2, 3, 4))
    away.load_state_dict(carry.state_dict())
    assert away.memory.device.type == "meta"
    assert [*away.state_dict()] == ["_extra_state"]
    assert [*away.parameters()] == []


def test_samples_that_stand_alone_leave_nothing() -> None:
    model, carry = teacher(), Carry()
    batch = images().take(torch.arange(4))
    carry.leave(model.remember(model.initial(model.encode(batch)), model.encode(batch)))
    assert carry.memory is None
    assert carry.recall(model, batch) is batch
    carry.leave(torch.rand(4, 1))
    with pytest.raises(TypeError, match="samples of a ContractionDEQ stand alone"):
        carry.recall(model, batch)
