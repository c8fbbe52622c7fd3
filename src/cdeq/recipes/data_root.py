"""Where data sets are looked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdeq.errors import StoreError

ROOT = "CDEQ_DATA"
"""The environment variable that names the folder of all data sets."""


def data_root() -> Path:
    """The folder of all data sets: `CDEQ_DATA`, or `data` where that is not set."""
    return Path(os.environ.get(ROOT) or "data")


@contextmanager
def looking_in(root: Path, folder: Path | None = None) -> Iterator[None]:
    """Say of what could not be read how to look for it elsewhere.

    Arguments:
        root: The folder of all data sets.
        folder: Where that is there, what is wrong is inside and nothing is said; None says it
            always.

    Raises:
        StoreError: That of the block, with this in it.
    """
    try:
        yield
    except StoreError as error:
        if folder is not None and folder.exists():
            raise
        raise StoreError(
            f"{error} Data sets are looked for in {root}, the folder that the environment "
            f"variable {ROOT} or the source's `root` names."
        ) from error
