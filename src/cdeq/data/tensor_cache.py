"""What was read slowly, kept beside its sources for as long as those stay the same."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cdeq.atomic import write_atomic
from cdeq.errors import StoreError


def cached(
    path: Path,
    sources: Sequence[Path],
    read: Callable[[], Mapping[str, Tensor]],
    *,
    version: int,
) -> Mapping[str, Tensor]:
    """The tensors of `read()`, from `path` where that was written from these very sources.

    Sources are the same when sizes and times of change are, to the nanosecond. A cache that is
    stale or damaged is written anew, and one that cannot be written is done without.

    Arguments:
        path: The cache, a safetensors file.
        sources: The files that `read` looks at.
        read: The slow way.
        version: Of what `read` gives; a cache of another one is stale.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source, path = Path(folder, "ones.txt"), Path(folder, "ones.safetensors")
        ...     _ = source.write_text("1 1 1")
        ...     first = cached(path, [source], lambda: {"ones": torch.ones(3)}, version=1)
        ...     cached(path, [source], dict, version=1)["ones"]
        tensor([1., 1., 1.])
    """
    stamp = _stamp(sources, version)
    if path.is_file():
        held = _held(path, stamp)
        if held is not None:
            return held
    tensors = read()
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        write_atomic(path, save(whole, {"sources": stamp}))
    except StoreError:
        pass  # a folder that is read-only or full costs time at the next start, and nothing else
    return tensors


def _held(path: Path, stamp: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("sources") != stamp:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError:
        return None  # the sources are there to read it from again


def _stamp(sources: Sequence[Path], version: int) -> str:
    facts = ((path.name, path.stat()) for path in sources)
    return json.dumps([version, *((name, fact.st_size, fact.st_mtime_ns) for name, fact in facts)])
