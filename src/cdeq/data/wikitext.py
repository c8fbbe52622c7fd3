"""WikiText-2 and WikiText-103: their official files, or Hugging Face's rows of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from cdeq.data.corpus import Corpus, make_corpus, replacing
from cdeq.data.lines import Lines, Progress
from cdeq.data.tokenizer import WordLevel
from cdeq.errors import CDEQError, StoreError

WikiTextName: TypeAlias = Literal["wikitext-2-v1", "wikitext-103-v1"]
HUB = "Salesforce/wikitext"


class _Published(NamedTuple):
    """What everybody counts, ends of lines included."""

    types: int
    train: int
    validation: int
    test: int


_PUBLISHED = {
    "wikitext-2-v1": _Published(33_278, 2_088_628, 217_646, 245_569),
    "wikitext-103-v1": _Published(267_735, 103_227_021, 217_646, 245_569),
}
_FILES = {part: f"wiki.{part}.tokens" for part in ("train", "validation", "test")}
_FILES["validation"] = "wiki.valid.tokens"


def read_wikitext(
    folder: str | Path,
    name: WikiTextName | None = None,
    *,
    download: bool = False,
    unfinished: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The words of `wiki.train.tokens`, `wiki.valid.tokens` and `wiki.test.tokens` as ids.

    The vocabulary is that of the training text. What the first start leaves (see `tokenise`) makes
    the next one a matter of milliseconds.

    Arguments:
        folder: Where the files are; a download makes it.
        name: Which set it is, to check that nothing is missing: 33,278 words in 2,088,628 +
            217,646 + 245,569 tokens, or 267,735 in 103,227,021 + 217,646 + 245,569. None takes
            any text in three such files.
        download: Whether missing files may be made from Hugging Face's rows; takes a name.
        unfinished: Whether files are taken as they are, even if they were cut off.
        cache: Where ids and vocabulary are kept if not in the folder, see `cache_folder`.
        progress: Told of every pass over a file.

    Raises:
        ValueError: When there is no such set, or a download lacks the name.
        StoreError: When a file is missing, cut off, not UTF-8, or not as long as published.
        CDEQError: When rows are to be fetched, and `datasets` is not installed or does not
            succeed.

    Example:
        >>> read_wikitext("nowhere")
        Traceback (most recent call last):
        ...
        cdeq.errors.StoreError: nowhere/wiki.train.tokens is missing; ...
    """
    folder = Path(folder)
    if (name is None and download) or (name is not None and name not in _PUBLISHED):
        raise ValueError(f"`name` is one of {list(get_args(WikiTextName))}; got {name!r}.")
    missing = [part for part, file in _FILES.items() if not (folder / file).is_file()]
    if missing and download:
        _download(folder, str(name), missing)
    elif missing:
        raise StoreError(
            f"{folder / _FILES[missing[0]]} is missing; unpack the archive of WikiText's "
            f"word-level files there, or allow it to be downloaded through cdeq[language]."
        )
    train, validation, test = (
        Lines(path=folder / file, unfinished=unfinished) for file in _FILES.values()
    )
    corpus = make_corpus(train, validation, test, WordLevel(), cache=cache, progress=progress)
    if name is not None and not unfinished:
        _check(corpus, name, folder)
    return corpus


def _check(corpus: Corpus, name: str, folder: Path) -> None:
    expected, found = _PUBLISHED[name], _Published(*map(len, corpus))
    if found != expected:
        raise StoreError(
            f"{name} is published with {expected.types:,} words in {expected.train:,} + "
            f"{expected.validation:,} + {expected.test:,} tokens; {folder} has {found.types:,} in "
            f"{found.train:,} + {found.validation:,} + {found.test:,}: get the files again, or "
            "give no name to take them as they are."
        )


def _download(folder: Path, name: str, parts: Iterable[str]) -> None:
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CDEQError(
            f"{name} is fetched by `datasets`, which is missing; install cdeq[language], or put "
            f"the official files into {folder}."
        ) from error
    try:
        rows: Any = load_dataset(HUB, name)
    except Exception as error:  # a hub out of reach fails in a dozen ways
        raise CDEQError(
            f"{name} could not be fetched ({type(error).__name__}: {error}); try again, or put "
            f"the official files into {folder}."
        ) from error
    for part in parts:
        _write_rows(folder / _FILES[part], rows[part])


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The official file, byte for byte: rows keep their ends, but empty lines lost their blank."""
    with replacing(path) as file:
        for row in rows:
            file.write((row["text"].removesuffix("\n") or " ").encode() + b"\n")
