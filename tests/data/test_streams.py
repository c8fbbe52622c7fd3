"""A text in streams: every token once, the next one as target, nothing of a neighbour."""

from itertools import chain
from pathlib import Path

import pytest
import torch

from cdeq.data.corpus import tokenise
from cdeq.data.lines import Lines
from cdeq.data.streams import Streams
from cdeq.data.vocabulary import Vocabulary

cases = pytest.mark.parametrize(
    ("size", "streams", "length", "past"),
    [
        (100, 1, 7, 0),
        (100, 3, 7, 4),
        (101, 4, 24, 30),
        (99, 4, 1, 3),
        (12, 3, 3, 5),
        (61, 5, 4, 4),
        (2, 1, 1, 1),
    ],
)


def streams_of(size: int, streams: int, length: int, past: int = 0) -> Streams:
    tokens = torch.randint(1, 1_000_000, (size,))
    return Streams(tokens, streams=streams, length=length, past=past)


def in_lists(data: Streams) -> list[list[int]]:
    """The streams by hand: as many whole segments as fit, and one token more."""
    each = len(data.tokens) // data.streams
    while (each - 1) % data.length:
        each -= 1
    return [data.tokens[s * each : (s + 1) * each].tolist() for s in range(data.streams)]


@cases
def test_read_in_order_the_samples_are_the_streams(
    size: int, streams: int, length: int, past: int
) -> None:
    data = streams_of(size, streams, length, past)
    by_hand = in_lists(data)
    batch = data.take(torch.arange(len(data)))
    for s, stream in enumerate(by_hand):
        assert list(chain(*batch.tokens[s::streams].tolist())) == stream[:-1]
        assert list(chain(*batch.target[s::streams].tolist())) == stream[1:]


@cases
def test_every_token_is_in_a_stream_once_or_left_out(
    size: int, streams: int, length: int, past: int
) -> None:
    data = streams_of(size, streams, length, past)
    batch = data.take(torch.arange(len(data)))
    assert data.scored == batch.target.numel()
    assert data.scored + data.left_out + streams == size
    assert data.left_out < streams * (length + 1)
    assert list(chain(*in_lists(data))) == data.tokens[: size - data.left_out].tolist()


@cases
def test_the_past_is_what_came_before_in_the_same_stream(
    size: int, streams: int, length: int, past: int
) -> None:
    data = streams_of(size, streams, length, past)
    by_hand = in_lists(data)
    batch = data.take(torch.arange(len(data)))
    assert batch.past.shape == batch.known.shape == (len(data), past)
    for i in range(len(data)):
        place = i // streams * length
        before = by_hand[i % streams][max(0, place - past) : place]
        unknown = past - len(before)
        assert batch.past[i].tolist() == [0] * unknown + before
        assert batch.known[i].tolist() == [False] * unknown + [True] * len(before)


@cases
def test_training_visits_every_sample_once_an_epoch_in_reading_order(
    size: int, streams: int, length: int, past: int
) -> None:
    data = streams_of(size, streams, length, past)
    steps = [data.order(s, batch_size=streams, seed=s) for s in range(3 * data.segments)]
    assert torch.cat(steps).tolist() == list(range(len(data))) * 3


@cases
def test_only_the_first_segments_know_nothing_before_them(
    size: int, streams: int, length: int, past: int
) -> None:
    data = streams_of(size, streams, length, max(1, past))
    rows = torch.randperm(len(data))
    assert torch.equal(data.starts(rows), ~data.take(rows).known.any(1))
    assert int(data.starts(rows).sum()) == streams


def test_samples_come_in_the_order_they_are_asked_for() -> None:
    data = streams_of(100, 3, 7, 4)
    rows = torch.randint(len(data), (20,))
    whole = data.take(torch.arange(len(data)))
    for found, wanted in zip(data.take(rows)[:4], whole[:4], strict=True):
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted[rows])


def test_ids_are_long_whatever_the_text_is() -> None:
    long = streams_of(100, 3, 7, 4)
    short = Streams(long.tokens.int(), streams=3, length=7, past=4)
    for one, other in zip(
        long.take(torch.arange(4))[:3], short.take(torch.arange(4))[:3], strict=True
    ):
        assert one.dtype == other.dtype == torch.int64
        assert torch.equal(one, other)
    assert long.digest() == short.digest()


def test_a_mapped_text_is_as_good_as_one_in_memory(tmp_path: Path) -> None:
    text = "the cat saw the other cat\n" * 20
    (tmp_path / "text").write_text(text)
    vocabulary = Vocabulary.of([text])
    mapped = tokenise(Lines(path=tmp_path / "text"), vocabulary)
    memory = torch.tensor(vocabulary.encode(text))
    one, other = (
        Streams(tokens, streams=3, length=5, past=2, types=len(vocabulary))
        for tokens in (mapped, memory)
    )
    assert one.digest() == other.digest()
    rows = torch.randperm(len(one))
    assert torch.equal(one.take(rows).target, other.take(rows).target)


def test_every_token_and_every_setting_counts_in_the_digest() -> None:
    data = streams_of(60, 2, 5, 1)
    digests = {data.digest()}
    for place in range(60):
        tokens = data.tokens.clone()
        tokens[place] += 1
        digests.add(Streams(tokens, streams=2, length=5, past=1).digest())
    for s, length, m in ((3, 5, 1), (2, 6, 1), (2, 5, 2)):
        digests.add(Streams(data.tokens, streams=s, length=length, past=m).digest())
    assert len(digests) == 64


@pytest.mark.parametrize("size", [1, 4, 5, 24, 25])
def test_another_batch_size_is_refused(size: int) -> None:
    data = streams_of(100, 6, 4)
    with pytest.raises(ValueError, match=f"is the number of streams, 6; got {size}"):
        data.order(0, batch_size=size, seed=0)


@pytest.mark.parametrize("row", [-1, 24])
def test_a_sample_that_is_not_there_is_refused(row: int) -> None:
    data = streams_of(100, 6, 4)
    assert len(data) == 18
    with pytest.raises(IndexError, match=rf"samples are 0 … 17; got \[0, {row}\]"):
        data.take(torch.tensor([0, row]))


@pytest.mark.parametrize("size", [0, 1, 39])
def test_too_short_a_text_is_refused_with_the_numbers(size: int) -> None:
    with pytest.raises(ValueError, match=f"8 streams takes 40 tokens; .* has {size}:"):
        streams_of(size, 8, 4)
    assert len(streams_of(40, 8, 4)) == 8


@pytest.mark.parametrize(("lowest", "highest"), [(-1, 5), (0, 9), (0, 10)])
def test_ids_out_of_the_vocabulary_are_refused(lowest: int, highest: int) -> None:
    tokens = torch.tensor([3, lowest, highest, 3])
    with pytest.raises(ValueError, match=f", 9; .* ids from {lowest} to {highest}:"):
        Streams(tokens, streams=1, length=2, types=9)
    assert len(Streams(tokens.clamp(0, 8), streams=1, length=2, types=9)) == 1


@pytest.mark.parametrize(
    ("name", "value", "least"), [("streams", 0, 1), ("length", 0, 1), ("past", -1, 0)]
)
def test_counts_below_their_least_are_refused(name: str, value: int, least: int) -> None:
    settings = {"streams": 1, "length": 1, "past": 0} | {name: value}
    with pytest.raises(ValueError, match=f"`{name}` is at least {least}; got {value}"):
        Streams(torch.arange(9), **settings)


@pytest.mark.parametrize("tokens", [torch.zeros(9), torch.zeros(3, 3, dtype=torch.int64)])
def test_what_is_no_text_is_refused(tokens: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="one long row of int32 or int64 ids; got shape"):
        Streams(tokens, streams=1, length=1)
