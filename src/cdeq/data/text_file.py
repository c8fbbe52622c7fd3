"""A user's own text: one file in three parts, or three files."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from cdeq.data.corpus import Corpus, make_corpus
from cdeq.data.lines import Lines, Progress
from cdeq.data.tokenizer import Level, WordLevel

SHARES = (0.0, 0.9, 0.95, 1.0)
"""Where the parts of a single file begin and end."""


def read_text(
    path: str | Path,
    *,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    level: Level = WordLevel(least=2),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The ids of a text; what the first start leaves makes the next one quick (see `tokenise`).

    A single file is cut at ends of lines: the first 90 % of its bytes to fit, 5 % to select, and
    the last 5 % to report. Its last line may lack its end, as editors leave it.

    Arguments:
        path: The text in UTF-8, or the training part of it.
        validation: The text to select on; with it, `test` too.
        test: The text to report.
        level: How the training part makes the tokenizer: of words (by default those seen twice,
            others are `<unk>`), or of subwords.
        cache: Where ids and tokenizer are kept if not beside the files, see `cache_folder`.
        progress: Told of every pass over a file.

    Raises:
        ValueError: When one of `validation` and `test` is given alone, or words are unknown and
            the level leaves no `<unk>`.
        StoreError: When a file is missing, not UTF-8, or one of the parts has no words.
        CDEQError: When subwords are wanted, and `tokenizers` is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "text.txt")
        ...     _ = path.write_text("so it goes\\n" * 99 + "and on\\n")
        ...     corpus = read_text(path)
        >>> corpus.tokenizer.decode(corpus.test.tolist())
        'so it goes\\nso it goes\\nso it goes\\nso it goes\\n<unk> <unk>\\n'
    """
    if (validation is None) != (test is None):
        raise ValueError(
            "a text comes as one file or as three; got two: give both `validation` and `test`, "
            "or neither."
        )
    if validation is None or test is None:
        whole = Lines(path=Path(path), unfinished=True)
        parts = [replace(whole, since=since, until=until) for since, until in pairwise(SHARES)]
    else:
        parts = [Lines(path=Path(file), unfinished=True) for file in (path, validation, test)]
    fit, select, report = parts
    return make_corpus(fit, select, report, level, cache=cache, progress=progress)
