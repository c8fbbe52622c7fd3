"""The cache beside the sources: right or not used."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cdeq.data.tensor_cache import cached


class Slow:
    """Reads numbers from a file and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.source, self.cache, self.times = folder / "source", folder / "cache", 0
        self.write("1 2 3")

    def write(self, text: str) -> None:
        self.source.write_text(text)

    def read(self) -> Mapping[str, Tensor]:
        self.times += 1
        numbers = torch.tensor([int(word) for word in self.source.read_text().split()])
        return {"numbers": numbers, "columns": torch.stack([numbers, numbers], 1).t()}

    def get(self, version: int = 1) -> list[int]:
        held = cached(self.cache, [self.source], self.read, version=version)
        assert torch.equal(held["columns"][1], held["numbers"])
        return held["numbers"].tolist()


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path)


def test_sources_that_stay_are_read_once(slow: Slow) -> None:
    assert [slow.get() for _ in range(3)] == [[1, 2, 3]] * 3
    assert slow.times == 1


def test_another_size_is_noticed(slow: Slow) -> None:
    slow.get()
    time = slow.source.stat().st_mtime_ns
    slow.write("1 2 3 4")
    os.utime(slow.source, ns=(time, time))
    assert [slow.get() for _ in range(2)] == [[1, 2, 3, 4]] * 2
    assert slow.times == 2


def test_another_time_is_noticed(slow: Slow) -> None:
    slow.get()
    time = slow.source.stat().st_mtime_ns
    slow.write("3 2 1")
    os.utime(slow.source, ns=(time, time + 1))
    assert [slow.get() for _ in range(2)] == [[3, 2, 1]] * 2
    assert slow.times == 2


def test_another_version_is_noticed(slow: Slow) -> None:
    assert [slow.get(version) for version in (1, 1, 2, 2)] == [[1, 2, 3]] * 4
    assert slow.times == 2


@pytest.mark.parametrize("kept", [0, 7, 60, -1])
def test_a_damaged_cache_is_replaced(slow: Slow, kept: int) -> None:
    slow.get()
    slow.cache.write_bytes(slow.cache.read_bytes()[:kept])
    assert [slow.get() for _ in range(2)] == [[1, 2, 3]] * 2
    assert slow.times == 2


def test_a_cache_that_cannot_be_written_is_done_without(slow: Slow) -> None:
    slow.cache.mkdir()
    assert [slow.get() for _ in range(2)] == [[1, 2, 3]] * 2
    assert slow.times == 2
    assert sorted(path.name for path in slow.cache.parent.iterdir()) == ["cache", "source"]
