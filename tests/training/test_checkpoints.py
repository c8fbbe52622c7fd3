"""What a checkpoint survives, and what is refused in its place."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric.loggers import csv_logs
from training.toys import (
    OBJECTIVES,
    PLAN,
    Killed,
    by_hand,
    die,
    line,
    run,
    same,
    stopped_at,
)

from cdeq.errors import CDEQError, StoreError
from cdeq.training import checkpoint
from cdeq.training.engine import CHECKPOINT

each_objective = pytest.mark.parametrize("name", OBJECTIVES)


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
