"""Text whose segments come with the teacher's states of what stands before them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cdeq.atomic import write_atomic
from cdeq.data.corpus import replacing
from cdeq.data.indexed import Indices, to_device
from cdeq.data.streams import Streams
from cdeq.errors import CDEQError
from cdeq.models.base import EquilibriumModel
from cdeq.models.language.batch import LanguageBatch

STORED = torch.float16
"""States of normalised features are about 1 in size, so that half precision keeps three digits."""


@dataclass(frozen=True)
class RememberedStreams:
    """Segments of a text with the memory that a teacher would have there.

    Without an order of their own: whoever has the memory can read segments in any order.

    Arguments:
        text: The text.
        states: The teacher's states, segment by segment of every stream; of a part of the text
            where there are fewer segments.
        samples: How many samples there are, at most those with a memory.
    """

    text: Streams
    states: Float[Tensor, "s b l d"]
    samples: int

    def __len__(self) -> int:
        return self.samples

    def take(self, indices: Indices) -> LanguageBatch:
        """The segments with these indices, and their memories."""
        batch, length = self.text.take(indices), self.text.length
        segment, stream = indices // self.text.streams, indices % self.text.streams
        places = segment.unsqueeze(1) * length - torch.arange(batch.past.shape[1], 0, -1)
        there = places.clamp_min(0)  # what is before the stream's start is not `known`
        found = self.states[there // length, stream.unsqueeze(1), there % length]
        return batch._replace(memory=torch.where(batch.known.unsqueeze(2), found.float(), 0.0))

    def digest(self) -> str:
        """That of the text; the teacher has its own."""
        return self.text.digest()


@torch.no_grad()
def remembered(
    teacher: EquilibriumModel,
    text: Streams,
    path: Path,
    *,
    identity: str,
    samples: int | None = None,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> RememberedStreams:
    """The text with the memories of a teacher that reads it from the beginning.

    The states are kept in a file, which is read back, memory-mapped, where it was made by the same
    teacher of the same text. An interrupted reading leaves what was there before.

    Arguments:
        teacher: A language model with an equilibrium.
        text: What it reads, with as many past tokens as the teacher remembers.
        path: The file; one beside it says what it was made of.
        identity: A digest of the teacher.
        samples: Read only as far as the first so many samples need, at least one; None reads
            everything.
        advance: Called with the segments done and those in all.

    Raises:
        ValueError: When no sample is asked for.
        CDEQError: When a state of the teacher's is not finite in half precision.
        StoreError: When the file cannot be written.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"`samples` counts those to read for, at least 1; got {samples}.")
    teacher.eval()
    wanted = len(text) if samples is None else min(samples, len(text))
    segments = -(-wanted // text.streams)
    width = teacher.initial(teacher.encode(_segment(text, 0, teacher))).shape[-1]  # type: ignore[union-attr]
    shape = (segments, text.streams, text.length, width)
    made_of = json.dumps([identity, text.digest(), shape]).encode()
    note = path.with_name(f"{path.name}.json")
    size = torch.Size(shape).numel()
    if not _holds(path, size) or not note.exists() or note.read_bytes() != made_of:
        with replacing(path) as file:
            for index, states in enumerate(_read(teacher, text, segments)):
                file.write(_stored(states, index).numpy().data)
                advance(index + 1, segments)
            note.unlink(missing_ok=True)  # before they are replaced: it describes no other states
        write_atomic(note, made_of)
    # shared, since a private mapping is refused where it is larger than the machine's memory
    held = torch.from_file(str(path), shared=True, size=size, dtype=STORED)
    return RememberedStreams(text, held.view(shape), wanted)


def _holds(path: Path, size: int) -> bool:
    """Whether there is a file of so many numbers, none of them cut off."""
    return path.exists() and path.stat().st_size == size * STORED.itemsize


def _segment(text: Streams, index: int, teacher: EquilibriumModel) -> LanguageBatch:
    rows = torch.arange(text.streams) + index * text.streams
    return to_device(text.take(rows), teacher.device)


def _read(teacher: EquilibriumModel, text: Streams, segments: int) -> Iterator[Tensor]:
    """The states of one segment after the other."""
    memory = None
    for index in range(segments):
        x = teacher.encode(teacher.recall(_segment(text, index, teacher), memory))
        z = teacher.deq(x, teacher.initial(x)).z
        assert isinstance(z, Tensor)
        memory = teacher.remember(z, x)
        yield z


def _stored(states: Tensor, index: int) -> Tensor:
    """The states of a segment as they are kept.

    Raises:
        CDEQError: When a number is not finite, or too large.
    """
    stored = states.to("cpu", STORED).contiguous()
    if not bool(stored.isfinite().all()):
        raise CDEQError(
            f"the teacher's states are kept in half precision, up to {torch.finfo(STORED).max:g}; "
            f"those of segment {index} go up to {float(states.abs().max()):g}: its solve diverges "
            "there, so train it to converge, or remember with another one."
        )
    return stored
