"""Text to ids and back: what all tokenizers have in common."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cdeq.data.subwords import Subwords
from cdeq.data.vocabulary import Vocabulary
from cdeq.errors import StoreError


class Tokenizer(Protocol):
    """A vocabulary with numbers 0 … `len` - 1: `Vocabulary` or `Subwords`.

    The ids of two texts, the first of which ends with a line, are those of both together.
    """

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        ...

    def digest(self) -> str:
        """A fingerprint: equal ones give equal ids."""
        ...

    def to_json(self) -> str:
        """What `tokenizer_of` reads."""
        ...

    def save(self, path: str | Path) -> None:
        """Write `to_json()`, whole or not at all."""
        ...


class Level(Protocol):
    """How a tokenizer is made from a text; its `repr` tells it from every other way."""

    def fit(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer of a text that comes in pieces of whole lines."""
        ...


@dataclass(frozen=True, kw_only=True)
class WordLevel:
    """Whole words, see `Vocabulary`.

    Arguments:
        least: How often a word has to be in the text, ≥ 1; rarer ones are `<unk>`.

    Example:
        >>> WordLevel(least=2).fit(["a b a\\n"]).decode([0, 1, 2])
        'a\\n<unk>'
    """

    least: int = 1

    def fit(self, texts: Iterable[str]) -> Vocabulary:
        """The words of a text."""
        return Vocabulary.of(texts, least=self.least)


@dataclass(frozen=True, kw_only=True)
class SubwordLevel:
    """Parts of words, see `Subwords`.

    Arguments:
        size: How many there are at most, ≥ 256.

    Example:
        >>> len(SubwordLevel(size=256).fit(["a b a\\n"]))
        256
    """

    size: int = 8192

    def fit(self, texts: Iterable[str]) -> Subwords:
        """The subwords of a text."""
        return Subwords.of(texts, size=self.size)


def load_tokenizer(path: str | Path) -> Vocabulary | Subwords:
    """The tokenizer that was saved to a file.

    Raises:
        StoreError: When the file is missing or damaged.
        CDEQError: When it holds subwords, and `tokenizers` is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "words.json")
        ...     Vocabulary(("the", "<eos>", "end")).save(path)
        ...     load_tokenizer(path)
        Vocabulary(words=('the', '<eos>', 'end'))
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"there is no tokenizer at {path}; give the file that one was saved to.")
    try:
        return tokenizer_of(path.read_text(encoding="utf-8"))
    except (StoreError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error


def tokenizer_of(text: str) -> Vocabulary | Subwords:
    """The tokenizer whose `to_json` this is.

    Raises:
        StoreError: When it is damaged.

    Example:
        >>> tokenizer_of(Vocabulary(("the", "<eos>")).to_json()).decode([0])
        'the'
    """
    try:
        held = json.loads(text)
    except ValueError as error:
        raise StoreError(f"this is no JSON ({error}); make the tokenizer anew.") from error
    words = isinstance(held, dict) and "words" in held
    return Vocabulary.from_json(held) if words else Subwords(text)
