"""The engine: the plain loop, bit by bit, whatever happens on the way."""

import csv
import math
import re
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric.loggers import csv_logs
from tensorboardX.proto.event_pb2 import Event
from training.toys import (
    CPU,
    OBJECTIVES,
    PLAN,
    Line,
    by_hand,
    images,
    line,
    run,
    same,
    short,
    stopped_at,
    taught,
)

from cdeq import Solution
from cdeq.errors import CDEQError, StoreError
from cdeq.training import checkpoint
from cdeq.training.engine import CHECKPOINT, fit, forget
from cdeq.training.plan import Hardware, Plan
from cdeq.training.stopping import Interrupted

each_objective = pytest.mark.parametrize("name", OBJECTIVES)


class Killed(BaseException):
    """As sudden as a signal that nobody can catch."""


def die() -> None:
    raise Killed


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


@pytest.fixture
def halfway(tmp_path: Path) -> Path:
    """The checkpoint after 4 of 9 updates."""
    with pytest.raises(Killed):
        run("line", tmp_path, objective=stopped_at(line(), 5, die))
    return tmp_path / CHECKPOINT


def refusal(folder: Path, **settings: str) -> str:
    with pytest.raises(StoreError) as caught:
        run("line", folder, **settings)
    return str(caught.value)


def test_a_checkpoint_of_other_settings_is_refused_and_kept(halfway: Path) -> None:
    before = halfway.read_bytes()
    text = refusal(halfway.parent, identity="b" * 64)
    assert "other settings (digest aaaaaaaaaaaa, now bbbbbbbbbbbb)" in text
    assert halfway.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused_and_kept(halfway: Path, share: float) -> None:
    content = halfway.read_bytes()
    cut = content[: int(share * len(content))]
    halfway.write_bytes(cut)
    assert re.fullmatch(r"\S+ is no readable checkpoint \(.+\); put .+\.", refusal(halfway.parent))
    assert halfway.read_bytes() == cut


@pytest.mark.parametrize("path", ["objective.linear.weight", "objective.average", "optimizer"])
@pytest.mark.parametrize("place", range(0, 12, 5))
def test_a_flipped_bit_is_never_trained_on(halfway: Path, path: str, place: int) -> None:
    parts = torch.load(halfway, weights_only=True)["parts"]
    part, _, name = path.partition(".")
    tensor = parts[part][name] if name else parts[part]["state"][0]["exp_avg_sq"]
    content = bytearray(halfway.read_bytes())
    start = content.find(tensor.numpy().tobytes())
    assert start > 0
    content[start + place] ^= 4
    halfway.write_bytes(content)
    assert "the checksum of its part" in refusal(halfway.parent)
    assert halfway.read_bytes() == bytes(content)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_another_file_is_refused_and_kept(halfway: Path, content: bytes) -> None:
    halfway.write_bytes(content)
    assert "is no readable checkpoint" in refusal(halfway.parent)
    assert halfway.read_bytes() == content


@pytest.mark.parametrize("content", [{}, [1, 2], {"identity": "a" * 64}])
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(halfway: Path, content: object) -> None:
    torch.save(content, halfway)
    assert "is no readable checkpoint (it holds something else)" in refusal(halfway.parent)


def test_the_checkpoint_of_another_network_is_refused(halfway: Path) -> None:
    before = halfway.read_bytes()
    with pytest.raises(StoreError, match="is no readable checkpoint"):
        run("teacher", halfway.parent)
    assert halfway.read_bytes() == before


def test_no_code_is_run_by_a_checkpoint(halfway: Path, tmp_path: Path) -> None:
    """A pickle may call anything; ours may hold tensors and plain values alone."""
    torch.save({"identity": Trap(tmp_path / "sprung"), "parts": {}, "progress": {}}, halfway)
    assert "is no readable checkpoint" in refusal(halfway.parent)
    assert not (tmp_path / "sprung").exists()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_full_disk_leaves_the_last_checkpoint(
    halfway: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = halfway.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", refuse)
        assert refusal(halfway.parent) == "no room"
    assert halfway.read_bytes() == before
    assert same(run("line", halfway.parent), by_hand("line")[0])


def refuse(path: Path, content: bytes) -> None:
    raise StoreError("no room")


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch) -> None:
    class Full(csv_logs.CSVLogger):
        def save(self) -> None:
            raise OSError(28, "No space left on device")

        def finalize(self, status: str) -> None:
            pass

    monkeypatch.setattr(csv_logs, "CSVLogger", Full)
    text = refusal(tmp_path)
    assert "could not write the logs" in text
    assert "(No space left on device); make room" in text


def test_a_loss_that_is_not_finite_ends_the_run(halfway: Path) -> None:
    before, broken = halfway.read_bytes(), line()
    stopped_at(broken, 2, lambda: broken.linear.weight.data.fill_(math.nan))
    with pytest.raises(CDEQError, match="the loss of update 7 is not a finite number"):
        run("line", halfway.parent, replace(PLAN, checkpoint_every=9), objective=broken)
    assert halfway.read_bytes() == before


# Validation


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
    solve = objective.model.deq.forward

    def spy(x: torch.Tensor, z0: torch.Tensor, **settings: int) -> Solution:
        solution = solve(x, z0, **settings)
        assert torch.is_autocast_enabled("cpu")
        seen.update((x.dtype, z0.dtype, solution.z.dtype, solution.errors.dtype))
        return solution

    objective.model.deq.forward = spy  # type: ignore[method-assign]
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
