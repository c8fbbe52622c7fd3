"""Writing a file whole or not at all."""

import os
from pathlib import Path

from cdeq.errors import StoreError


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Puts `content` at `path` in one step: a reader sees the old file or the new one.

    Arguments:
        path: Where the file belongs. Missing folders are made.
        content: All of its bytes.

    Raises:
        StoreError: If the bytes cannot be written (no space, no permission). What was at `path`
            before is untouched, and no partial file stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder) / "new" / "a.txt", b"whole")
        ...     (Path(folder) / "new" / "a.txt").read_bytes()
        b'whole'
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_through(partial, content)
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(
            f"could not write `{path}` ({error.strerror or error}); what was there before is "
            "unchanged, so make room or choose another place and run again."
        ) from error
    finally:
        _discard(partial)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # otherwise a power cut after the rename can leave an empty file


def _discard(path: Path) -> None:
    if path.is_file():
        path.unlink()
