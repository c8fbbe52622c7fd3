"""Ids kept on disk: those of the text or made anew, and never half of them."""

import os
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from cdeq.data import lines
from cdeq.data.corpus import fitted, make_corpus, replacing, tokenise
from cdeq.data.lines import Lines
from cdeq.data.tokenizer import Level, SubwordLevel, Tokenizer, WordLevel
from cdeq.data.vocabulary import Vocabulary
from cdeq.errors import StoreError

TEXT = "the cat saw it\nit saw the cat\nand so on\n" * 5
LEVELS = [WordLevel(), WordLevel(least=6), SubwordLevel(size=270)]
levels = pytest.mark.parametrize("level", LEVELS, ids=repr)


@dataclass
class Watched:
    """A way to make a vocabulary that says how often it was taken."""

    least: int = 1
    fits: list[int] = field(default_factory=list, repr=False)

    def fit(self, texts: Iterable[str]) -> Tokenizer:
        self.fits.append(1)
        return WordLevel(least=self.least).fit(texts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHUNK", 32)


def passes(path: Path, tokenizer: Tokenizer, cache: Path | None = None) -> tuple[list[int], int]:
    """The ids, and how many passes over the file they took."""
    ends: list[int] = []

    def progress(_: str, done: int, total: int) -> None:
        ends.extend([done] * (done == total))

    ids = tokenise(Lines(path=path), tokenizer, cache=cache, progress=progress)
    assert ids.dtype == torch.int32
    return ids.tolist(), len(ends)


@levels
def test_what_was_kept_is_what_is_made(path: Path, level: Level) -> None:
    tokenizer = level.fit([TEXT])
    wanted = tokenizer.encode(TEXT)
    assert [passes(path, tokenizer) for _ in range(3)] == [(wanted, 1), (wanted, 0), (wanted, 0)]
    assert sorted(file.name for file in path.parent.iterdir()) == ["text.txt", "text.txt.ids"]


def test_another_size_time_or_vocabulary_is_noticed(path: Path) -> None:
    small, large = WordLevel(least=6).fit([TEXT]), WordLevel(least=2).fit([TEXT])
    passes(path, large)
    time = path.stat().st_mtime_ns
    path.write_text(TEXT + "it\n")
    os.utime(path, ns=(time, time))
    assert passes(path, large) == (large.encode(TEXT + "it\n"), 1)
    path.write_text(TEXT + "on\n")
    os.utime(path, ns=(time, time + 1))
    assert passes(path, large) == (large.encode(TEXT + "on\n"), 1)
    assert passes(path, small) == (small.encode(TEXT + "on\n"), 1)
    assert passes(path, small)[1] == 0


@pytest.mark.parametrize("kept", [0, 7, 500, 1024, -1])
def test_a_damaged_file_of_ids_is_replaced(path: Path, kept: int) -> None:
    vocabulary = Vocabulary.of([TEXT])
    wanted, _ = passes(path, vocabulary)
    ids = path.with_name("text.txt.ids")
    ids.write_bytes(ids.read_bytes()[:kept])
    assert [passes(path, vocabulary) for _ in range(2)] == [(wanted, 1), (wanted, 0)]


def test_changing_the_ids_changes_no_file(path: Path) -> None:
    vocabulary = Vocabulary.of([TEXT])
    ids = tokenise(Lines(path=path), vocabulary)
    before = path.with_name("text.txt.ids").read_bytes()
    ids.zero_()
    assert path.with_name("text.txt.ids").read_bytes() == before
    assert passes(path, vocabulary) == (vocabulary.encode(TEXT), 0)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_pass_leaves_what_was_there(path: Path, stop: type[BaseException]) -> None:
    def progress(_: str, done: int, total: int) -> None:
        if done > total / 2:
            raise stop

    part, vocabulary = Lines(path=path), Vocabulary.of([TEXT])
    for act in (
        lambda: tokenise(part, vocabulary, progress=progress),
        lambda: fitted(part, WordLevel(), progress=progress),
        lambda: fitted(part, SubwordLevel(size=256), progress=progress),
    ):
        with pytest.raises(stop):
            act()
        assert [file.name for file in path.parent.iterdir()] == ["text.txt"]
    old = tokenise(part, vocabulary).tolist()
    with pytest.raises(stop):
        tokenise(part, Vocabulary.of([TEXT], least=6), progress=progress)
    assert passes(path, vocabulary) == (old, 0)


def test_an_unknown_word_names_the_file_and_leaves_nothing(path: Path) -> None:
    with pytest.raises(ValueError, match=r"text.txt: this vocabulary has no `<unk>`.*got 'and'"):
        tokenise(Lines(path=path), Vocabulary.of(["the cat saw it\n"]))
    assert [file.name for file in path.parent.iterdir()] == ["text.txt"]


def test_a_place_that_cannot_be_written_is_named(path: Path) -> None:
    path.with_name("text.txt.ids").mkdir()
    with pytest.raises(StoreError, match=r"could not write `.*text.txt.ids` \(Is a directory\)"):
        tokenise(Lines(path=path), Vocabulary.of([TEXT]))
    assert sorted(file.name for file in path.parent.iterdir()) == ["text.txt", "text.txt.ids"]


def test_files_of_one_name_are_kept_apart_in_one_folder(tmp_path: Path) -> None:
    """Even when they are equally long and old, as unpacked archives are."""
    vocabulary, cache = Vocabulary.of([TEXT]), tmp_path / "cache"
    for name, text in (("a", "the cat\n"), ("b", "cat the\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(text)
        os.utime(tmp_path / name / "text.txt", ns=(5, 5))
    for name, text in (("a", "the cat\n"), ("b", "cat the\n")):
        found = passes(tmp_path / name / "text.txt", vocabulary, cache)
        assert found == (vocabulary.encode(text), 1)
        assert [file.name for file in (tmp_path / name).iterdir()] == ["text.txt"]


def test_a_folder_that_cannot_be_written_is_left_alone(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != path.parent)
    vocabulary = Vocabulary.of([TEXT])
    assert [passes(path, vocabulary)[1] for _ in range(2)] == [1, 0]
    assert [file.name for file in path.parent.iterdir()] == ["text.txt"]
    assert [file.name for file in home.glob("cdeq/*/*")] == ["text.txt.ids"]


def test_memory_does_not_grow_with_the_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHUNK", 4096)
    peaks: list[int] = []
    for times in (1, 200, 3200):  # up to 400 kB, in words ten times that
        path.write_text(TEXT * times)
        tracemalloc.start()
        tokenise(Lines(path=path), fitted(Lines(path=path), WordLevel()))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1] < path.stat().st_size


def test_a_tokenizer_is_kept_while_text_and_level_stay(path: Path) -> None:
    level = Watched()
    first = [fitted(Lines(path=path), level) for _ in range(3)]
    assert first == [Vocabulary.of([TEXT])] * 3
    assert len(level.fits) == 1
    path.write_text(TEXT + "more\n")
    assert fitted(Lines(path=path), level) == Vocabulary.of([TEXT + "more\n"])
    assert len(level.fits) == 2
    fitted(Lines(path=path), Watched(least=2, fits=level.fits))
    assert len(level.fits) == 3


@pytest.mark.parametrize("kept", [0, 9, 100, -1])
def test_a_damaged_tokenizer_is_made_anew(path: Path, kept: int) -> None:
    level, file = Watched(), path.with_name("text.txt.vocabulary.json")
    fitted(Lines(path=path), level)
    file.write_bytes(file.read_bytes()[:kept])
    assert [fitted(Lines(path=path), level) for _ in range(2)] == [Vocabulary.of([TEXT])] * 2
    assert len(level.fits) == 2


@levels
def test_a_corpus_is_three_texts_and_the_tokenizer_of_the_first(path: Path, level: Level) -> None:
    texts = (TEXT, "so it saw\n", "the cat and it\n")
    files = [path.with_name(name) for name in ("one", "two", "three")]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    one, two, three = (Lines(path=file) for file in files)
    for _ in range(2):
        tokenizer, *parts = make_corpus(one, two, three, level)
        assert tokenizer == level.fit([TEXT])
        assert [part.tolist() for part in parts] == [tokenizer.encode(text) for text in texts]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"one", b"two"):
        with replacing(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"three")
        raise RuntimeError
    assert path.read_bytes() == b"two"
    assert [file.name for file in path.parent.iterdir()] == ["file"]
