"""Reading a cache: random access by sample index, straight from memory-mapped files."""

import os
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from cdeq.errors import StoreError
from cdeq.trajectories.manifest import DTYPES, FILE, Manifest
from cdeq.trajectories.shard import Shard, open_shards
from cdeq.trajectories.source import Indices, as_indices
from cdeq.typing import State


class TrajectoryStore:
    """The trajectories that `write_cache` left in a folder, as a source.

    All files are opened and checked at once; samples are loaded when asked for. States come back
    in the dtype they had before they were stored, whatever they are stored in, so that the store
    and the source it was written from can take each other's place.

    Arguments:
        root: The folder.
        expect: What the cache has to be made from; None takes what is there.
        device: Where states are wanted.

    Raises:
        StoreError: When there is no cache, it is incomplete, a shard is cut short or foreign, or
            it was made from something else; says what differs, and what to do.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from cdeq.trajectories import write_cache
        >>> manifest = Manifest(teacher="a1", data="d1", solver="Picard()", initial="zero",
        ...                     max_steps=2, samples=5, dtype="float32")
        >>> with TemporaryDirectory() as root:
        ...     write_cache(root, manifest, lambda rows: (rows.float(),) * 3, shard_samples=2)
        ...     store = TrajectoryStore(root, manifest)
        ...     store([4, 1])[0]
        tensor([4., 1.])
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        expect: Manifest | None = None,
        *,
        device: torch.device = torch.device("cpu"),
    ) -> None:
        self.root, self.expect, self.device = Path(root), expect, device
        self.manifest = _require_manifest(self.root, expect)
        self.shards = open_shards(self.root, self.manifest)
        _require_complete(self.root, self.shards, self.manifest.samples)
        self.starts = torch.tensor([shard.label.first for shard in self.shards])

    def __len__(self) -> int:
        return self.manifest.samples

    def __call__(self, indices: Indices) -> tuple[State, ...]:
        """The states z_0 … z_K of these samples, in their order.

        Raises:
            ValueError: When the indices are no list of whole numbers in 0 … samples - 1.
        """
        return self._states(indices, slice(None))

    def ends(self, indices: Indices) -> State:
        """The states z_K of these samples alone; a fraction of the reading.

        Raises:
            ValueError: When the indices are no list of whole numbers in 0 … samples - 1.
        """
        return self._states(indices, slice(-1, None))[0]

    def verify(self) -> None:
        """Read every byte, and compare with the SHA-256 taken when it was written.

        Raises:
            StoreError: Names the shards that have changed since.
        """
        changed = [
            shard.label.first for shard in self.shards if shard.seal() != shard.label.sha256
        ]
        if changed:
            raise StoreError(
                f"in `{self.root}` the shards that start at the samples {changed} are not as they "
                "were written, by their SHA-256; delete them and call `write_cache` again."
            )

    def __reduce__(self) -> tuple[object, ...]:
        # Another process opens the files itself, instead of being sent what is in them.
        return partial(TrajectoryStore, device=self.device), (self.root, self.expect)

    def _states(self, indices: Indices, steps: slice) -> tuple[State, ...]:
        label = self.shards[0].label
        rows = as_indices(indices, batched=label.batched, samples=len(self))
        columns = [self._gather(rows, part, steps) for part in range(len(self.shards[0].parts))]
        if not label.batched:
            columns = [column[:, 0] for column in columns]
        states = zip(*(column.to(self.device) for column in columns), strict=True)
        return tuple(state[0] if label.single else state for state in states)

    def _gather(self, rows: Int[Tensor, " b"], part: int, steps: slice) -> Tensor:
        """A tensor (iteration, sample, …) of one part of the states, each iteration contiguous."""
        _, states, *shape = self.shards[0].parts[part][:1, steps].shape
        dtype = DTYPES[self.shards[0].label.dtype]
        column = torch.empty(states, len(rows), *shape, dtype=dtype)
        owners = torch.bucketize(rows, self.starts, right=True) - 1
        for owner in owners.unique().tolist():
            places = (owners == owner).nonzero().squeeze(1)
            stored = self.shards[owner].parts[part][:, steps][rows[places] - self.starts[owner]]
            column[:, places] = stored.transpose(0, 1).to(dtype)
        return column


def _require_manifest(root: Path, expect: Manifest | None) -> Manifest:
    found = Manifest.read(root)
    if found is None:
        raise StoreError(
            f"`{root}` should hold a trajectory cache and has no `{FILE}`; call `write_cache` "
            "first."
        )
    differences = [] if expect is None else expect.differences(found)
    if differences:
        raise StoreError(
            f"the cache in `{root}` was made from something else: {'; '.join(differences)}; write "
            "another one, in another folder."
        )
    return found


def _require_complete(root: Path, shards: tuple[Shard, ...], samples: int) -> None:
    stops = [0, *(shard.samples.stop for shard in shards)]
    starts = [*(shard.samples.start for shard in shards), samples]
    for stop, start in zip(stops, starts, strict=True):
        if stop < start:
            raise StoreError(
                f"`{root}` should have trajectories of {samples} samples and lacks {stop} to "
                f"{start - 1}, because its writer was stopped or a shard was removed; call "
                "`write_cache` again as before, and it adds what is missing."
            )
        if stop > start:
            raise StoreError(
                f"`{root}` has shards that overlap: after one that ends at sample {stop - 1}, the "
                f"next should begin at {stop} and not {start}; one is foreign: move it away."
            )
