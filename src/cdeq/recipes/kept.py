"""Data that are read once: those of the last source stay in memory."""

from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from cdeq.data.lines import Progress

Data = TypeVar("Data", covariant=True)


class Source(Hashable, Protocol[Data]):
    """Where data come from."""

    def load(self, progress: Progress | None = None) -> Data:
        """The data; told of what is done for the first time."""
        ...


Read = TypeVar("Read")


class Kept(Generic[Read]):
    """The data of sources; those of the last source are kept.

    Example:
        >>> class Text(str):
        ...     def load(self, progress=None):
        ...         return print("read", self) or self.upper()
        >>> kept = Kept()
        >>> kept(Text("a")), kept(Text("a"))
        read a
        ('A', 'A')
    """

    def __init__(self) -> None:
        self.last: tuple[Hashable, Read] | None = None

    def __call__(self, source: Source[Read], progress: Progress | None = None) -> Read:
        """What a source holds."""
        if self.last is None or self.last[0] != source:
            self.last = (source, source.load(progress))
        return self.last[1]
