"""Where a run keeps what, and whether a stage of it is done."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cdeq.atomic import write_atomic
from cdeq.errors import StoreError
from cdeq.plain import to_plain
from cdeq.recipes import Recipe

DONE = "done.json"


@dataclass(frozen=True)
class Stage:
    """One finished or unfinished part of a run, in a folder of its own.

    Arguments:
        folder: Where its files are.
        identity: The digest of everything that decides its outcome.
    """

    folder: Path
    identity: str

    def outcome(self) -> dict[str, Any] | None:
        """What the stage reported when it finished; None when it has not.

        Raises:
            StoreError: When the folder holds the outcome of other settings.
        """
        path = self.folder / DONE
        if not path.exists():
            return None
        try:
            done = json.loads(path.read_text())
            found, outcome = done["identity"], done["outcome"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is damaged ({error!r}); start afresh with `--fresh`."
            ) from error
        if found != self.identity:
            raise StoreError(
                f"{self.folder} was made with other settings (digest {found[:12]}, now "
                f"{self.identity[:12]}); choose another `--folder`, or replace it with `--fresh`."
            )
        return outcome

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Say that the stage is done."""
        write_json(self.folder / DONE, {"identity": self.identity, "outcome": dict(outcome)})

    def discard(self) -> None:
        """Remove the stage's files."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """A JSON file for people to read, whole or not at all."""
    write_atomic(path, (json.dumps(contents, indent=2) + "\n").encode())


def write_origin(folder: Path, recipe: Recipe) -> None:
    """Write what a run was made by: resolved recipe, versions, git revision, command.

    Raises:
        StoreError: When the folder cannot be written.
    """
    origin = {"recipe": to_plain(recipe), "versions": versions(), "command": command()}
    write_json(folder / "recipe.json", origin)


def command() -> str:
    """The command line as one would type it."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


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
