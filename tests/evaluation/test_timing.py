"""Timing: what is compared, how often, and what is written; the numbers are the machine's."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from problems import Counted

from cdeq.errors import StoreError
from cdeq.evaluation import timing
from cdeq.evaluation.timing import Ratio, bench, side_by_side
from cdeq.models.vision import contraction


@pytest.mark.parametrize("rounds", [1, 4])
def test_both_sides_are_timed_in_turn_after_one_warm_up(rounds: int) -> None:
    calls: list[str] = []
    side_by_side((lambda: calls.append("a"), lambda: calls.append("b")), rounds)
    assert "".join(calls) == "ab" * (rounds + 1)


def test_a_ratio_is_first_over_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that the tasks move themselves, one hiccup in five rounds does not count."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    slow = Counted(lambda: None)

    def first() -> None:
        slow()
        clock[0] += 1000.0 if slow.calls == 3 else 3.0

    def second() -> None:
        clock[0] += 2.0

    assert side_by_side((first, second), 5) == 1.5


def test_no_rounds_are_refused() -> None:
    with pytest.raises(
        ValueError, match="`rounds` counts the timed repetitions, at least 1; got 0"
    ):
        side_by_side((lambda: None, lambda: None), 0)


def test_no_side_of_the_untied_ratio_makes_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an inference server does once, at its start, is on neither side."""
    made = Counted(contraction.conv_norm_bound)

    def run(tasks: tuple[Callable[[], object], Callable[[], object]], rounds: int) -> float:
        before = made.calls
        for task in tasks:
            task()
        return float(made.calls - before)

    monkeypatch.setattr(contraction, "conv_norm_bound", made)
    monkeypatch.setattr(timing, "side_by_side", run)
    assert [ratio.value for ratio in timing.untied_ratios(1)] == [0.0, 0.0]
    assert made.calls > 0


def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(*names: str) -> Callable[[int], list[Ratio]]:
        return lambda rounds: [Ratio(name, rounds / 3, f"about {name}") for name in names]

    monkeypatch.setattr(timing, "solver_ratios", some("a", "b"))
    monkeypatch.setattr(timing, "student_ratios", some("c"))
    monkeypatch.setattr(timing, "untied_ratios", some("d"))


def test_the_file_holds_every_ratio_and_how_it_came_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch)
    said: list[str] = []
    bench(tmp_path / "deep" / "bench.json", rounds=2, say=said.append)
    held = json.loads((tmp_path / "deep" / "bench.json").read_text())
    assert held["ratios"] == {"a": 0.6667, "b": 0.6667, "c": 0.6667, "d": 0.6667}
    assert held["meaning"] == {name: f"about {name}" for name in "abcd"}
    assert held["rounds"] == 2
    assert held["command"].endswith("bench.json --rounds 2")
    assert all(any(line.startswith(name) for line in said) for name in "abc")


def test_a_bench_that_cannot_be_kept_says_so(tmp_path: Path, monkeypatch) -> None:
    stub(monkeypatch)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="could not write"):
        bench(tmp_path / "file" / "bench.json", rounds=1, say=lambda text: None)
