"""A teacher's memory of a text: what reading in order gives, for segments in any order."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from models.language.small import WORDS, model_of
from torch import Tensor

from cdeq.data.indexed import OrderedData
from cdeq.data.remembered import RememberedStreams, remembered
from cdeq.data.streams import Streams
from cdeq.errors import CDEQError, StoreError
from cdeq.models.language.deq_transformer import DEQTransformer

cuts = pytest.mark.parametrize(
    ("streams", "length", "past"),
    [(2, 5, 3), (3, 4, 4), (2, 3, 8), (1, 2, 5), (4, 1, 3), (2, 6, 0)],
    ids=["shorter", "equal", "longer", "much-longer", "single", "none"],
)


def text_of(streams: int = 2, length: int = 5, past: int = 3, size: int = 53) -> Streams:
    tokens = torch.randint(WORDS, (size,), generator=torch.Generator().manual_seed(0))
    return Streams(tokens, streams=streams, length=length, past=past, types=WORDS)


def teacher_of(past: int = 3, **changes: object) -> DEQTransformer:
    return model_of(memory=past, max_steps=6, **changes).float()


class Progress:
    """Whoever is told of the reading."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))


def reading(
    path: Path, text: Streams, teacher: DEQTransformer, **options: object
) -> tuple[RememberedStreams, int]:
    """The memories, and for how many segments they had to be computed."""
    told = Progress()
    settings = {"identity": "a", "advance": told, **options}
    return remembered(teacher, text, path / "memory" / "train", **settings), len(told.seen)


@torch.no_grad()
def in_order(teacher: DEQTransformer, text: Streams) -> tuple[Tensor, Tensor]:
    """The memory of every sample, and its answer, when the text is read from the beginning."""
    memory, memories, answers = None, [], []
    for rows in torch.arange(len(text)).split(text.streams):
        batch = text.take(rows)
        unknown = torch.zeros(*batch.past.shape, teacher.spec.features)
        memories.append(unknown if memory is None else memory)
        x = teacher.encode(teacher.recall(batch, memory))
        z = teacher.deq(x, teacher.initial(x)).z
        memory = teacher.remember(z, x)
        answers.append(teacher.decode(z, x))
    return torch.cat(memories), torch.cat(answers)


@cuts
def test_a_memory_is_what_reading_in_order_gives(
    streams: int, length: int, past: int, tmp_path: Path
) -> None:
    """To the last bit of half precision, zeros where nothing is known included."""
    text, teacher = text_of(streams, length, past), teacher_of(past)
    data, computed = reading(tmp_path, text, teacher)
    assert (len(data), computed) == (len(text), text.segments)
    expected, _ = in_order(teacher, text)
    batch = data.take(torch.arange(len(data)))
    assert torch.equal(batch.memory, expected.half().float())
    for mine, theirs in zip(batch[:4], text.take(torch.arange(len(data))), strict=False):
        assert torch.equal(mine, theirs)
    assert bool((batch.memory[batch.known] != 0).all())


@cuts
def test_answers_are_those_of_reading_in_order(
    streams: int, length: int, past: int, tmp_path: Path
) -> None:
    text, teacher = text_of(streams, length, past), teacher_of(past)
    data, _ = reading(tmp_path, text, teacher)
    _, expected = in_order(teacher, text)
    with torch.no_grad():
        answers = teacher(data.take(torch.arange(len(data))))
    torch.testing.assert_close(answers, expected, rtol=0.0, atol=5e-3)


@cuts
def test_samples_come_in_any_order(streams: int, length: int, past: int, tmp_path: Path) -> None:
    text = text_of(streams, length, past)
    data, _ = reading(tmp_path, text, teacher_of(past))
    whole = data.take(torch.arange(len(data)))
    rows = torch.randint(len(data), (9,), generator=torch.Generator().manual_seed(1))
    for part, everything in zip(data.take(rows), whole, strict=True):
        assert torch.equal(part, everything[rows])
    assert not isinstance(data, OrderedData)
    assert isinstance(text, OrderedData)


@pytest.mark.parametrize("samples", [1, 2, 3, 8, 999])
def test_no_more_is_read_than_is_asked_for(samples: int, tmp_path: Path) -> None:
    text, teacher = text_of(), teacher_of()
    whole, _ = reading(tmp_path / "whole", text, teacher)
    part, computed = reading(tmp_path / "part", text, teacher, samples=samples)
    wanted = min(samples, len(text))
    assert (len(part), computed) == (wanted, -(-wanted // text.streams))
    rows = torch.arange(wanted)
    assert torch.equal(part.take(rows).memory, whole.take(rows).memory)


def test_progress_is_told_segment_by_segment(tmp_path: Path) -> None:
    text, told = text_of(), Progress()
    remembered(teacher_of(), text, tmp_path / "a", identity="a", advance=told)
    assert told.seen == [(done + 1, text.segments) for done in range(text.segments)]


def test_dropout_has_no_part_in_it(tmp_path: Path) -> None:
    text, teacher = text_of(), teacher_of(dropout=0.5, word_dropout=0.5)
    plain, _ = reading(tmp_path / "a", text, teacher)
    other, _ = reading(tmp_path / "b", text, teacher.train())
    assert torch.equal(plain.states, other.states)
    assert not plain.states.requires_grad


# The file


def files(path: Path) -> list[str]:
    return sorted(each.name for each in chain(path.glob("memory/*"), path.glob("memory/.*")))


def test_it_is_read_back_while_everything_is_the_same(tmp_path: Path) -> None:
    text, teacher = text_of(), teacher_of()
    first, _ = reading(tmp_path, text, teacher)
    again, computed = reading(tmp_path, text, teacher)
    assert computed == 0
    assert torch.equal(again.states, first.states)
    assert again.digest() == text.digest()
    assert files(tmp_path) == ["train", "train.json"]


CHANGES: dict[str, Callable[[Path], dict[str, object]]] = {
    "teacher": lambda folder: {"identity": "b"},
    "part": lambda folder: {"samples": 4},
    "text": lambda folder: {"text": replace(text_of(), tokens=text_of().tokens.flip(0))},
    "cutting": lambda folder: {"text": text_of(streams=1, length=10)},
    "note": lambda folder: (folder / "train.json").unlink() or {},
    "note-damaged": lambda folder: (folder / "train.json").write_bytes(bytes([255])) and {},
    "cut-off": lambda folder: cut(folder / "train", -2) or {},
    "emptied": lambda folder: cut(folder / "train", 0) or {},
    "too-long": lambda folder: cut(folder / "train", 2) or {},
    "missing": lambda folder: (folder / "train").unlink() or {},
}


def cut(path: Path, more: int) -> None:
    """Shorten a file by some bytes, to nothing with 0, or make it longer."""
    content = path.read_bytes()
    path.write_bytes(content + bytes(more) if more > 0 else content[:more])


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_it_is_read_anew_when_something_is_not(change, tmp_path: Path) -> None:
    text, teacher = text_of(), teacher_of()
    reading(tmp_path, text, teacher)
    options: dict[str, object] = {"text": text} | change(tmp_path / "memory")
    found, computed = reading(tmp_path, teacher=teacher, **options)
    clean, needed = reading(tmp_path / "clean", teacher=teacher, **options)
    assert computed == needed > 0
    assert torch.equal(found.states, clean.states)
    assert files(tmp_path) == ["train", "train.json"]
    assert reading(tmp_path, teacher=teacher, **options)[1] == 0


def test_an_interrupted_reading_leaves_what_was_there_before(tmp_path: Path) -> None:
    text, teacher = text_of(), teacher_of()

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reading(tmp_path, text, teacher, advance=stop)
        assert files(tmp_path) == []
    assert reading(tmp_path, text, teacher)[1] == text.segments
    with pytest.raises(KeyboardInterrupt):
        reading(tmp_path, text, teacher, advance=stop, identity="b")
    assert reading(tmp_path, text, teacher)[1] == 0


def test_a_note_never_describes_other_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the writing stops between the two files."""
    text, teacher, other = text_of(), teacher_of(), teacher_of(norm="pre")
    first, _ = reading(tmp_path, text, teacher)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("cdeq.data.remembered.write_atomic", lambda path, content: 1 / 0)
        reading(tmp_path, text, other, identity="b")
    again, computed = reading(tmp_path, text, teacher)
    assert computed == text.segments
    assert torch.equal(again.states, first.states)


def test_who_reads_on_keeps_what_was_read(tmp_path: Path) -> None:
    """A file that is made anew takes nothing from those who look at the one before."""
    text, teacher = text_of(), teacher_of()
    first, _ = reading(tmp_path, text, teacher)
    before = first.states.clone()
    second, _ = reading(tmp_path, text, teacher_of(norm="pre"), identity="b")
    assert torch.equal(first.states, before)
    assert not torch.equal(second.states, before)


# Misuse


def test_somebody_has_to_be_read_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`samples` counts those to read for, at least 1; got 0"):
        reading(tmp_path, text_of(), teacher_of(), samples=0)


def test_a_text_tells_as_much_as_the_teacher_remembers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a memory has one state for each past token"):
        reading(tmp_path, text_of(past=2), teacher_of(past=3))
    assert files(tmp_path) == []


@pytest.mark.parametrize("size", [1e6, float("inf"), float("nan")])
def test_states_that_half_precision_does_not_hold_are_refused(size: float, tmp_path: Path) -> None:
    teacher = teacher_of()
    with torch.no_grad():
        teacher.deq.cell.norms[1].weight.fill_(size)
    with pytest.raises(CDEQError, match=r"half precision, up to 65504; those of segment 0 go up"):
        reading(tmp_path, text_of(), teacher)
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file")
    with pytest.raises(StoreError, match="could not write"):
        reading(tmp_path, text_of(), teacher_of())
