"""Where a recipe's text comes from: files that are named, or Python's own documentation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cdeq.data.corpus import Corpus
from cdeq.data.docstrings import docstring_corpus
from cdeq.data.lines import Progress
from cdeq.data.text_file import read_text
from cdeq.data.tokenizer import SubwordLevel, WordLevel
from cdeq.data.wikitext import WikiTextName, read_wikitext
from cdeq.recipes.data_root import data_root, looking_in
from cdeq.recipes.kept import Kept


@dataclass(frozen=True, kw_only=True)
class WikiTextSource:
    """WikiText-2 or WikiText-103, as words.

    Arguments:
        name: Which of them.
        root: The folder that holds its own, wikitext-2 or wikitext-103; `CDEQ_DATA` by default.
        download: Fetch it through Hugging Face `datasets` where it is not there.
    """

    name: WikiTextName = "wikitext-2-v1"
    root: Path = field(default_factory=data_root)
    download: bool = False

    def load(self, progress: Progress | None = None) -> Corpus:
        """Its three parts."""
        folder = self.root / self.name.removesuffix("-v1")
        with looking_in(self.root):
            return read_wikitext(folder, self.name, download=self.download, progress=progress)


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A text of one's own, in UTF-8.

    Arguments:
        path: The text, or the training part of it.
        validation: The part to select on; None takes 5 % of the text.
        test: The part to report; None takes 5 % of the text.
        subwords: How many subwords to make of the text; None takes words seen twice.
    """

    path: Path = Path("text.txt")
    validation: Path | None = None
    test: Path | None = None
    subwords: int | None = None

    def load(self, progress: Progress | None = None) -> Corpus:
        """Its three parts."""
        words, size = WordLevel(least=2), self.subwords
        level = words if size is None else SubwordLevel(size=size)
        return read_text(
            self.path, validation=self.validation, test=self.test, level=level, progress=progress
        )


@dataclass(frozen=True, kw_only=True)
class DocumentationSource:
    """What Python's own library says of itself."""

    def load(self, progress: Progress | None = None) -> Corpus:
        """Its three parts."""
        return docstring_corpus()


Source: TypeAlias = WikiTextSource | TextSource | DocumentationSource


loaded: Kept[Corpus] = Kept()
"""Gives the text of a source."""
