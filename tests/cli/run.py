"""The command line in this process and in others, on a recipe that takes a second."""

import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import torch

from cdeq.cli.main import main
from cdeq.report import Results

KEYS = [
    "--limit", "40",
    "--network.channels", "4",
    "--teacher.plan.steps", "12",
    "--teacher.plan.checkpoint-every", "5",
    "--teacher.plan.validate-every", "6",
    "--trajectories.max-steps", "8",
    "--trajectories.shard-samples", "16",
    "--student.plan.steps", "9",
    "--student.plan.checkpoint-every", "4",
    "--student.plan.validate-every", "3",
    "--best.plan.steps", "9",
    "--best.plan.checkpoint-every", "4",
    "--few-step.steps", "6",
    "--few-step.validate-every", "3",
    "--evaluation.budgets", "1", "3",
]  # fmt: skip
"""`digits_tiny`, smaller still."""

SOURCE = Path(__file__).parents[2] / "src"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class _Exit(AbstractContextManager["_Exit"]):
    """The code that a block exits with."""

    code = 0

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if isinstance(error, SystemExit):
            self.code = int(error.code or 0)
        return isinstance(error, SystemExit)


def cdeq(*words: object) -> Ended:
    """Run a command here."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), _Exit() as end:
        main([str(word) for word in words])
    return Ended(end.code, out.getvalue(), err.getvalue())


def tiny(command: str, folder: Path, *more: object) -> Ended:
    """Run a command on the small recipe here."""
    return cdeq(command, "digits_tiny", "--folder", folder, *KEYS, *more)


def elsewhere(
    folder: Path, *words: object, before: str = "", after: tuple[object, ...] = ()
) -> subprocess.Popen[str]:
    """Start a command in another process, as exact as this one.

    Arguments:
        folder: The run folder.
        words: The command and its recipe.
        before: Python that is run first.
        after: More keys.
    """
    code = "\n".join(
        [
            "import signal, torch",
            "signal.signal(signal.SIGINT, signal.default_int_handler)",
            f"torch.set_num_threads({torch.get_num_threads()})",
            before,
            "from cdeq.cli.main import main",
            "main()",
        ]
    )
    keys = [str(word) for word in (*words, "--folder", folder, *KEYS, *after)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *keys],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "COLUMNS": "200"},
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for a process."""
    out, err = process.communicate(timeout=600)  # many at once, on a busy machine
    return Ended(process.returncode, out, err)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def weights(folder: Path) -> bytes:
    """What a model learned."""
    return (folder / "model.safetensors").read_bytes()


SIGKILL = -signal.SIGKILL


def refused(folder: Path, *words: object) -> str:
    before = contents(folder)
    said = cdeq(*words)
    assert said.code == 1
    assert contents(folder) == before
    assert said.err.count("\n") == 1, "one sentence"
    return said.err


def rows_of(folder: Path) -> list:
    return list(Results.load(folder / "results.json").rows)


def key(row: object) -> tuple:
    return row.model, row.nfe, row.metric, row.split  # type: ignore[attr-defined]
