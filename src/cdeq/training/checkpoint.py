"""Where a training run stands, on disk: weights, optimiser, and a step number."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cdeq.atomic import write_atomic
from cdeq.errors import StoreError


class Stateful(Protocol):
    """A module, an optimiser, a gradient scaler: whatever can be put back where it was."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


@dataclass
class Progress:
    """What changes while training, besides the parts that have a state of their own."""

    step: int = 0
    """Updates done."""
    score: float | None = None
    """The best validation score so far."""
    weights: dict[str, Tensor] | None = None
    """The weights that had it."""
    seconds: float = 0.0
    """Wall time that the updates took, over all sessions."""


def save(path: Path, parts: Mapping[str, Stateful], progress: Progress, identity: str) -> None:
    """Write a checkpoint, whole or not at all.

    Arguments:
        path: The file; an older checkpoint there is replaced.
        parts: What has a state.
        progress: Where the run stands.
        identity: A digest of every setting that decides the result.

    Raises:
        StoreError: When it cannot be written; the older one is unchanged.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    content = io.BytesIO()
    torch.save({"identity": identity, "parts": states, "progress": vars(progress)}, content)
    write_atomic(path, content.getvalue())


def restore(path: Path, parts: Mapping[str, Stateful], identity: str) -> Progress:
    """Put the parts back where a checkpoint says; without one, nothing happens.

    Raises:
        StoreError: When the checkpoint is damaged or belongs to another run; it is left alone.
    """
    if not path.exists():
        return Progress()
    held = _read(path)
    if held["identity"] != identity:
        raise StoreError(
            f"{path} belongs to a run with other settings (digest {held['identity'][:12]}, now "
            f"{identity[:12]}); restore them, choose another folder, or start afresh."
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(held["parts"][name])
        return Progress(**held["progress"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(_unreadable(path, error)) from error


def _read(path: Path) -> dict[str, Any]:
    """The contents; only tensors and plain values are read, so a file cannot run code."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums itself
            broken = archive.testzip()
        if broken is not None:
            raise StoreError(_unreadable(path, f"the checksum of its part {broken} is wrong"))
        held = torch.load(path, map_location="cpu", weights_only=True)
    except StoreError:
        raise
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise StoreError(_unreadable(path, error)) from error
    if not isinstance(held, dict) or held.keys() != {"identity", "parts", "progress"}:
        raise StoreError(_unreadable(path, "it holds something else"))
    return held


def _unreadable(path: Path, why: object) -> str:
    return (
        f"{path} is no readable checkpoint ({str(why).splitlines()[0]}); put a good copy back, or "
        "remove it to train from the start."
    )
