"""Reading in segments: the states, the memory and the price of reading everything at once."""

import pytest
import torch
from models.language.contracting import at_once, close, contracting, exactly, text_of
from torch import Tensor

from cdeq.data.streams import Streams
from cdeq.models.language.reading import Reading, read, read_on, solved, stepped


@pytest.mark.parametrize("segment", [1, 3, 7, 14, 64])
def test_segments_have_the_states_of_the_whole(segment: int) -> None:
    model, text = contracting(), text_of()
    reading = read(model, text, exactly(model), segment=segment)
    assert reading.missed == 0
    close(reading.memory[:, -14:], at_once(model, text)[0])
    assert torch.equal(reading.past[:, -14:], text)
    assert torch.equal(reading.past[reading.known], text.flatten())
    assert reading.known.sum(1).tolist() == [14] * 3


@pytest.mark.parametrize("memory", [0, 1, 3, 5, 40])
def test_the_memory_is_that_of_streams(memory: int) -> None:
    """Read as training and sweeps read, whatever of the text the memory still covers."""
    model, text = contracting(memory), text_of(rows=1, length=13)
    data, kept = Streams(text[0], streams=1, length=4, past=memory), None
    answer = exactly(model)
    with torch.no_grad():
        for index in range(len(data)):
            x = model.encode(model.recall(data.take(torch.tensor([index])), kept))
            kept = model.remember(answer(x, model.initial(x)).z, x)
    assert isinstance(kept, Tensor)
    reading = read(model, text[:, :12], answer, segment=4)
    close(reading.memory, kept)
    assert reading.known.sum() == min(memory, 12)


def test_reading_tells_how_far_it_is() -> None:
    model, said = contracting(), []
    read(model, text_of(length=7), exactly(model), segment=3, advance=lambda *at: said.append(at))
    assert said == [(1, 3), (2, 3), (3, 3)]


def test_reading_nothing_is_where_it_was() -> None:
    model, text = contracting(), text_of()
    reading = read(model, text, exactly(model))
    assert read(model, text[:, :0], exactly(model), after=reading) is reading


def test_features_of_a_segment_are_given_on() -> None:
    model, text = contracting(), text_of()
    start = Reading.start(model, len(text))
    reading, hidden = read_on(model, start, text, exactly(model))
    assert torch.equal(hidden, reading.memory[:, -14:])


def test_a_run_of_no_steps_costs_nothing() -> None:
    answer = stepped(lambda x, z: [])
    z = torch.ones(1, 1, 2)
    assert answer(None, z) == (z, 0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"tol": -1.0}, {"tol": 1e-20}], ids=str)
def test_an_answer_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"max_steps|tol"):
        solved(contracting(), **wrong)  # type: ignore[arg-type]
