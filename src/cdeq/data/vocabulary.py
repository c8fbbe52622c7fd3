"""Words and their numbers, as language models on WikiText have them."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from typing_extensions import Self

from cdeq.atomic import write_atomic
from cdeq.errors import StoreError

END = "<eos>"
"""The word that stands for the end of a line."""
UNKNOWN = "<unk>"
"""The word that stands for every word that is not in the vocabulary."""


@dataclass(frozen=True)
class Vocabulary:
    """Words by number: what is between white space, and one `<eos>` for every end of a line.

    Other white space leaves no trace; a text of ids says the same words on the same lines.

    Arguments:
        words: All of them, each once, `<eos>` among them; the most frequent first where an
            adaptive embedding or softmax is to cut the vocabulary into clusters. Where `<unk>` is
            one of them, it stands for every other word.

    Raises:
        ValueError: When a word occurs twice or is none, or `<eos>` is missing.

    Example:
        >>> vocabulary = Vocabulary.of(["the cat saw the dog\\n", "the end\\n"])
        >>> vocabulary.words[:2], len(vocabulary)
        (('the', '<eos>'), 6)
        >>> vocabulary.encode("the cat\\nthe dog\\n")
        [0, 2, 1, 0, 4, 1]
        >>> print(vocabulary.decode([0, 2, 1, 0, 4]))
        the cat
        the dog
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self._ids) != len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise ValueError(f"a vocabulary has each word once; got {twice[:3]} several times.")
        wrong = [word for word in self.words if word.split() != [word]]
        if wrong or END not in self._ids:
            raise ValueError(
                f"a vocabulary is of words without white space, `{END}` among them; got "
                f"{wrong[:3] if wrong else f'none that is `{END}`'}."
            )

    @classmethod
    def of(cls, texts: Iterable[str], *, least: int = 1) -> Self:
        """The vocabulary of a text, the most frequent word first, of equals the one seen first.

        Arguments:
            texts: Pieces of the text, cut between words; they are looked at once, one at a time.
            least: How often a word has to be there. Rarer ones count as `<unk>`, which `least`
                ≥ 2 always adds, so that the vocabulary is one for any other text as well.

        Raises:
            ValueError: When `least` < 1.
        """
        if least < 1:
            raise ValueError(f"words are kept from `least` ≥ 1 occurrences on; got {least}.")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_split(text))
        kept = {word: count for word, count in counts.items() if count >= least or word == END}
        kept.setdefault(END, 0)
        if least > 1:
            rare = counts.total() - sum(kept.values())
            kept[UNKNOWN] = kept.get(UNKNOWN, 0) + rare
        return cls(tuple(sorted(kept, key=kept.__getitem__, reverse=True)))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            ValueError: When a word is not in the vocabulary and neither is `<unk>`.
        """
        ids, other = self._ids, self._ids.get(UNKNOWN, -1)
        found = [ids.get(word, other) for word in _split(text)]
        if other < 0 and -1 in found:
            unknown = sorted({word for word in _split(text) if word not in ids})
            raise ValueError(
                f"this vocabulary has no `{UNKNOWN}`, so every word has to be one of its "
                f"{len(self):,}; got {unknown[0]!r} and {len(unknown) - 1} other unknown words: "
                "leave them out, or make the vocabulary with `least` ≥ 2."
            )
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The words of these ids, with one blank between two and a new line at every `<eos>`.

        Raises:
            ValueError: When an id is none of this vocabulary.
        """
        require_ids(ids, len(self))
        lines: list[list[str]] = [[]]
        for word in map(self.words.__getitem__, ids):
            if word == END:
                lines.append([])
            else:
                lines[-1].append(word)
        return "\n".join(map(" ".join, lines))

    def digest(self) -> str:
        """The SHA-256 of the words in their order."""
        return sha256("\n".join(self.words).encode(errors="surrogatepass")).hexdigest()

    def to_json(self) -> str:
        """The vocabulary as JSON, one line a word."""
        return json.dumps({"digest": self.digest(), "words": self.words}, indent=0) + "\n"

    @classmethod
    def from_json(cls, held: Any) -> Self:  # noqa: ANN401 - what `json.loads` gives
        """The vocabulary that `to_json` wrote, once parsed.

        Raises:
            StoreError: When that is not what it was.
        """
        try:
            vocabulary = cls(tuple(held["words"]))
            if vocabulary.digest() == held["digest"]:
                return vocabulary
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"this is no vocabulary ({error!r}); make it anew.") from error
        raise StoreError("this vocabulary is not what was once saved; make it anew.")

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, for `load_tokenizer`.

        Raises:
            StoreError: When the file cannot be written; what was there before is untouched.
        """
        write_atomic(path, self.to_json().encode())

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: position for position, word in enumerate(self.words)}


def _split(text: str) -> list[str]:
    return text.replace("\n", f" {END} ").split()


def require_ids(ids: Sequence[int], size: int) -> None:
    """Refuse ids that are none of a vocabulary.

    Raises:
        ValueError: Says which one.

    Example:
        >>> require_ids([0, 7], 7)
        Traceback (most recent call last):
        ...
        ValueError: the ids of this vocabulary are 0 … 6; got 7; use the one it was made with.
    """
    wrong = [number for number in ids if not 0 <= number < size]
    if wrong:
        raise ValueError(
            f"the ids of this vocabulary are 0 … {size - 1}; got {wrong[0]}; use the one it was "
            "made with."
        )
