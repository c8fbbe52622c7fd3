"""Words to ids and back, and what is refused."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from cdeq.data.tokenizer import load_tokenizer
from cdeq.data.vocabulary import Vocabulary
from cdeq.errors import StoreError

TEXT = " = Title = \n \n the cat saw the <unk> , the café\u2028 saw\tit . \n"
VOCABULARY = Vocabulary.of([TEXT])


def test_ids_come_back_whatever_they_are() -> None:
    ids = torch.randint(len(VOCABULARY), (500,)).tolist()
    assert VOCABULARY.encode(VOCABULARY.decode(ids)) == ids


def test_a_text_comes_back_with_its_lines_and_single_blanks() -> None:
    lines = [" ".join(line.split()) for line in TEXT.split("\n")]
    assert VOCABULARY.decode(VOCABULARY.encode(TEXT)) == "\n".join(lines)


@pytest.mark.parametrize("cut", [i for i, letter in enumerate(TEXT) if letter.isspace()])
def test_pieces_have_the_ids_of_the_whole(cut: int) -> None:
    pieces = VOCABULARY.encode(TEXT[:cut]) + VOCABULARY.encode(TEXT[cut:])
    assert pieces == VOCABULARY.encode(TEXT)
    assert Vocabulary.of([TEXT[:cut], TEXT[cut:]]) == VOCABULARY


def test_words_are_sorted_by_how_often_and_then_how_early_they_come() -> None:
    assert VOCABULARY.words == (
        *("<eos>", "the", "=", "saw"),
        *("Title", "cat", "<unk>", ",", "café", "it", "."),
    )


def test_a_random_text_is_counted_as_counting_says() -> None:
    words = [f"w{number}" for number in torch.randn(2000).mul(20).long().tolist()]
    text = "".join(word + (" " if word != "w7" else "\n") for word in words)
    counts = Counter([*words, *["<eos>"] * words.count("w7")])
    ids = torch.tensor(Vocabulary.of([text]).encode(text))
    assert len(ids) == counts.total()
    assert ids.bincount().tolist() == sorted(counts.values(), reverse=True)


@pytest.mark.parametrize("least", [2, 3, 5])
def test_rare_words_are_unknown_and_all_others_are_not(least: int) -> None:
    words = [f"w{number}" for number in torch.randn(500).mul(20).long().tolist()]
    text = " ".join(words) + "\n"
    vocabulary, counts = Vocabulary.of([text], least=least), Counter(words)
    kept = {word for word, count in counts.items() if count >= least}
    assert set(vocabulary.words) == kept | {"<unk>", "<eos>"}
    said = vocabulary.decode(vocabulary.encode(text)).split()
    assert said == [word if word in kept else "<unk>" for word in words]
    often = Counter(vocabulary.encode(text))
    assert [often[i] for i in range(len(vocabulary))] == sorted(often.values(), reverse=True)


def test_with_a_least_count_any_text_can_be_read() -> None:
    vocabulary = Vocabulary.of(["a a b b\n"], least=2)
    assert vocabulary.decode(vocabulary.encode("a new b\n")) == "a <unk> b\n"


def test_a_single_line_without_its_end_still_gives_a_vocabulary_with_ends() -> None:
    assert Vocabulary.of(["a b a"]).words == ("a", "b", "<eos>")


def test_an_unknown_word_needs_a_word_for_it() -> None:
    with pytest.raises(ValueError, match=r"no `<unk>`.* one of its 2; got 'new' and 1 other"):
        Vocabulary.of(["a\n"]).encode("a new one")


@pytest.mark.parametrize("wrong", [-1, 11, 100])
def test_ids_of_another_vocabulary_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"are 0 … 10; got {wrong}; use the one it was made"):
        VOCABULARY.decode([0, wrong])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "<eos>", "a"), r"each word once; got \['a'\] several times"),
        (("a", "b"), "`<eos>` among them; got none that is `<eos>`"),
        (("<eos>", "a b"), r"without white space.*got \['a b'\]"),
        (("<eos>", ""), r"without white space.*got \[''\]"),
    ],
)
def test_words_that_make_no_vocabulary_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(words)


def test_a_least_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`least` ≥ 1 occurrences on; got 0"):
        Vocabulary.of(["a\n"], least=0)


def test_a_saved_vocabulary_is_the_same(tmp_path: Path) -> None:
    VOCABULARY.save(tmp_path / "words.json")
    loaded = load_tokenizer(tmp_path / "words.json")
    assert loaded == VOCABULARY
    assert loaded.digest() == VOCABULARY.digest()
    assert [path.name for path in tmp_path.iterdir()] == ["words.json"]


def test_another_order_has_another_digest() -> None:
    assert Vocabulary(("a", "<eos>")).digest() != Vocabulary(("<eos>", "a")).digest()


@pytest.mark.parametrize("kept", [0, 1, 30, 100, -3])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "words.json"
    path.write_bytes(VOCABULARY.to_json().encode()[:kept])
    with pytest.raises(StoreError, match=r"words.json is damaged: this is no JSON"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"cat"', '"dog"', "is not what was once saved"),
        ('"cat",\n', "", "is not what was once saved"),
        ('"cat"', '"saw"', "this is no vocabulary"),
        ('"cat"', "7", "this is no vocabulary"),
        ('"digest"', '"other"', "this is no vocabulary"),
    ],
)
def test_a_changed_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path, text = tmp_path / "words.json", VOCABULARY.to_json()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(StoreError, match=rf"words.json is damaged: .*{message}"):
        load_tokenizer(path)


def test_a_file_of_other_bytes_or_none_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="bytes is damaged: 'utf-8'"):
        load_tokenizer(tmp_path / "bytes")
    with pytest.raises(StoreError, match=r"no tokenizer at .*nothing; give the file"):
        load_tokenizer(tmp_path / "nothing")
