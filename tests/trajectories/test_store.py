"""Reading: a cache is its source, and anything that is not that cache is refused."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from trajectories.toys import (
    DATA,
    MANIFEST,
    OTHERS,
    SAMPLES,
    SHARD,
    SHARD_ROWS,
    STEPS,
    Toy,
    graph,
    manifest_of,
    online,
    pair,
    same,
    single,
)

from cdeq import Anderson, Picard
from cdeq.core.state import like, tensors
from cdeq.errors import StoreError
from cdeq.trajectories import TrajectoryStore, write_cache
from cdeq.trajectories.source import ends
from cdeq.typing import State

SHARDS = [f"shard-{rows[0]:09d}.safetensors" for rows in SHARD_ROWS]
SOLVERS = pytest.mark.parametrize("solver", [Picard(), Anderson(window=2)])
ORDERS = ([9, 0, 5, 4, 3, 3], [7], [2, 8])


def cast(z: State, *dtypes: torch.dtype) -> State:
    parts = tensors(z)
    for dtype in dtypes:
        parts = tuple(part.to(dtype) for part in parts)
    return like(z, parts)


def rows_of(trajectory: tuple[State, ...], rows: list[int]) -> tuple[State, ...]:
    return tuple(like(z, tuple(part[rows] for part in tensors(z))) for z in trajectory)


@SOLVERS
@pytest.mark.parametrize("make", [single, pair])
def test_cached_is_online(tmp_path: Path, make: Callable[[], Toy], solver: Anderson) -> None:
    source = online(make(), solver)
    write_cache(tmp_path, manifest_of(make()), source, shard_samples=SHARD)
    store = TrajectoryStore(tmp_path, manifest_of(make()))
    assert len(store) == SAMPLES
    for rows in SHARD_ROWS:
        assert same(store(rows), source(rows))
    for rows in ORDERS:
        for cached, recomputed in zip(store(rows), source(rows), strict=True):
            torch.testing.assert_close(cached, recomputed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [single, pair])
def test_an_end_is_the_last_state_of_the_trajectory(
    tmp_path: Path, make: Callable[[], Toy], dtype: str
) -> None:
    """Whichever way it is asked for, whether or not the source can read it alone."""
    source, manifest = online(make()), manifest_of(make(), dtype=dtype)
    write_cache(tmp_path, manifest, source, shard_samples=SHARD)
    store = TrajectoryStore(tmp_path)
    for rows in (*ORDERS, [6, 6], list(range(SAMPLES)), torch.tensor([5, 0])):
        *_, last = store(rows)
        for end in (store.ends(rows), ends(store, rows), ends(lambda r: store(r), rows)):
            assert same([end], [last])
        assert all(part.is_contiguous() for part in tensors(store.ends(rows)))
    rows = SHARD_ROWS[1]
    assert same([ends(source, rows)], [source(rows)[-1]])


def test_the_end_of_a_graph_is_its_last_state(tmp_path: Path) -> None:
    source, manifest = online(graph()), manifest_of(graph())
    write_cache(tmp_path, manifest, source, shard_samples=1, batched=False)
    store = TrajectoryStore(tmp_path)
    assert same([store.ends([0])], [source([0])[-1]])
    assert same([store.ends([0])], store([0])[-1:])


@pytest.mark.parametrize("rows", [[], [0.5], [[1]], [-1], [SAMPLES], [0, 99]])
def test_ends_of_what_is_no_list_of_its_samples_are_refused(cache: Path, rows: list[int]) -> None:
    with pytest.raises(ValueError, match="samples are"):
        TrajectoryStore(cache).ends(rows)


@SOLVERS
def test_a_cached_graph_is_the_online_one(tmp_path: Path, solver: Anderson) -> None:
    source, manifest = online(graph(), solver), manifest_of(graph())
    write_cache(tmp_path, manifest, source, shard_samples=1, batched=False)
    assert same(TrajectoryStore(tmp_path, manifest)([0]), source([0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [single, pair, graph])
def test_states_are_rounded_to_the_storage_and_come_back_in_their_own_dtype(
    tmp_path: Path, make: Callable[[], Toy], dtype: torch.dtype
) -> None:
    source, manifest = online(make()), manifest_of(make(), dtype=str(dtype)[6:])
    write_cache(tmp_path, manifest, source, shard_samples=SAMPLES, batched=make().deq.batched)
    rows = list(range(manifest.samples))
    rounded = tuple(cast(z, dtype, torch.float32) for z in source(rows))
    store = TrajectoryStore(tmp_path, manifest)
    assert same(store(rows), rounded)
    assert same(rounded, source(rows)) is (dtype in (torch.float64, torch.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_half_precision_states_are_kept_exactly(tmp_path: Path, dtype: str) -> None:
    states = tuple(DATA.bfloat16() * k for k in range(STEPS + 1))
    manifest = manifest_of(single(), dtype=dtype)
    write_cache(
        tmp_path, manifest, lambda rows: rows_of(states, rows.tolist()), shard_samples=SHARD
    )
    assert same(TrajectoryStore(tmp_path)(range(SAMPLES)), states)


def test_not_a_number_comes_back_as_it_was(tmp_path: Path) -> None:
    states = DATA.clone()
    states[1, 1], states[2, 2] = torch.nan, -torch.inf
    manifest = manifest_of(single(), dtype="float16")
    write_cache(
        tmp_path, manifest, lambda rows: (states[rows],) * (STEPS + 1), shard_samples=SHARD
    )
    for z in TrajectoryStore(tmp_path)(range(SAMPLES)):
        torch.testing.assert_close(z, states.half().float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rows", [*ORDERS, [6, 6], list(range(SAMPLES))])
def test_any_sample_can_be_read_alone(cache: Path, rows: list[int]) -> None:
    store = TrajectoryStore(cache)
    alone = [store([row]) for row in rows]
    joined = tuple(torch.cat(parts) for parts in zip(*alone, strict=True))
    assert same(store(rows), joined)
    assert same(store(torch.tensor(rows)), joined)
    assert all(z.is_contiguous() for z in store(rows))


def byte_of(path: Path, shard_row: int) -> int:
    """Where the numbers of one sample of a shard begin in its file."""
    header = int.from_bytes(path.read_bytes()[:8], "little")
    return 8 + header + shard_row * (STEPS + 1) * 3 * 4


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (old,) = file.read(1)
        file.seek(position)
        file.write(bytes([old ^ 1]))


def test_files_are_mapped_and_not_copied(cache: Path) -> None:
    store, before = TrajectoryStore(cache), TrajectoryStore(cache)(range(SAMPLES))
    flip(cache / SHARDS[1], byte_of(cache / SHARDS[1], 2))
    changed = [not torch.equal(store([row])[0], before[0][[row]]) for row in range(SAMPLES)]
    assert changed == [row == 6 for row in range(SAMPLES)]


def test_what_was_read_is_the_readers_own(cache: Path) -> None:
    store = TrajectoryStore(cache)
    before, own = store([4]), store([4])
    for z in own:
        tensors(z)[0].fill_(7.0)
    assert same(store([4]), before)
    store.verify()


def test_another_process_can_be_given_the_store(cache: Path) -> None:
    store = TrajectoryStore(cache, MANIFEST)
    sent = pickle.dumps(store)
    assert len(sent) < 2000
    assert same(pickle.loads(sent)([3, 8]), store([3, 8]))


@pytest.mark.parametrize("rows", [[], [0.5], [[1]], [-1], [SAMPLES], [0, 99]])
def test_what_is_no_list_of_its_samples_is_refused(cache: Path, rows: list[int]) -> None:
    with pytest.raises(ValueError, match="samples are"):
        TrajectoryStore(cache)(rows)


@pytest.mark.parametrize("field", OTHERS)
def test_a_cache_of_something_else_is_refused(cache: Path, field: str) -> None:
    with pytest.raises(StoreError, match=f"something else: {field}: expected .*, found .*"):
        TrajectoryStore(cache, OTHERS[field])


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_a_cache_is_refused(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "absent"
    with pytest.raises(StoreError, match=r"has no `manifest\.json`; call `write_cache`"):
        TrajectoryStore(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "\x00"])
def test_an_unreadable_manifest_is_refused(cache: Path, text: str) -> None:
    (cache / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json` should say .* cannot be read"):
        TrajectoryStore(cache)


def test_another_version_of_the_format_is_refused(cache: Path) -> None:
    content = json.loads((cache / "manifest.json").read_text())
    (cache / "manifest.json").write_text(json.dumps({**content, "version": 2}))
    with pytest.raises(StoreError, match=r'version 1 of the format.*"version": 2'):
        TrajectoryStore(cache)


def test_a_manifest_edited_by_hand_does_not_fit_its_shards(cache: Path) -> None:
    (cache / "manifest.json").write_text(OTHERS["teacher"].to_json())
    with pytest.raises(StoreError, match=r"not part of the cache.*manifest: expected .*, found"):
        TrajectoryStore(cache, OTHERS["teacher"])


@pytest.mark.parametrize(
    ("gone", "first", "last"), [((0,), 0, 3), ((1,), 4, 7), ((2,), 8, 9), ((0, 1, 2), 0, 9)]
)
def test_a_missing_shard_is_refused(
    cache: Path, gone: tuple[int, ...], first: int, last: int
) -> None:
    for number in gone:
        (cache / SHARDS[number]).unlink()
    with pytest.raises(StoreError, match=f"of 10 samples and lacks {first} to {last}, .*again"):
        TrajectoryStore(cache)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 0.5, 0.9, -4, -1])
def test_a_shard_cut_short_is_refused(cache: Path, kept: float) -> None:
    whole = (cache / SHARDS[1]).read_bytes()
    (cache / SHARDS[1]).write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(StoreError, match=f"{SHARDS[1]}.* cannot be read as a whole one.*delete"):
        TrajectoryStore(cache)


def test_a_shard_with_something_behind_it_is_refused(cache: Path) -> None:
    (cache / SHARDS[2]).write_bytes((cache / SHARDS[2]).read_bytes() + b"\0")
    with pytest.raises(StoreError, match=SHARDS[2]):
        TrajectoryStore(cache)


@pytest.mark.parametrize("label", [None, {}, {"trajectories": "{}"}, {"trajectories": "[1"}])
def test_a_file_that_is_no_shard_is_refused(cache: Path, label: dict[str, str] | None) -> None:
    save_file({"0": torch.zeros(4, 5, 3)}, cache / SHARDS[1], metadata=label)
    with pytest.raises(StoreError, match=f"{SHARDS[1]}` should be a shard"):
        TrajectoryStore(cache)


def test_a_shard_of_another_teacher_is_refused(cache: Path, tmp_path: Path) -> None:
    other = OTHERS["teacher"]
    write_cache(tmp_path / "other", other, online(single()), shard_samples=SHARD)
    shutil.copy(tmp_path / "other" / SHARDS[1], cache / SHARDS[1])
    expected, found = MANIFEST.digest()[:12], other.digest()[:12]
    with pytest.raises(StoreError, match=f"{SHARDS[1]}.*expected {expected}, found {found}"):
        TrajectoryStore(cache)


@pytest.mark.parametrize(("source", "target"), [(0, 1), (2, 1), (1, 0)])
def test_a_shard_in_anothers_place_is_refused(cache: Path, source: int, target: int) -> None:
    shutil.copy(cache / SHARDS[source], cache / SHARDS[target])
    with pytest.raises(
        StoreError, match=f"file name: expected {SHARDS[source]}, found {SHARDS[target]}"
    ):
        TrajectoryStore(cache)


def test_a_shard_of_the_same_cache_cut_otherwise_is_refused(cache: Path, tmp_path: Path) -> None:
    write_cache(tmp_path / "fives", MANIFEST, online(single()), shard_samples=5)
    shutil.copy(tmp_path / "fives" / SHARDS[0], cache / SHARDS[0])
    with pytest.raises(StoreError, match=r"overlap: .* sample 4, the next should begin at 5 and"):
        TrajectoryStore(cache)


def test_shards_whose_states_differ_are_refused(cache: Path, tmp_path: Path) -> None:
    write_cache(
        tmp_path / "wide",
        MANIFEST,
        lambda rows: (torch.zeros(len(rows), 7),) * (STEPS + 1),
        shard_samples=SHARD,
    )
    shutil.copy(tmp_path / "wide" / SHARDS[1], cache / SHARDS[1])
    with pytest.raises(StoreError, match=r"form of the states: expected .*, found"):
        TrajectoryStore(cache)


def test_a_good_cache_is_verified(cache: Path) -> None:
    TrajectoryStore(cache).verify()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("sample", [0, 1])
def test_a_flipped_bit_is_found(cache: Path, number: int, sample: int) -> None:
    flip(cache / SHARDS[number], byte_of(cache / SHARDS[number], sample))
    first = SHARD_ROWS[number][0]
    with pytest.raises(StoreError, match=rf"start at the samples \[{first}\].*SHA-256; delete"):
        TrajectoryStore(cache).verify()


@pytest.mark.parametrize("text", ['\\"single\\": true', '"dtype":"F32"', '\\"sha256\\": \\"'])
def test_a_changed_label_is_found(cache: Path, text: str) -> None:
    replacement = {
        '\\"single\\": true': '\\"single\\": null',
        '"dtype":"F32"': '"dtype":"I32"',
        '\\"sha256\\": \\"': '\\"sha256\\":\\"f',
    }[text]
    for name in SHARDS:
        data = (cache / name).read_bytes()
        assert data.count(text.encode()) == 1
        (cache / name).write_bytes(data.replace(text.encode(), replacement.encode()))
    with pytest.raises(StoreError, match=r"start at the samples \[0, 4, 8\]"):
        TrajectoryStore(cache).verify()
