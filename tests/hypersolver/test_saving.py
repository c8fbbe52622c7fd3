"""A learned solver in a folder, and what it refuses."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from consistency.toys import disturb, equal, run
from hypersolver.learners import (
    Guess,
    along,
    learned,
    memories,
)
from problems import Taught, vector_teacher
from torch import Tensor, nn

from cdeq.errors import StoreError
from cdeq.hypersolver.scope import PerPosition, Pooled, Scope
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.typing import Map


def flipped(x: Tensor) -> Map:
    """Everybody's neighbour is somebody else."""
    return lambda codes: codes.flip(0)


FORMS: dict[str, Callable[[], dict]] = {
    "plain": dict,
    "wide": lambda: {"width": 20, "window": 1},
    "per position": lambda: {"scope": PerPosition()},
    "guessing": lambda: {"initializer": Guess()},
    "smoothed": lambda: {
        "scope": PerPosition(),
        "neighbours": lambda x: lambda codes: codes.flip(0),
    },
}
READ_WITH = ("initializer", "neighbours")


@pytest.mark.parametrize("form", FORMS)
def test_what_was_learned_is_saved(form: str, device, tmp_path: Path) -> None:
    taught, settings = vector_teacher(torch.float64, device), FORMS[form]()
    student = HyperDEQ.from_teacher(taught, **settings)
    disturb(student)
    student.save_pretrained(tmp_path)
    torch.manual_seed(1)  # what is not saved must not depend on the moment of reading
    again = {name: part for name, part in FORMS[form]().items() if name in READ_WITH}
    read = HyperDEQ.from_pretrained(tmp_path, taught, **again)
    assert all(map(equal, run(read, taught, 6), run(student, taught, 6)))
    assert not read.training and read.window == student.window
    read.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_file_does_not_hold_the_teacher(device, tmp_path: Path) -> None:
    taught = vector_teacher(torch.float64, device)
    student = HyperDEQ.from_teacher(taught)
    student.save_pretrained(tmp_path)
    own = sum(p.numel() for p in student.parameters() if p.requires_grad)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert 8 * own < size < 8 * own + 2048  # names and shapes


def test_another_teacher_and_other_parts_are_refused(device, tmp_path: Path) -> None:
    taught = vector_teacher(torch.float64, device)
    read = partial(HyperDEQ.from_pretrained, teacher=taught)
    for form in ("plain", "guessing", "smoothed"):
        HyperDEQ.from_teacher(taught, **FORMS[form]()).save_pretrained(tmp_path / form)
    with pytest.raises(StoreError, match="built with an `initializer` is read with another such"):
        read(tmp_path / "guessing")
    with pytest.raises(StoreError, match=r"holds .* built with an `initializer`"):
        read(tmp_path / "plain", initializer=Guess())
    with pytest.raises(StoreError, match="settings and weights make no HyperDEQ"):
        read(tmp_path / "guessing", initializer=nn.Sequential(Guess(4)))
    with pytest.raises(StoreError, match="codes are smoothed: True; one that was built with"):
        read(tmp_path / "smoothed")
    taught.deq.cell.mix.weight.data[0, 0] += 1e-9
    with pytest.raises(StoreError, match="student of another teacher"):
        read(tmp_path / "plain")


class Single(Scope):
    """Somebody's own: one α for all samples together."""

    def gather(self, codes: Sequence[Tensor], *, batched: bool) -> Tensor:
        return Pooled().gather(codes, batched=False)

    def spread(self, weight: Tensor, part: Tensor, *, axis: int, batched: bool) -> Tensor:
        return weight


def test_a_scope_of_ones_own(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = learned(taught, scope=Single())
    for k, (_, memory) in enumerate(memories(student, taught, 4)):
        assert memory.mixing.alpha.shape == (1, k + 1)


def test_what_nobody_could_read_is_not_written(device, tmp_path: Path) -> None:
    student = HyperDEQ.from_teacher(vector_teacher(torch.float64, device), scope=Single())
    with pytest.raises(StoreError, match=r"`scope` is Pooled\(\) or PerPosition\(\)"):
        student.save_pretrained(tmp_path / "student")
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"window": -1}, "counts the earlier states m ≥ 0 that are kept; got -1"),
        ({"width": 12}, "a multiple of 5 from 10 up; got 12"),
        ({"neighbours": along}, r"scope PerPosition\(\); got Pooled\(\)"),
    ],
)
def test_impossible_settings_are_refused(settings, text: str, device) -> None:
    with pytest.raises(ValueError, match=text):
        HyperDEQ.from_teacher(vector_teacher(torch.float64, device), **settings)


def test_a_readout_that_says_nothing_is_refused(device, monkeypatch) -> None:
    monkeypatch.setattr(Taught, "readout", lambda taught: nn.Identity())
    with pytest.raises(TypeError, match="got Identity: build a Compression for the state"):
        HyperDEQ.from_teacher(vector_teacher(torch.float64, device))
