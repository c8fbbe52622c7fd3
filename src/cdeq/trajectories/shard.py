"""One file of a cache: the trajectories of consecutive samples, and a label that says whose.

A state tensor is stored as (sample, iteration, …), so that a sample is one run of bytes; the file
is mapped into memory, and only what is asked for is loaded. The label is a single JSON text in the
file's metadata, since the order of several entries would differ from run to run.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cdeq.core.state import Layout, tensors
from cdeq.digest import digest_of_tensors
from cdeq.errors import StoreError
from cdeq.trajectories.manifest import DTYPES, Manifest
from cdeq.typing import State

_KEY = "trajectories"


@dataclass(frozen=True)
class Label:
    """What a shard says about itself."""

    manifest: str
    """The digest of its cache's manifest."""
    first: int
    """The index of its first sample."""
    dtype: str
    """What the states were in before they were stored, and are in again when read."""
    single: bool
    """Whether a state is a bare tensor rather than a tuple."""
    batched: bool
    """Whether a state has a sample dimension."""
    sha256: str = ""
    """Over all of the above and the tensors."""


@dataclass(frozen=True)
class Shard:
    """The trajectories of consecutive samples."""

    label: Label
    parts: tuple[Tensor, ...]
    """One tensor (sample, iteration, …) for each tensor of a state."""

    @classmethod
    def pack(
        cls, trajectory: tuple[State, ...], manifest: Manifest, samples: range, *, batched: bool
    ) -> "Shard":
        """The trajectory z_0 … z_K of these samples, sealed.

        Raises:
            ValueError: When these are not K + 1 states of one form, for as many samples.
            StoreError: When a number is too large for the dtype it is stored in.
        """
        layout = _common_layout(trajectory, manifest, len(samples), batched=batched)
        dtype = str(layout.dtype).removeprefix("torch.")
        label = Label(manifest.digest(), samples.start, dtype, layout.single, batched)
        columns = zip(*map(tensors, trajectory), strict=True)
        stacks = (torch.stack(column, dim=1 if batched else 0) for column in columns)
        parts = tuple(_stored(z if batched else z.unsqueeze(0), manifest.dtype) for z in stacks)
        return cls(replace(label, sha256=cls(label, parts).seal()), parts)

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """The shard in a file, mapped into memory.

        Raises:
            StoreError: When the file is cut short, damaged, or no shard.
        """
        try:
            with safe_open(path, framework="pt") as file:
                label = Label(**json.loads((file.metadata() or {})[_KEY]))
                return cls(label, tuple(map(file.get_tensor, sorted(file.keys(), key=int))))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"`{path}` should be a shard of a trajectory cache, but cannot be read as a whole "
                f"one ({error!r}); delete it and call `write_cache` again to have it recomputed."
            ) from error

    @property
    def samples(self) -> range:
        """The indices of its samples."""
        return range(self.label.first, self.label.first + len(self.parts[0]))

    @property
    def form(self) -> tuple[object, ...]:
        """What the shards of a cache have in common."""
        label, shapes = self.label, tuple(tuple(part.shape[1:]) for part in self.parts)
        return label.dtype, label.single, label.batched, shapes

    def content(self) -> bytes:
        """The bytes of the file; the same for equal shards."""
        named = {str(position): part for position, part in enumerate(self.parts)}
        return safetensors.torch.save(named, metadata={_KEY: json.dumps(asdict(self.label))})

    def seal(self) -> str:
        """The SHA-256 that the label should bear; reads the whole shard."""
        text = json.dumps(asdict(replace(self.label, sha256="")))
        return hashlib.sha256(f"{text}{digest_of_tensors(*self.parts)}".encode()).hexdigest()


def shard_path(root: Path, first: int) -> Path:
    """Where the shard lies whose first sample has this index."""
    return root / f"shard-{first:09d}.safetensors"


def open_shards(root: Path, manifest: Manifest) -> tuple[Shard, ...]:
    """The shards that are there, by first sample.

    Raises:
        StoreError: When one is damaged, belongs to another cache, or lies in another's place.
    """
    shards = []
    for path in sorted(root.glob("shard-*.safetensors")):
        shard = Shard.open(path)
        pairs = {
            "manifest": (manifest.digest()[:12], shard.label.manifest[:12]),
            "file name": (shard_path(root, shard.label.first).name, path.name),
            "form of the states": (shards[0].form if shards else shard.form, shard.form),
        }
        require_equal(pairs, f"`{path}` is not part of the cache in its folder", "move it away")
        shards.append(shard)
    return tuple(shards)


def require_equal(pairs: dict[str, tuple[object, object]], problem: str, remedy: str) -> None:
    """Refuse what differs from what is expected.

    Raises:
        StoreError: Lists each difference: expected, found.
    """
    lines = [f"{name}: expected {a}, found {b}" for name, (a, b) in pairs.items() if a != b]
    if lines:
        raise StoreError(f"{problem}: {'; '.join(lines)}; {remedy}.")


def _common_layout(
    trajectory: tuple[State, ...], manifest: Manifest, samples: int, *, batched: bool
) -> Layout:
    if len(trajectory) != manifest.max_steps + 1:
        raise ValueError(
            f"a trajectory with `max_steps`={manifest.max_steps} has {manifest.max_steps + 1} "
            f"states, z_0 included; the source gave {len(trajectory)}."
        )
    layouts = [Layout.of(z, batched=batched) for z in trajectory]
    odd = [layout for layout in layouts if layout != layouts[0]]
    if odd:
        raise ValueError(f"a trajectory has one form; the source gave {layouts[0]} and {odd[0]}.")
    if layouts[0].samples != samples:
        raise ValueError(
            f"the source was asked for {samples} samples and gave {layouts[0].samples}."
        )
    return layouts[0]


def _stored(part: Tensor, dtype: str) -> Tensor:
    stored = part.detach().to("cpu", DTYPES[dtype])
    if not torch.equal(stored.isfinite(), part.isfinite().cpu()):
        raise StoreError(
            f"a state has numbers beyond {torch.finfo(stored.dtype).max:.3g}, the largest that "
            f"{dtype} can store; ask for a wider `dtype` in the manifest."
        )
    return stored.contiguous()
