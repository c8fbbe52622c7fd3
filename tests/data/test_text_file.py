"""A user's own text: its parts are the text, and only the first one makes the vocabulary."""

from pathlib import Path

import pytest

from cdeq.data.text_file import read_text
from cdeq.data.tokenizer import Level, SubwordLevel, WordLevel
from cdeq.errors import StoreError

LINES = [f"line {number % 7} says {'word' * (number % 3)}\n" for number in range(200)]
LEVELS = [WordLevel(least=2), SubwordLevel(size=300)]
levels = pytest.mark.parametrize("level", LEVELS, ids=repr)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "own.txt"
    path.write_text("".join(LINES))
    return path


@levels
def test_the_parts_of_one_file_are_all_of_it(path: Path, level: Level) -> None:
    tokenizer, *parts = read_text(path, level=level)
    texts = [tokenizer.decode(part.tolist()) for part in parts]
    whole = "".join(LINES)
    assert "".join("".join(texts).split(" ")) == "".join(whole.split(" "))
    shares = [len(text) / len("".join(texts)) for text in texts]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.01)
    assert all(text.endswith("\n") for text in texts)


def test_words_of_the_other_parts_are_unknown(path: Path) -> None:
    path.write_text("".join(LINES) + "news news news\n" * 3)
    corpus = read_text(path)
    assert corpus.tokenizer.decode(corpus.test[-4:].tolist()) == "<unk> <unk> <unk>\n"


@levels
def test_three_files_are_the_three_parts(path: Path, level: Level) -> None:
    select, report = path.with_name("select.txt"), path.with_name("report.txt")
    select.write_text("line 3 says line 4\n")
    report.write_text("line 5 says line 6\n")
    tokenizer, *parts = read_text(path, validation=select, test=report, level=level)
    assert tokenizer == level.fit(LINES)
    assert [part.tolist() for part in parts] == [
        tokenizer.encode(text) for text in ("".join(LINES), select.read_text(), report.read_text())
    ]


@levels
def test_the_end_of_the_last_line_may_be_missing(path: Path, level: Level) -> None:
    path.write_text("".join(LINES)[:-1])
    corpus = read_text(path, level=level)
    assert corpus.tokenizer.decode(corpus.test.tolist()).endswith("says word")
    assert not corpus.tokenizer.decode(corpus.test.tolist()).endswith("\n")


@levels
def test_a_second_start_reads_no_text(path: Path, level: Level) -> None:
    told: list[str] = []
    first, second = (
        read_text(path, level=level, progress=lambda what, done, total: told.append(what))
        for _ in range(2)
    )
    assert told == [
        "counting own.txt.0-0.9",
        *(f"tokenising own.txt.{part}" for part in ("0-0.9", "0.9-0.95", "0.95-1")),
    ]
    assert [part.tolist() for part in first[1:]] == [part.tolist() for part in second[1:]]


def test_two_files_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="as one file or as three; got two: give both"):
        read_text(path, test=path)
    with pytest.raises(ValueError, match="as one file or as three; got two: give both"):
        read_text(path, validation=path)


def test_words_that_the_level_leaves_out_are_refused(path: Path) -> None:
    path.write_text("".join(LINES) + "news\n" * 10)
    with pytest.raises(ValueError, match=r"own.txt: this vocabulary has no `<unk>`.*got 'news'"):
        read_text(path, level=WordLevel())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "own.txt holds no words between 0% and 90%"),
        (b"all in one line", "own.txt holds no words between 90% and 95%"),
        (b"a\nb\nc\n", "own.txt holds no words between 90% and 95%"),
        (b"caf\xe9\n" * 50, r"own.txt is no text in UTF-8: byte 0xe9 at offset 3 \(line 1\)"),
    ],
)
def test_bad_texts_are_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match=message):
        read_text(path)


def test_a_missing_file_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the text .*no.txt cannot be read \(No such file"):
        read_text(tmp_path / "no.txt")
    assert not list(tmp_path.iterdir())
