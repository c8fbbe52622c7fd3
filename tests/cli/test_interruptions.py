"""Real processes that are killed, interrupted or find the disk full, and what comes of them."""

import re
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from cli.run import SIGKILL, Ended, contents, elsewhere, ended, tiny, weights

KILL = """
import os
from cdeq.training.{module} import {kind}
after, done = {kind}.after_step, [0]
def after_step(self):
    done[0] += 1
    if done[0] == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    after(self)
{kind}.after_step = after_step
"""
"""Dies in the middle of an update: weights are new, the running average and the count are not."""

KILL_WRITING = """
import os
from cdeq import atomic
write, done = atomic._write_through, [0]
def write_half(path, content):
    if path.name.startswith(".checkpoint"):
        done[0] += 1
        if done[0] == 2:
            write(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
atomic._write_through = write_half
"""

SLOW = """
import time
from cdeq.training.teacher import TeacherObjective
TeacherObjective.after_step = lambda self: time.sleep(0.15)
"""

NO_ROOM = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (46_000, resource.RLIM_INFINITY))
"""
"""The first checkpoint fits; the second, which holds the best weights as well, does not."""


class Broken(NamedTuple):
    """A run that ended early."""

    folder: Path
    said: Ended


@pytest.fixture(scope="module")
def broken(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Broken]:
    """Five runs that end early, side by side."""
    root = tmp_path_factory.mktemp("broken")
    for name in ("teacher", "cache"):
        shutil.copytree(finished / name, root / "distillation" / name)
    student = ("--distil", "student-paper")
    processes = {
        "teacher": elsewhere(
            root / "teacher", "train", "digits_tiny",
            before=KILL.format(module="teacher", kind="TeacherObjective", step=8),
        ),
        "distillation": elsewhere(
            root / "distillation", "distill", "digits_tiny", after=student,
            before=KILL.format(module="distill", kind="DistillationObjective", step=7),
        ),
        "writing": elsewhere(root / "writing", "train", "digits_tiny", before=KILL_WRITING),
        "full": elsewhere(root / "full", "train", "digits_tiny", before=NO_ROOM),
        "interrupted": elsewhere(root / "interrupted", "train", "digits_tiny", before=SLOW),
    }  # fmt: skip
    deadline = time.monotonic() + 60
    while not (root / "interrupted/teacher/checkpoint.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    processes["interrupted"].send_signal(signal.SIGINT)
    return {name: Broken(root / name, ended(process)) for name, process in processes.items()}


def test_the_processes_ended_as_meant(broken: dict[str, Broken]) -> None:
    codes = {name: run.said.code for name, run in broken.items()}
    assert codes == {
        "teacher": SIGKILL, "distillation": SIGKILL, "writing": SIGKILL,
        "full": 1, "interrupted": 130,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["teacher", "writing", "full", "interrupted"])
def test_a_teacher_goes_on_to_the_same_bits(
    name: str, broken: dict[str, Broken], finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(broken[name].folder, tmp_path / "run"))
    assert (folder / "teacher/checkpoint.pt").exists()
    said = tiny("train", folder)
    assert said.code == 0
    assert weights(folder / "teacher") == weights(finished / "teacher")
    assert re.fullmatch(r"from-(5|6|7|8|9|10|11)", newest(folder / "teacher"))
    assert not [path for path in contents(folder) if path.endswith((".partial", ".pt"))]


def newest(stage: Path) -> str:
    """The log of the last start."""
    return max((path.name for path in (stage / "logs").iterdir()), key=lambda n: int(n[5:]))


def test_a_student_and_its_average_go_on_to_the_same_bits(
    broken: dict[str, Broken], finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(broken["distillation"].folder, tmp_path / "run"))
    assert tiny("distill", folder, "--distil", "student-paper").code == 0
    assert weights(folder / "student-paper") == weights(finished / "student-paper")
    assert newest(folder / "student-paper") == "from-4"


def test_a_half_written_checkpoint_hides_nothing(broken: dict[str, Broken]) -> None:
    """It stays beside the whole one, and goes when the stage is finished (see above)."""
    files = [path.name for path in (broken["writing"].folder / "teacher").iterdir()]
    assert len([name for name in files if re.fullmatch(r"\.checkpoint\.pt\..*\.partial", name)])


def test_ctrl_c_says_what_to_do(broken: dict[str, Broken]) -> None:
    said = broken["interrupted"].said
    (line,) = [line for line in said.out.splitlines() if line.startswith("stopped")]
    assert re.fullmatch(
        r"stopped after \d+ of 12 updates; the same command, without `--fresh`, continues there\.",
        line,
    )
    assert said.err == ""


def test_a_full_disk_is_one_sentence(broken: dict[str, Broken]) -> None:
    said = broken["full"].said
    assert re.fullmatch(
        r"cdeq: could not write `\S+checkpoint\.pt` \(File too large\); what was there before is "
        r"unchanged, so make room or choose another place and run again\.\n",
        said.err,
    )
    names = {path for path in contents(broken["full"].folder) if "logs" not in path}
    assert names == {"teacher/checkpoint.pt", "teacher/recipe.json"}


@pytest.mark.parametrize("name", ["teacher", "interrupted"])
def test_an_unfinished_teacher_is_no_teacher(name: str, broken: dict[str, Broken]) -> None:
    before = contents(broken[name].folder)
    said = tiny("cache", broken[name].folder)
    assert said.code == 1
    assert "holds no trained teacher yet" in said.err
    assert contents(broken[name].folder) == before


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_one_sentence(
    share: float, broken: dict[str, Broken], finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(broken["teacher"].folder, tmp_path / "run"))
    path = folder / "teacher/checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    before = contents(folder)
    said = tiny("train", folder)
    assert said.code == 1
    assert "is no readable checkpoint" in said.err and said.err.count("\n") == 1
    assert contents(folder) == before
    path.unlink()
    assert tiny("train", folder).code == 0
    assert weights(folder / "teacher") == weights(finished / "teacher")


def test_a_stop_between_training_and_records_repeats_no_training(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the audit: the checkpoint is still there, at the last update."""

    class Killed(BaseException):
        pass

    def die(*words: object, **settings: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("cdeq.cli.stages.audit", die)
        with pytest.raises(Killed):
            tiny("train", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("cdeq.training.teacher.TeacherObjective.forward", die)
        assert tiny("train", tmp_path).code == 0
    assert weights(tmp_path / "teacher") == weights(finished / "teacher")
    assert not (tmp_path / "teacher/checkpoint.pt").exists()


def test_ctrl_c_outside_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*words: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cdeq.cli.stages.audit", interrupt)
    said = tiny("train", tmp_path)
    assert said.code == 130
    assert said.out.endswith("\nstopped; the same command, without `--fresh`, continues there.\n")
