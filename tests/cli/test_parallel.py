"""Two processes share the work of one run, and one of them writes and speaks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli.run import KEYS, SOURCE, Ended, contents, tiny
from safetensors.torch import load_file

from cdeq.report import Results

PAIR = [
    "--hardware.devices", "2", "--hardware.strategy", "ddp", "--hardware.accelerator", "cpu",
    "--distil", "student-paper", "--few-step.steps", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A demo by two processes."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    words = ["demo", "digits_tiny", "--folder", str(folder), *KEYS, *PAIR]
    done = subprocess.run(
        [sys.executable, "-m", "cdeq.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
    )
    return folder, Ended(done.returncode, done.stdout, done.stderr)


def test_two_processes_do_what_one_does(pair: tuple[Path, Ended]) -> None:
    folder, said = pair
    assert (said.code, said.err) == (0, "")
    results = Results.load(folder / "results.json")
    assert {row.model for row in results.rows} == {
        "teacher", "picard", "anderson", "broyden", "few-step", "student-paper",
        "student-paper-then-solver", "student-random",
    }  # fmt: skip


def test_one_of_them_speaks(pair: tuple[Path, Ended]) -> None:
    lines = pair[1].out.splitlines()
    for text in (
        "training the teacher", "The teacher converges.", "caching trajectories",
        "distilling student-paper", "training few-step 1", "training few-step 3",
        "evaluating  ", "test accuracy", "Everything is in",
    ):  # fmt: skip
        assert len([line for line in lines if line.startswith(text)]) == 1, text


def test_one_of_them_writes(pair: tuple[Path, Ended], finished: Path) -> None:
    ours = {name for name in contents(pair[0]) if "tfevents" not in name}
    others = ("student-paper-no-aa", "student-best")
    alone = {name for name in contents(finished) if "tfevents" not in name}
    assert ours == {name for name in alone if not name.startswith(others)}
    logs = [name for name in contents(pair[0]) if "tfevents" in name]
    assert len(logs) == len({Path(name).parent for name in logs}) == 4


def test_what_they_trained_is_finite_and_new(pair: tuple[Path, Ended], finished: Path) -> None:
    ours, alone = (
        load_file(folder / "teacher/model.safetensors") for folder in (pair[0], finished)
    )
    assert ours.keys() == alone.keys()
    assert all(bool(value.isfinite().all()) for value in ours.values())
    assert not all(torch.equal(ours[name], alone[name]) for name in ours)


def test_one_process_goes_on_with_it(pair: tuple[Path, Ended]) -> None:
    before = contents(pair[0])
    said = tiny("evaluate", pair[0], *PAIR)
    assert "already done" in said.out
    assert contents(pair[0]) == before
    single = tiny("train", pair[0])
    assert single.code == 1
    assert "hardware.devices was 2, now 1" in single.err
