"""A text as one long sequence of ids: tokenised once, memory-mapped from then on."""

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cdeq.atomic import write_atomic
from cdeq.data.lines import Lines, Progress
from cdeq.data.tokenizer import Level, Tokenizer, tokenizer_of
from cdeq.errors import StoreError

HEADER = 1024
"""Bytes before the ids; in there is what a safetensors file begins with."""
FORMAT = 1


class Corpus(NamedTuple):
    """Three texts as ids, int32, and the tokenizer that made them, which saw the first alone."""

    tokenizer: Tokenizer
    train: Int[Tensor, " n"]
    validation: Int[Tensor, " n"]
    test: Int[Tensor, " n"]


def make_corpus(
    train: Lines,
    validation: Lines,
    test: Lines,
    level: Level,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The ids of three texts; the second start takes milliseconds (see `tokenise`).

    Arguments:
        train: Makes the tokenizer.
        validation: To select on.
        test: To report.
        level: How the tokenizer is made.
        cache: Where ids and tokenizer are kept, see `cache_folder`.
        progress: Told of every pass over a file.

    Raises:
        StoreError: When a file is missing, cut off, empty, not UTF-8, or ids cannot be written.
        ValueError: When a text has unknown words and the tokenizer no `<unk>`.
    """
    tokenizer = fitted(train, level, cache=cache, progress=progress)
    parts = (
        tokenise(part, tokenizer, cache=cache, progress=progress)
        for part in (train, validation, test)
    )
    return Corpus(tokenizer, *parts)


def fitted(
    lines: Lines, level: Level, *, cache: Path | None = None, progress: Progress | None = None
) -> Tokenizer:
    """The tokenizer of a text, kept for as long as neither it nor the level changes.

    Arguments:
        lines: The text.
        level: How the tokenizer is made.
        cache: Where the tokenizer is kept, see `cache_folder`.
        progress: Told of the pass over the file.

    Raises:
        StoreError: When the text cannot be read, or the tokenizer not be written.
    """
    path = cache_folder(lines.path, cache) / f"{lines.name}.vocabulary.json"
    stamp = f"{FORMAT} {lines.stamp()} {level!r}"
    if (held := _held_tokenizer(path, stamp)) is not None:
        return held
    tokenizer = level.fit(lines.chunks("counting", progress))
    kept = {"stamp": stamp, "tokenizer": tokenizer.to_json()}
    write_atomic(path, json.dumps(kept).encode())
    return tokenizer


def _held_tokenizer(path: Path, stamp: str) -> Tokenizer | None:
    if not path.is_file():
        return None
    try:
        held = json.loads(path.read_bytes())
        return tokenizer_of(held["tokenizer"]) if held["stamp"] == stamp else None
    except (ValueError, KeyError, TypeError, StoreError):
        return None  # damaged; the text is there to make it from again


def tokenise(
    lines: Lines,
    tokenizer: Tokenizer,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Int[Tensor, " n"]:
    """The ids of a text, int32, memory-mapped from a safetensors file.

    That file is written at the first start, about a megabyte of text at a time, and again when
    the text (its size or time of change) or the tokenizer is another one. It appears whole or
    not at all.

    Arguments:
        lines: The text.
        tokenizer: Makes the ids.
        cache: Where they are kept, see `cache_folder`.
        progress: Told of the pass over the file.

    Returns:
        The ids. Changing them changes no file.

    Raises:
        StoreError: When the text cannot be read, or the ids not be written.
        ValueError: When the text has unknown words and the tokenizer no `<unk>`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from cdeq.data.vocabulary import Vocabulary
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "text.txt")
        ...     _ = path.write_text("a b\\nb\\n")
        ...     tokenise(Lines(path=path), Vocabulary(("a", "b", "<eos>")))
        tensor([0, 1, 2, 1, 2], dtype=torch.int32)
    """
    path = cache_folder(lines.path, cache) / f"{lines.name}.ids"
    stamp = f"{FORMAT} {lines.stamp()} {tokenizer.digest()}"
    if (held := _held_ids(path, stamp)) is not None:
        return held
    _write_ids(path, stamp, lines, tokenizer, progress)
    if (held := _held_ids(path, stamp)) is not None:
        return held
    raise StoreError(f"{path} was replaced by another run just now; start this one again.")


def _held_ids(path: Path, stamp: str) -> Int[Tensor, " n"] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("stamp") != stamp:
                return None
            return file.get_tensor("ids")
    except SafetensorError:
        return None  # damaged; the text is there to make it from again


def _write_ids(
    path: Path, stamp: str, lines: Lines, tokenizer: Tokenizer, progress: Progress | None
) -> None:
    with replacing(path) as file:
        file.write(bytes(HEADER))
        for text in lines.chunks("tokenising", progress):
            file.write(array("i", _encoded(text, tokenizer, lines.path)).tobytes())
        size = file.tell() - HEADER
        ids = {"dtype": "I32", "shape": [size // 4], "data_offsets": [0, size]}
        header = json.dumps({"__metadata__": {"stamp": stamp}, "ids": ids}).encode()
        file.seek(0)
        # a safetensors file begins with the length of its header, which blanks may fill up
        file.write((HEADER - 8).to_bytes(8, "little") + header.ljust(HEADER - 8))


def _encoded(text: str, tokenizer: Tokenizer, path: Path) -> list[int]:
    try:
        return tokenizer.encode(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` once it is complete, or vanishes.

    `write_atomic` for content that does not fit into memory.

    Raises:
        StoreError: When it cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "a.txt")) as file:
        ...         _ = file.write(b"whole")
        ...     Path(folder, "a.txt").read_bytes()
        b'whole'
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(
            f"could not write `{path}` ({error.strerror or error}); make room, or choose another "
            "folder to keep it in."
        ) from error
    finally:
        if partial.is_file():
            partial.unlink()


def cache_folder(source: Path, asked: Path | None) -> Path:
    """Where what was made from a file is kept.

    Beside it; where that folder cannot be written, in one of its own in `~/.cache/cdeq` (or
    `cdeq` in `$XDG_CACHE_HOME`), and where a folder is asked for, in one of its own in there.

    Arguments:
        source: The file.
        asked: A folder, made when missing.

    Example:
        >>> cache_folder(Path("texts/one.txt"), Path("cache")).parent
        PosixPath('cache')
    """
    folder = source.parent
    if asked is None and os.access(folder, os.W_OK):
        return folder
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cdeq"
    # files of one name from two folders are kept apart
    return (asked or home) / sha256(str(folder.resolve()).encode()).hexdigest()[:16]
