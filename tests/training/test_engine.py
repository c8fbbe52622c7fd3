"""The engine: the plain loop, bit by bit, whatever happens on the way."""

import csv
import math
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from training.toys import (
    CPU,
    OBJECTIVES,
    PLAN,
    Killed,
    Line,
    by_hand,
    die,
    images,
    line,
    run,
    same,
    short,
    stopped_at,
    taught,
)

from cdeq import Solution
from cdeq.models.base import Batch
from cdeq.training.engine import CHECKPOINT, fit, forget
from cdeq.training.plan import Hardware, Plan
from cdeq.training.stopping import Interrupted
from cdeq.typing import Map

each_objective = pytest.mark.parametrize("name", OBJECTIVES)


@each_objective
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_the_engine_is_the_plain_loop(name: str, clip: float, tmp_path: Path) -> None:
    plan = replace(PLAN, clip=clip)
    expected, _ = by_hand(name, plan)
    assert same(run(name, tmp_path, plan), expected)
    assert not same(expected, OBJECTIVES[name][0]())


@each_objective
def test_clipping_makes_a_difference(name: str) -> None:
    tight, loose = (by_hand(name, replace(PLAN, clip=clip))[0] for clip in (1e-9, 0.0))
    assert not same(tight, loose)


@each_objective
@pytest.mark.parametrize("step", [1, 4, 5, 9])
def test_a_killed_run_continues_to_the_same_bits(name: str, step: int, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(name, tmp_path, objective=stopped_at(OBJECTIVES[name][0](), step, die))
    resumed = run(name, tmp_path)
    assert same(resumed, by_hand(name)[0])


@pytest.mark.parametrize("step", [1, 4, 5, 8, 9])
def test_ctrl_c_stops_after_the_update_and_the_run_continues(step: int, tmp_path: Path) -> None:
    pressed = stopped_at(line(), step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match=f"stopped after {step} of 9 updates"):
        run("line", tmp_path, objective=pressed)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    held = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert held["progress"]["step"] == step
    assert same(run("line", tmp_path), by_hand("line")[0])


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def press_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run("line", tmp_path, objective=stopped_at(line(), 5, press_twice))
    held = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert held["progress"]["step"] == 4
    assert same(run("line", tmp_path), by_hand("line")[0])


@each_objective
def test_a_finished_run_that_was_not_saved_is_not_repeated(name: str, tmp_path: Path) -> None:
    first = run(name, tmp_path)
    again = run(name, tmp_path, objective=stopped_at(OBJECTIVES[name][0](), 1, die))
    assert same(again, first)
    forget(tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()
    with pytest.raises(Killed):
        run(name, tmp_path, objective=stopped_at(OBJECTIVES[name][0](), 1, die))


# Python 3.12 warns of threads (the progress bar's) at every fork, which is how loaders start.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_data_may_be_loaded_by_other_processes(tmp_path: Path) -> None:
    assert same(run("line", tmp_path, hardware=replace(CPU, workers=1)), by_hand("line")[0])


class Scripted:
    """A validation score by the look, and the weights it saw."""

    def __init__(self, objective: Line, values: list[float]) -> None:
        self.objective, self.values, self.seen = objective, values, list[torch.Tensor]()

    def __call__(self) -> float:
        assert not self.objective.training
        self.seen.append(self.objective.linear.weight.detach().clone())
        return self.values[len(self.seen) - 1]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.1, 0.5, 0.3], 1),
        ([0.9, 0.5, 0.3], 0),
        ([0.1, 0.2, 0.3], 2),
        ([0.5, 0.5, 0.3], 1),
        ([math.nan, 0.5, math.nan], 1),
        ([math.nan, math.nan, math.nan], 2),
    ],
)
def test_the_best_weights_are_kept(values: list[float], best: int, tmp_path: Path) -> None:
    objective = line()
    score = Scripted(objective, values)
    run("line", tmp_path, replace(PLAN, validate_every=4), objective=objective, score=score)
    assert len(score.seen) == 3, "after 4, 8 and, being the last, 9 updates"
    assert torch.equal(objective.linear.weight, score.seen[best])


def test_looking_changes_nothing_and_the_best_survives_a_kill(tmp_path: Path) -> None:
    plan = replace(PLAN, validate_every=2)
    whole, killed, resumed = line(), line(), line()
    values = [0.1, 0.9, 0.3, 0.4, 0.5]
    run("line", tmp_path / "whole", plan, objective=whole, score=Scripted(whole, values))
    with pytest.raises(Killed):
        score = Scripted(killed, values)
        run("line", tmp_path / "b", plan, objective=stopped_at(killed, 7, die), score=score)
    score = Scripted(resumed, values[3:])
    run("line", tmp_path / "b", plan, objective=resumed, score=score)
    assert same(resumed, whole)
    assert same(whole, by_hand("line", plan)[0]) is False
    last = line()
    run("line", tmp_path / "last", plan, objective=last, score=Scripted(last, [1, 2, 3, 4, 5]))
    assert same(last, by_hand("line", plan)[0])


def test_nobody_looks_without_an_interval(tmp_path: Path) -> None:
    objective = line()
    run("line", tmp_path, objective=objective, score=Scripted(objective, []))
    assert same(objective, by_hand("line")[0])


# Logs


def logged(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def events(path: Path) -> Iterator[tuple[int, str, float]]:
    """The scalars of a TensorBoard file: length, checksum, message, checksum, over and over."""
    content = path.read_bytes()
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + size])
        yield from ((event.step, value.tag, value.simple_value) for value in event.summary.value)
        content = content[16 + size :]


def test_logs_hold_the_losses(tmp_path: Path) -> None:
    plan = short(23)
    _, history = by_hand("line", plan)
    run("line", tmp_path, plan)
    folder = tmp_path / "logs" / "from-0"
    rows = logged(folder / "metrics.csv")
    steps = [10, 20, 23]
    assert [int(row["step"]) for row in rows] == steps
    expected = [{key: float(v) for key, v in history[step - 1].items()} for step in steps]
    assert [{key: float(row[key]) for key in expected[0]} for row in rows] == expected
    (board,) = folder.glob("events.out.tfevents.*")
    drawn = {(step, tag): value for step, tag, value in events(board)}
    assert drawn == {
        (step, key): value
        for step, row in zip(steps, expected, strict=True)
        for key, value in row.items()
    }


def test_a_resumed_run_logs_on(tmp_path: Path) -> None:
    plan = replace(short(23), checkpoint_every=5)
    with pytest.raises(Killed):
        run("line", tmp_path, plan, objective=stopped_at(line(), 18, die))
    run("line", tmp_path, plan)
    logs = {
        path.parent.name: [int(row["step"]) for row in logged(path)]
        for path in tmp_path.glob("logs/*/metrics.csv")
    }
    assert logs == {"from-0": [10], "from-15": [20, 23]}


# Hardware


@each_objective
def test_mixed_precision_trains(name: str, tmp_path: Path) -> None:
    plan = replace(PLAN, steps=25, learning_rate=0.02, weight_decay=0.0, batch_size=12)
    mixed = run(name, tmp_path / "mixed", plan, hardware=replace(CPU, precision="bf16-mixed"))
    full, history = by_hand(name, plan)
    rows = logged(tmp_path / "mixed/logs/from-0/metrics.csv")
    first, last = float(history[0]["loss"]), float(history[-1]["loss"])
    assert last < first
    assert abs(float(rows[-1]["loss"]) - last) < 0.35 * (first - last)
    assert not same(mixed, full)
    kinds = {t.dtype for t in mixed.state_dict().values() if t.is_floating_point()}
    assert kinds == {torch.float32}


def test_mixed_precision_narrows_neither_inputs_nor_states(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()
    objective = taught()
    solve, encode = objective.model.deq.solve, objective.model.encode

    def spy(f: Map, z0: torch.Tensor, **settings: int) -> Solution:
        solution = solve(f, z0, **settings)
        assert torch.is_autocast_enabled("cpu")
        seen.update((z0.dtype, solution.z.dtype, solution.errors.dtype))
        return solution

    def seeing(batch: Batch) -> torch.Tensor:
        seen.add((x := encode(batch)).dtype)
        return x

    objective.model.deq.solve = spy  # type: ignore[method-assign]
    objective.model.encode = seeing  # type: ignore[method-assign]
    hardware = replace(CPU, precision="bf16-mixed")
    run("teacher", tmp_path, short(2), objective=objective, hardware=hardware)
    assert seen == {torch.float32}


@pytest.mark.parametrize(
    ("hardware", "text"),
    [
        (Hardware(accelerator="abacus"), "training needs hardware that is there; .*abacus"),
        (replace(CPU, precision="16-mixed"), "a CPU computes no 16-mixed; ask for bf16-mixed"),
    ],
)
@pytest.mark.filterwarnings("ignore:You passed:UserWarning")
def test_hardware_that_is_not_there_is_refused(hardware, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        run("line", tmp_path, hardware=hardware)
    assert not list(tmp_path.iterdir())


# Learning


@pytest.mark.parametrize(
    ("name", "term"), [("teacher", "task"), ("few-step", "loss"), ("distillation", "anchor")]
)
def test_the_loss_falls(name: str, term: str, tmp_path: Path) -> None:
    plan = Plan(steps=40, batch_size=12, learning_rate=0.02, warmup=5)
    run(name, tmp_path, plan)
    _, (first, *_) = by_hand(name, plan)
    last = logged(tmp_path / "logs/from-0/metrics.csv")[-1]
    assert float(last[term]) < 0.5 * float(first[term])


def test_the_report_counts(tmp_path: Path) -> None:
    objective = taught()
    report = fit(
        objective,
        images(),
        replace(PLAN, validate_every=4),
        tmp_path,
        seed=0,
        identity="c",
        label="",
        hardware=CPU,
        score=lambda: 0.25,
    )
    assert (report.steps, report.best) == (9, 0.25)
    assert report.seconds > 0


def test_the_time_before_a_kill_is_counted(tmp_path: Path) -> None:
    plan = replace(short(9), checkpoint_every=3)
    with pytest.raises(Killed):
        run("line", tmp_path, plan, objective=stopped_at(line(), 5, die))
    held = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert held["progress"]["seconds"] > 0
    held["progress"]["seconds"] = 1000.0
    torch.save(held, tmp_path / CHECKPOINT)
    _, data = OBJECTIVES["line"]
    settings = {"seed": 3, "identity": "a" * 64, "label": "", "hardware": CPU}
    report = fit(line(), data(), plan, tmp_path, **settings)  # type: ignore[arg-type]
    assert 1000 < report.seconds < 1100
