"""The lines of a text file, checked as they are read, never all of them in memory."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from cdeq.errors import StoreError

CHUNK = 1 << 20
"""Bytes that are read at once."""

Progress: TypeAlias = Callable[[str, int, int], object]
"""Told what is being done, how many bytes of the file are read by now, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Whole lines of a UTF-8 file: all, or those that begin in some part of it.

    Arguments:
        path: The file.
        since: Where the part begins, as a share of the file's bytes.
        until: Where it ends; parts that share an end share no line, and leave none out.
        unfinished: Whether the last line may lack its end. Without it a file is refused that
            seems to have been cut off.

    Raises:
        ValueError: When not 0 ≤ `since` < `until` ≤ 1.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "text.txt")
        ...     _ = path.write_text("one\\ntwo\\nthree\\nfour\\n")
        ...     [*Lines(path=path, until=0.5).chunks()], [*Lines(path=path, since=0.5).chunks()]
        (['one\\ntwo\\nthree\\n'], ['four\\n'])
    """

    path: Path
    since: float = 0.0
    until: float = 1.0
    unfinished: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.since < self.until <= 1.0:
            raise ValueError(
                "a part of a file lies between two shares 0 ≤ since < until ≤ 1; got "
                f"{self.since} and {self.until}."
            )

    @property
    def name(self) -> str:
        """The file's name, and which part of it where that is not all."""
        whole = (self.since, self.until) == (0.0, 1.0)
        return self.path.name if whole else f"{self.path.name}.{self.since:g}-{self.until:g}"

    def stamp(self) -> str:
        """Equal for equal lines: the part, the file's size and the time of its last change.

        Raises:
            StoreError: When there is no such file.
        """
        with self._open() as file:
            fact = os.fstat(file.fileno())
        facts = (self.since, self.until, self.unfinished, fact.st_size, fact.st_mtime_ns)
        return " ".join(map(str, facts))

    def chunks(self, doing: str = "reading", progress: Progress | None = None) -> Iterator[str]:
        """The lines in order, about a megabyte of them at a time.

        Arguments:
            doing: What `progress` is told is being done.
            progress: Called after each chunk was used.

        Raises:
            StoreError: When there is no such file, its end is cut off, it has no words in this
                part, or some bytes are not UTF-8.
        """
        blank = True
        with self._open() as file:
            begin, end = self._span(file)
            while (at := file.tell()) < end:
                text = self._text(at, _whole_lines(file, min(CHUNK, end - at)))
                blank = blank and not text.strip()
                yield text
                if progress is not None:
                    progress(f"{doing} {self.name}", file.tell() - begin, end - begin)
        if blank:
            raise StoreError(
                f"{self.path} holds no words between {self.since:.0%} and {self.until:.0%} of its "
                "bytes; give a longer text, or another file."
            )

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise StoreError(
                f"the text {self.path} cannot be read ({error.strerror}); give the path of a "
                "text in UTF-8."
            ) from error

    def _span(self, file: BinaryIO) -> tuple[int, int]:
        """Where the part begins and ends; the file is left at its beginning."""
        size = file.seek(0, os.SEEK_END)
        if size and not self.unfinished:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                raise StoreError(
                    f"{self.path} ends in the middle of a line, as a file does that was cut off "
                    "on its way here; get it again, or accept it as it is with `unfinished`."
                )
        begin, end = (_line_start(file, round(size * share)) for share in (self.since, self.until))
        file.seek(begin)
        return begin, end

    def _text(self, begin: int, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            at = begin + error.start
            raise StoreError(
                f"{self.path} is no text in UTF-8: byte {content[error.start]:#04x} at offset "
                f"{at:,} (line {self._line_of(at):,}); convert the file to UTF-8."
            ) from error

    def _line_of(self, offset: int) -> int:
        before = 0
        with self._open() as file:
            for at in range(0, offset, CHUNK):
                before += file.read(min(CHUNK, offset - at)).count(b"\n")
        return before + 1


def _whole_lines(file: BinaryIO, size: int) -> bytes:
    """So many bytes, and what the last line of them is short of."""
    content = file.read(size)
    return content if content.endswith(b"\n") else content + file.readline()


def _line_start(file: BinaryIO, at: int) -> int:
    """Where the first line begins that does not begin before this byte."""
    if at == 0:
        return 0
    file.seek(at - 1)
    file.readline()
    return file.tell()
