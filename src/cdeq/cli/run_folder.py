"""Where a run keeps what, and whether a stage of it is done."""

import hashlib
import json
import math
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cdeq.atomic import write_atomic
from cdeq.errors import StoreError
from cdeq.plain import Plain

ORIGIN, DONE, RESULTS = "recipe.json", "done.json", "results.json"


@dataclass(frozen=True)
class Stage:
    """One finished or unfinished part of a run, in a folder of its own.

    `recipe.json` says from the start what the stage is made by; `done.json`, written last, what
    came of it.

    Arguments:
        folder: Where its files are.
        settings: Everything that decides its outcome.
    """

    folder: Path
    settings: Mapping[str, Plain]

    @property
    def identity(self) -> str:
        """The digest of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def outcome(self) -> dict[str, Any] | None:
        """What the stage reported when it finished; None when it has not.

        Raises:
            StoreError: When the folder belongs to other settings, or is damaged.
        """
        origin, done = self.folder / ORIGIN, self.folder / DONE
        if not origin.exists() and not done.exists():
            return None
        changed = list(differences(_read(origin, "settings"), self.settings))
        if changed:
            raise StoreError(
                f"{self.folder} was made with other settings ({'; '.join(changed)}); repeat "
                "those, choose another `--folder`, or replace it with `--fresh`."
            )
        return _read(done, "outcome") if done.exists() else None

    def begin(self, origin: Mapping[str, Any]) -> None:
        """Say what the stage is made by, unless it was begun before."""
        if not (self.folder / ORIGIN).exists():
            write_json(self.folder / ORIGIN, {"settings": self.settings, **origin})

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Say that the stage is done; what a killed process left half-written goes."""
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink()
        write_json(self.folder / DONE, {"outcome": dict(outcome)})

    def discard(self) -> None:
        """Remove the stage's files."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Where two settings differ, key by key.

    None is the same as no such key: by None, a newer version says that all is as it was before.

    Example:
        >>> list(differences({"plan": {"steps": 3}, "seed": 0}, {"plan": {"steps": 5}, "seed": 0}))
        ['plan.steps was 3, now 5']
    """
    before, now = dict(_leaves(found)), dict(_leaves(wanted))
    for key in sorted(before.keys() | now.keys()):
        was, is_ = before.get(key), now.get(key)
        if was != is_:
            shown = ("unset" if value is None else value for value in (was, is_))
            yield "{} was {}, now {}".format(key, *shown)


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        contents = json.loads(path.read_text())[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error!r}); replace it with `--fresh`.") from error
    if not isinstance(contents, dict):
        raise StoreError(f"{path} is damaged (no {key}); replace it with `--fresh`.")
    return contents


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """A JSON file for people to read, whole or not at all; NaN and ∞ become texts."""
    text = json.dumps(_spelled(contents), indent=2, allow_nan=False)
    write_atomic(path, f"{text}\n".encode())


def _spelled(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    return [_spelled(item) for item in value] if isinstance(value, (list, tuple)) else value


def versions() -> dict[str, str]:
    """The versions that decide numbers, and the git revision of the sources where there is one."""
    found = {"python": platform.python_version(), "git": _revision()}
    for package in ("cdeq", "torch", "safetensors", "lightning", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def _revision() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    return done.stdout.strip() or "none"
