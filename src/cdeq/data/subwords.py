"""Parts of words, found in the user's own text: byte-level byte-pair encoding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

from typing_extensions import Self

from cdeq.atomic import write_atomic
from cdeq.data.vocabulary import require_ids
from cdeq.errors import CDEQError, StoreError

BYTES = 256


@dataclass(frozen=True)
class Subwords:
    """Subwords by number; every text has ids, and decoding gives it back to the last blank.

    A text is encoded line by line, so that no subword reaches over the end of a line, and a file
    can be encoded in pieces.

    References:
        | Neural Machine Translation of Rare Words with Subword Units (Sennrich et al., 2016)
        | https://arxiv.org/abs/1508.07909

    Arguments:
        json: The tokenizer as the package `tokenizers` writes it.

    Raises:
        StoreError: When `json` is damaged.
        CDEQError: When `tokenizers` is not installed.

    Example:
        >>> subwords = Subwords.of(["low lower lowest\\n"] * 9, size=260)
        >>> len(subwords), len(subwords.encode("lower\\n"))
        (260, 4)
        >>> subwords.decode(subwords.encode(" Ångström  lower\\n"))
        ' Ångström  lower\\n'
    """

    json: str

    def __post_init__(self) -> None:
        _ = self._model  # a damaged one is refused here and not later

    @classmethod
    def of(cls, texts: Iterable[str], *, size: int) -> Self:
        """The subwords of a text: its bytes, then pairs of subwords, the most frequent first.

        Arguments:
            texts: Pieces of the text, cut at ends of lines; they are looked at once.
            size: How many subwords, ≥ 256; a text with fewer pairs that repeat gets fewer.

        Raises:
            ValueError: When `size` < 256.
            CDEQError: When `tokenizers` is not installed.
        """
        if size < BYTES:
            raise ValueError(f"every byte is a subword, so `size` is at least 256; got {size}.")
        package = _package()
        model = package.Tokenizer(package.models.BPE())
        model.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
        )
        model.train_from_iterator((line for text in texts for line in StringIO(text)), trainer)
        return cls(model.to_str())

    def __len__(self) -> int:
        return self._model.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            ValueError: When the text holds what is no character, such as half of a surrogate pair,
                which is what Python makes of arguments that are not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"a text is made of characters that UTF-8 can write; got "
                f"{text[error.start]!r} at position {error.start}; give it as UTF-8."
            ) from error
        lines = list(StringIO(text))  # not `splitlines`, which ends lines at more than "\n"
        found = self._model.encode_batch_fast(lines, add_special_tokens=False)
        return [number for line in found for number in line.ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids; bytes that make no character, as a cut may leave, become `�`.

        Raises:
            ValueError: When an id is none of this vocabulary.
        """
        require_ids(ids, len(self))
        return self._model.decode(ids, skip_special_tokens=False)

    def digest(self) -> str:
        """The SHA-256 of all that decides the ids."""
        return sha256(self.json.encode()).hexdigest()

    def to_json(self) -> str:
        """The tokenizer as `tokenizers` writes and reads it."""
        return self.json

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON, for `load_tokenizer` or for `tokenizers` itself.

        Raises:
            StoreError: When the file cannot be written; what was there before is untouched.
        """
        write_atomic(path, self.json.encode())

    @cached_property
    def _model(self) -> Any:  # noqa: ANN401 - the package may be missing
        package = _package()
        try:
            return package.Tokenizer.from_str(self.json)
        except Exception as error:  # the package raises no other class
            raise StoreError(
                f"this is no tokenizer that `tokenizers` can read ({error}); make it anew."
            ) from error


def _package() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise CDEQError(
            "subwords are found by `tokenizers`, which is missing; install cdeq[language], or "
            "take whole words."
        ) from error
    return tokenizers
