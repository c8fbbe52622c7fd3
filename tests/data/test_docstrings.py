"""The text that every Python has: always the same one, in three parts, of words."""

import re

import pytest
from torch import Tensor

from cdeq.data import docstrings
from cdeq.data.corpus import Corpus
from cdeq.data.docstrings import LEAST, TEST, TRAIN, VALIDATION, docstring_corpus
from cdeq.errors import CDEQError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return docstring_corpus()


def parts(corpus: Corpus) -> tuple[Tensor, Tensor, Tensor]:
    return corpus.train, corpus.validation, corpus.test


def test_it_is_always_the_same(corpus: Corpus) -> None:
    again = docstring_corpus()
    assert again.tokenizer.digest() == corpus.tokenizer.digest()
    assert [part.tolist() for part in parts(again)] == [part.tolist() for part in parts(corpus)]


def test_it_is_as_large_as_it_says(corpus: Corpus) -> None:
    train, validation, test = (len(part) for part in parts(corpus))
    assert 100_000 < train + validation + test < 150_000
    assert 8_000 < validation < 15_000
    assert 8_000 < test < 15_000
    assert 2_000 < len(corpus.tokenizer) < 3_000


def test_no_module_is_in_two_parts() -> None:
    names = TRAIN + VALIDATION + TEST
    assert len(names) == len(set(names)) == 57


def test_every_word_is_one_that_the_training_part_repeats(corpus: Corpus) -> None:
    counts = corpus.train.bincount(minlength=len(corpus.tokenizer))
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert int(counts.min()) >= LEAST


@pytest.mark.parametrize("part", [0, 1, 2])
def test_most_words_are_known_and_none_is_written_in_capitals(corpus: Corpus, part: int) -> None:
    words = corpus.tokenizer.decode(parts(corpus)[part].tolist()).split()
    unknown = words.count("<unk>")
    assert 0 < unknown < 0.1 * len(words)
    written = (word for word in words if word != "<unk>")
    assert all(re.fullmatch(r"[a-z]+|[0-9]+|[^\sA-Za-z0-9]", word) for word in written)


def test_no_paragraph_is_an_example(corpus: Corpus) -> None:
    assert "> > >" not in corpus.tokenizer.decode(corpus.train.tolist())


def test_a_python_without_sources_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "find_spec", lambda name: None)
    with pytest.raises(CDEQError, match="docstrings of `_pyio` are read from its source"):
        docstring_corpus()
