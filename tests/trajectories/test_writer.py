"""Writing: whole shards or none, resumable to the same bytes, nothing foreign overwritten."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from trajectories.toys import (
    DATA,
    MANIFEST,
    OTHERS,
    SAMPLES,
    SHARD,
    SHARD_ROWS,
    STEPS,
    contents,
    graph,
    manifest_of,
    online,
    single,
)

from cdeq.errors import StoreError
from cdeq.trajectories import TrajectorySource, TrajectoryStore, write_cache
from cdeq.typing import State

SHARDS = [f"shard-{rows[0]:09d}.safetensors" for rows in SHARD_ROWS]


class Recorder:
    """A source that notes what it is asked for, and stops before a given call."""

    def __init__(self, source: TrajectorySource, stop_at: int = 1000) -> None:
        self.source, self.stop_at, self.asked = source, stop_at, list[list[int]]()

    def __call__(self, indices: Tensor) -> tuple[State, ...]:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(indices.tolist())
        return self.source(indices)


def write(folder: Path, source: TrajectorySource | None = None, size: int = SHARD) -> None:
    write_cache(folder, MANIFEST, source or online(single()), shard_samples=size)


def test_the_source_is_asked_for_a_shard_at_a_time(tmp_path: Path) -> None:
    source, calls = Recorder(online(single())), []
    write_cache(
        tmp_path, MANIFEST, source, shard_samples=SHARD, progress=lambda *call: calls.append(call)
    )
    assert source.asked == list(SHARD_ROWS)
    assert calls == [(4, 10), (8, 10), (10, 10)]
    assert list(contents(tmp_path)) == ["manifest.json", *SHARDS]


@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_interrupted_writer_goes_on_to_the_same_bytes(
    cache: Path, tmp_path: Path, done: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "resumed", Recorder(online(single()), stop_at=done))
    assert list(contents(tmp_path / "resumed")) == ["manifest.json", *SHARDS[:done]]
    source, calls = Recorder(online(single())), []
    write_cache(
        tmp_path / "resumed",
        MANIFEST,
        source,
        shard_samples=SHARD,
        progress=lambda *call: calls.append(call),
    )
    assert source.asked == list(SHARD_ROWS[done:])
    assert calls == [(4, 10), (8, 10), (10, 10)]
    assert contents(tmp_path / "resumed") == contents(cache)


@pytest.mark.parametrize("number", range(3))
def test_a_removed_shard_is_written_again(cache: Path, number: int) -> None:
    before, source = contents(cache), Recorder(online(single()))
    (cache / SHARDS[number]).unlink()
    write(cache, source)
    assert source.asked == [SHARD_ROWS[number]]
    assert contents(cache) == before


def test_a_finished_cache_is_left_alone(cache: Path) -> None:
    before, source = [path.stat() for path in sorted(cache.iterdir())], Recorder(online(single()))
    write(cache, source)
    assert source.asked == []
    assert [path.stat().st_mtime_ns for path in sorted(cache.iterdir())] == [
        stat.st_mtime_ns for stat in before
    ]


KILLED = """
import os, sys, time, torch
from pathlib import Path
from trajectories.test_writer import SHARDS, write

torch.set_num_threads(1)
replace = os.replace
def wait_forever(source, target):
    if Path(target).name == SHARDS[1]:
        print("ready", flush=True)
        time.sleep(600)
    replace(source, target)
os.replace = wait_forever
write(Path(sys.argv[1]))
"""


def test_a_killed_writer_goes_on_to_the_same_bytes(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    paths = os.pathsep.join(filter(None, sys.path))
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert child.stdout is not None
    with child.stdout as lines:
        assert lines.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    leftover, *complete = contents(folder)
    assert leftover.startswith(f".{SHARDS[1]}.") and complete == ["manifest.json", SHARDS[0]]
    with pytest.raises(StoreError, match=r"lacks 4 to 9.*write_cache"):
        TrajectoryStore(folder)
    source = Recorder(online(single()))
    write(folder, source)
    assert source.asked == list(SHARD_ROWS[1:])
    assert contents(folder) == contents(cache)


@pytest.mark.parametrize("field", OTHERS)
def test_another_cache_is_not_written_into(cache: Path, field: str) -> None:
    before, source = contents(cache), Recorder(online(single()))
    with pytest.raises(StoreError, match=f"something else: {field}: expected .*, found .*folder"):
        write_cache(cache, OTHERS[field], source, shard_samples=SHARD)
    assert source.asked == [] and contents(cache) == before


@pytest.mark.parametrize("size", [1, 3, 5, 20])
def test_another_cut_is_refused(cache: Path, size: int) -> None:
    before = contents(cache)
    with pytest.raises(StoreError, match=f"cut otherwise.*`shard_samples`={min(size, SAMPLES)}"):
        write(cache, size=size)
    assert contents(cache) == before


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda _: b"", lambda data: data[9:]])
def test_a_damaged_shard_is_not_built_upon(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    (cache / SHARDS[1]).write_bytes(damage((cache / SHARDS[1]).read_bytes()))
    (cache / SHARDS[2]).unlink()
    before = contents(cache)
    with pytest.raises(StoreError, match=f"{SHARDS[1]}.*delete it"):
        write(cache)
    assert contents(cache) == before


def test_shards_without_a_manifest_must_be_of_this_cache(cache: Path) -> None:
    complete = contents(cache)
    (cache / "manifest.json").unlink()
    before = contents(cache)
    with pytest.raises(StoreError, match=r"manifest: expected .*, found"):
        write_cache(cache, OTHERS["teacher"], online(single()), shard_samples=SHARD)
    assert contents(cache) == before
    write(cache)
    assert contents(cache) == complete


class Space(NamedTuple):
    """What `shutil.disk_usage` gives."""

    total: int
    used: int
    free: int


def test_too_little_space_is_noticed_before_writing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, wanted = tmp_path / "full", contents(cache)
    numbers = SAMPLES * (STEPS + 1) * 3 * 4
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Space(10**9, 0, numbers))
        with pytest.raises(StoreError, match=r"need .* MB on the disk, and 0.0006 MB are free"):
            write(folder)
        assert list(contents(folder)) == ["manifest.json"]
    write(folder)
    assert contents(folder) == wanted


def test_a_cache_that_just_fits_is_written(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, wanted = tmp_path / "fits", contents(cache)
    size = sum(len(wanted[name]) for name in SHARDS)

    def usage(_: Path) -> Space:
        used = sum(path.stat().st_size for path in folder.glob("shard-*"))
        return Space(size, used, size - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    write(folder)
    assert contents(folder) == wanted


def test_a_disk_that_fills_up_leaves_whole_shards(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, wanted, left = tmp_path / "full", contents(cache), iter([True, True])

    def fsync(_: int) -> None:
        if not next(left, False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError, match=f"{SHARDS[1]}.*No space left.*make room"):
            write(folder)
    assert list(contents(folder)) == ["manifest.json", SHARDS[0]]
    write(folder)
    assert contents(folder) == wanted


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 8 KiB; no longer than that, for our own log may be such a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_half_a_file_is_taken_away(tmp_path: Path) -> None:
    wide = torch.zeros(SAMPLES, 5000)
    with pytest.raises(StoreError, match=f"{SHARDS[0]}.*File too large"), small_files():
        write(tmp_path, lambda rows: (wide[rows],) * (STEPS + 1))
    assert list(contents(tmp_path)) == ["manifest.json"]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="could not write"):
        write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (lambda rows: (DATA[rows],) * STEPS, "has 5 states, z_0 included; the source gave 4"),
        (lambda rows: (DATA,) * (STEPS + 1), "asked for 4 samples and gave 10"),
        (lambda rows: (*[DATA[rows]] * STEPS, DATA[rows][:, :2]), "one form"),
        (lambda rows: (*[DATA[rows]] * STEPS, DATA[rows].double()), "one form"),
        (lambda rows: (*[DATA[rows]] * STEPS, (DATA[rows],)), "one form"),
    ],
)
def test_a_source_that_gives_something_else_is_refused(
    tmp_path: Path, source: TrajectorySource, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        write(tmp_path, source)
    assert list(contents(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize(
    "change", [lambda z: z.double(), lambda z: z[:, :2], lambda z: (z,), lambda z: (z, z)]
)
def test_states_may_not_change_between_shards(
    tmp_path: Path, change: Callable[[Tensor], State]
) -> None:
    def source(rows: Tensor) -> tuple[State, ...]:
        z = DATA[rows]
        return (z if 0 in rows else change(z),) * (STEPS + 1)

    with pytest.raises(StoreError, match=r"changed its states: form: expected .*, found"):
        write(tmp_path, source)
    assert list(contents(tmp_path)) == ["manifest.json", SHARDS[0]]


def test_numbers_beyond_the_storage_dtype_are_refused(tmp_path: Path) -> None:
    manifest = manifest_of(single(), dtype="float16")
    with pytest.raises(StoreError, match=r"beyond 6\.55e\+04.*float16.*wider"):
        write_cache(
            tmp_path, manifest, lambda rows: (1e5 * DATA[rows],) * (STEPS + 1), shard_samples=SHARD
        )
    assert list(contents(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_a_shard_has_at_least_one_sample(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=r"`shard_samples`.*from 1 up; got"):
        write(tmp_path / "cache", size=size)
    assert not (tmp_path / "cache").exists()


def test_a_graph_is_one_sample(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are one sample; got a manifest with 10"):
        write_cache(tmp_path / "cache", MANIFEST, online(graph()), shard_samples=1, batched=False)
    assert not (tmp_path / "cache").exists()
