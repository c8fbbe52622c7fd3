"""Subwords of the user's own text: nothing of a text is lost."""

import sys
from pathlib import Path

import pytest
import tokenizers

from cdeq.data.subwords import Subwords
from cdeq.data.tokenizer import SubwordLevel, load_tokenizer
from cdeq.errors import CDEQError, StoreError

TEXT = "the lower the lowest,\n\nthe slower  the slowest of the slow\r\n" * 5
SUBWORDS = Subwords.of([TEXT], size=270)

TEXTS = ["", "\n\n\n", "the slow", " Ångström\t𝄞 \r\n\u2028\x00 x\n\n y ", TEXT]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back_to_the_last_blank(text: str) -> None:
    assert SUBWORDS.decode(SUBWORDS.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_whole_lines_have_the_ids_of_the_whole(text: str) -> None:
    lines = [line + "\n" for line in text.split("\n")]
    pieces = [number for line in lines for number in SUBWORDS.encode(line)]
    assert pieces == SUBWORDS.encode(text + "\n")


def test_the_same_text_gives_the_same_subwords_however_it_comes() -> None:
    lines = [line + "\n" for line in TEXT.split("\n")[:-1]]
    assert Subwords.of(lines, size=270) == SUBWORDS
    assert Subwords.of(lines, size=269).digest() != SUBWORDS.digest()


@pytest.mark.parametrize("size", [256, 257, 274])
def test_a_vocabulary_is_as_large_as_asked_for(size: int) -> None:
    assert len(SubwordLevel(size=size).fit([TEXT])) == size


def test_a_text_without_more_pairs_gives_fewer() -> None:
    assert len(Subwords.of(["ab\n", "ab\n"], size=999)) == 257


def test_more_subwords_make_a_shorter_text() -> None:
    lengths = [len(Subwords.of([TEXT], size=size).encode(TEXT)) for size in (256, 262, 270)]
    assert lengths[0] == len(TEXT.encode()) > lengths[1] > lengths[2]


def test_the_saved_file_is_one_that_the_package_reads(tmp_path: Path) -> None:
    SUBWORDS.save(tmp_path / "subwords.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "subwords.json"))
    assert theirs.encode("the slowest").ids == SUBWORDS.encode("the slowest")
    assert load_tokenizer(tmp_path / "subwords.json") == SUBWORDS


@pytest.mark.parametrize("kept", [0, 9, 1000, -1])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "subwords.json"
    path.write_text(SUBWORDS.json[:kept])
    with pytest.raises(StoreError, match=r"subwords.json is damaged: this is no JSON"):
        load_tokenizer(path)


def test_json_of_something_else_is_refused() -> None:
    with pytest.raises(StoreError, match="no tokenizer that `tokenizers` can read"):
        Subwords("[1, 2]")


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="`size` is at least 256; got 255"):
        Subwords.of([TEXT], size=255)


@pytest.mark.parametrize("wrong", [-1, 270])
def test_ids_of_another_vocabulary_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"are 0 … 269; got {wrong}"):
        SUBWORDS.decode([0, wrong])


def test_a_prompt_that_was_not_utf8_is_refused() -> None:
    prompt = b"caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(ValueError, match=r"got '\\udce9' at position 3; give it as UTF-8"):
        SUBWORDS.encode(prompt)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(CDEQError, match=r"`tokenizers`, which is missing; install cdeq\[lang"):
        Subwords.of([TEXT], size=256)
    with pytest.raises(CDEQError, match=r"install cdeq\[language\]"):
        Subwords(SUBWORDS.json)
