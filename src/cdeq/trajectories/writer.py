"""Writing a cache: shard by shard, each whole or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch

from cdeq.atomic import write_atomic
from cdeq.errors import StoreError
from cdeq.trajectories.manifest import FILE, Manifest
from cdeq.trajectories.shard import Shard, open_shards, require_equal, shard_path
from cdeq.trajectories.source import TrajectorySource

_ONE_FORM = "all states of a cache have the same dtype, structure and shapes"

Progress: TypeAlias = Callable[[int, int], object]
"""Told how many samples are stored by now, and how many there are in all."""


def write_cache(
    root: str | os.PathLike[str],
    manifest: Manifest,
    source: TrajectorySource,
    *,
    shard_samples: int,
    batched: bool = True,
    progress: Progress | None = None,
) -> None:
    """Write the trajectories of all samples, or what is still missing of them.

    The source is asked for one shard at a time, so a writer that was stopped, even by `kill -9`,
    goes on at the first missing shard when called again, and leaves the bytes that one without
    interruption would have left. One writer a folder at a time.

    Arguments:
        root: The folder; made when missing.
        manifest: What the trajectories are made from.
        source: Where they come from.
        shard_samples: How many samples are solved together and stored in one file.
        batched: Whether states have a sample dimension; without it there is one sample (a graph).
        progress: Called after each shard, those found there included.

    Raises:
        ValueError: When `shard_samples` < 1, several samples are to be stored unbatched, or the
            source does not give K + 1 states of the samples it was asked for.
        StoreError: When the folder holds another cache or a damaged shard (nothing is touched), or
            the disk is full (complete shards stay).

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> manifest = Manifest(teacher="a1", data="d1", solver="Picard()", initial="zero",
        ...                     max_steps=2, samples=5, dtype="float32")
        >>> with TemporaryDirectory() as root:
        ...     write_cache(root, manifest, lambda rows: (rows.float(),) * 3, shard_samples=2,
        ...                 progress=lambda done, total: print(f"{done} of {total}"))
        2 of 5
        4 of 5
        5 of 5
    """
    folder, plan = Path(root), _plan(manifest.samples, shard_samples, batched=batched)
    present = _require_ours(folder, manifest, plan)
    for leftover in [*folder.glob(".shard-*.partial"), *folder.glob(f".{FILE}.*.partial")]:
        leftover.unlink(missing_ok=True)
    if not (folder / FILE).exists():
        write_atomic(folder / FILE, manifest.to_json().encode())

    def solved(samples: range) -> Shard:
        trajectory = source(torch.arange(samples.start, samples.stop))
        return Shard.pack(trajectory, manifest, samples, batched=batched)

    _write_missing(folder, plan, present, solved, progress)


def _plan(samples: int, size: int, *, batched: bool) -> list[range]:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(
            "`shard_samples` is how many samples share a file, a whole number from 1 up; got "
            f"{size!r}."
        )
    if not batched and samples != 1:
        raise ValueError(
            f"states without a sample dimension are one sample; got a manifest with {samples}."
        )
    return [range(start, min(start + size, samples)) for start in range(0, samples, size)]


def _require_ours(folder: Path, manifest: Manifest, plan: list[range]) -> dict[range, Shard]:
    found = Manifest.read(folder)
    differences = [] if found is None else manifest.differences(found)
    if differences:
        raise StoreError(
            f"`{folder}` already holds a cache of something else: {'; '.join(differences)}; "
            "choose another folder, or delete that one."
        )
    present = {shard.samples: shard for shard in open_shards(folder, manifest)}
    odd = sorted(present.keys() - set(plan), key=lambda samples: samples.start)
    if odd:
        raise StoreError(
            f"`{folder}` already holds this cache, cut otherwise: one shard has the {len(odd[0])} "
            f"samples from {odd[0].start}, which `shard_samples`={len(plan[0])} does not give; go "
            "on with the `shard_samples` it was begun with, or choose another folder."
        )
    return present


def _write_missing(
    folder: Path,
    plan: list[range],
    present: dict[range, Shard],
    solved: Callable[[range], Shard],
    progress: Progress | None,
) -> None:
    total = plan[-1].stop
    missing = total - sum(map(len, present))
    form = next((shard.form for shard in present.values()), None)
    for samples in plan:
        if samples not in present:
            shard = solved(samples)
            form = form or shard.form
            require_equal({"form": (form, shard.form)}, "the source changed its states", _ONE_FORM)
            _write_shard(folder, shard, missing)
            missing -= len(samples)
        if progress is not None:
            progress(samples.stop, total)


def _write_shard(folder: Path, shard: Shard, missing: int) -> None:
    content = shard.content()
    needed, free = len(content) * missing // len(shard.samples), shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"the samples still missing in `{folder}` need {needed / 1e6:.3g} MB on the disk, and "
            f"{free / 1e6:.3g} MB are free; make room and call again: complete shards are kept."
        )
    write_atomic(shard_path(folder, shard.label.first), content)
