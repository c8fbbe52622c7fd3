"""WikiText from its files and from Hugging Face's rows: the same ids."""

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from cdeq.data.wikitext import read_wikitext
from cdeq.errors import CDEQError, StoreError

TEXTS = {
    "train": " \n = Cats = \n \n The <unk> saw the cat , the other saw it . \n",
    "valid": " \n the cat saw it . \n",
    "test": " \n the other <unk> , the cat . \n \n \n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, text in TEXTS.items():
        (tmp_path / f"wiki.{part}.tokens").write_text(text)
    return tmp_path


def test_every_word_and_every_end_of_a_line_is_a_token(folder: Path) -> None:
    corpus = read_wikitext(folder)
    words = {part: text.replace("\n", " <eos> ").split() for part, text in TEXTS.items()}
    counts = Counter(words["train"])
    assert corpus.tokenizer.decode(range(len(counts))).split() == [
        word for word, _ in counts.most_common() if word != "<eos>"
    ]
    assert [len(part) for part in corpus] == [len(counts), *map(len, words.values())]
    for ids, text in zip(corpus[1:], TEXTS.values(), strict=True):
        lines = [" ".join(line.split()) for line in text.split("\n")]
        assert corpus.tokenizer.decode(ids.tolist()) == "\n".join(lines)


def test_a_second_start_reads_no_text(folder: Path) -> None:
    told: list[str] = []
    first, second = (
        read_wikitext(folder, progress=lambda what, done, total: told.append(what))
        for _ in range(2)
    )
    assert told == [
        "counting wiki.train.tokens",
        *(f"tokenising wiki.{part}.tokens" for part in TEXTS),
    ]
    assert [ids.tolist() for ids in first[1:]] == [ids.tolist() for ids in second[1:]]
    assert first.tokenizer == second.tokenizer


def test_ids_can_be_kept_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("cache")
    corpus = read_wikitext(folder, cache=elsewhere)
    assert len(list(folder.iterdir())) == 3
    assert len(list(elsewhere.glob("*/*"))) == 4
    assert corpus.test.tolist() == read_wikitext(folder).test.tolist()


@pytest.mark.parametrize("part", TEXTS)
def test_a_missing_file_is_named_and_nothing_is_written(folder: Path, part: str) -> None:
    (folder / f"wiki.{part}.tokens").unlink()
    with pytest.raises(StoreError, match=rf"wiki.{part}.tokens is missing; unpack .*\[language\]"):
        read_wikitext(folder)
    assert len(list(folder.iterdir())) == 2


def test_a_cut_file_is_refused_or_accepted(folder: Path) -> None:
    path = folder / "wiki.train.tokens"
    path.write_text(TEXTS["train"][:-7])
    for _ in range(2):
        with pytest.raises(StoreError, match=r"train.tokens ends in the middle of a line"):
            read_wikitext(folder)
        accepted = read_wikitext(folder, unfinished=True)
        text = accepted.tokenizer.decode(accepted.train.tolist())
        assert text.endswith("the other saw")


@pytest.mark.parametrize("name", ["wikitext-2-v1", "wikitext-103-v1"])
def test_another_text_is_not_taken_for_the_published_one(folder: Path, name) -> None:
    with pytest.raises(StoreError, match=rf"{name} is published with .* has 12 in 18 \+ 7 \+ 11:"):
        read_wikitext(folder, name)
    assert len(read_wikitext(folder, name, unfinished=True).train) == 18


@pytest.mark.parametrize(("name", "download"), [("wikitext-2", False), (None, True)])
def test_sets_have_names(folder: Path, name, download: bool) -> None:
    with pytest.raises(ValueError, match=rf"one of \['wikitext-2-v1', .*; got {name!r}"):
        read_wikitext(folder, name, download=download)


class FakeHub(ModuleType):
    """The package `datasets`, its hub in memory; rows as the real one has them."""

    def __init__(self) -> None:
        super().__init__("datasets")
        self.asked: list[tuple[str, ...]] = []

    def load_dataset(self, *names: str) -> dict[str, list[dict[str, str]]]:
        self.asked.append(names)
        return {
            {"valid": "validation"}.get(part, part): [
                {"text": line if line.strip() else ""} for line in text.splitlines(keepends=True)
            ]
            for part, text in TEXTS.items()
        }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub()
    monkeypatch.setitem(sys.modules, "datasets", hub)
    return hub


def test_rows_make_the_official_files(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    for _ in range(2):
        corpus = read_wikitext(folder, "wikitext-2-v1", download=True, unfinished=True)
        assert len(corpus.train) == 18
    assert hub.asked == [("Salesforce/wikitext", "wikitext-2-v1")]
    for part, text in TEXTS.items():
        assert (folder / f"wiki.{part}.tokens").read_text() == text


def test_files_that_are_there_are_not_fetched(hub: FakeHub, folder: Path) -> None:
    own = " the cat \n"
    (folder / "wiki.valid.tokens").unlink()
    (folder / "wiki.test.tokens").write_text(own)
    read_wikitext(folder, "wikitext-2-v1", download=True, unfinished=True)
    assert (folder / "wiki.valid.tokens").read_text() == TEXTS["valid"]
    assert (folder / "wiki.test.tokens").read_text() == own
    assert len(hub.asked) == 1


def test_a_hub_out_of_reach_leaves_nothing(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "load_dataset", fail)
    with pytest.raises(CDEQError, match=r"could not be fetched \(ConnectionError: no route\)"):
        read_wikitext(tmp_path / "new", "wikitext-2-v1", download=True)
    assert not (tmp_path / "new").exists()


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CDEQError, match=r"`datasets`, which is missing; install cdeq\[language\]"):
        read_wikitext(tmp_path, "wikitext-2-v1", download=True)
