"""Text whose segments come with the teacher's states of what stands before them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cdeq.atomic import write_atomic
from cdeq.data.indexed import Indices, to_device
from cdeq.data.streams import Streams
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
        rows = torch.as_tensor(indices)
        segment, stream = rows // self.text.streams, rows % self.text.streams
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
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> RememberedStreams:
    """The text with the memories of a teacher that reads it from the beginning.

    The states are kept in a file, which is read back, memory-mapped, where it was made by the same
    teacher of the same text. An interrupted reading leaves none.

    Arguments:
        teacher: A language model with an equilibrium.
        text: What it reads.
        path: The file; one beside it says what it was made of.
        identity: A digest of the teacher.
        samples: Read only as far as the first so many samples need; None reads everything.
        advance: Called with the segments done and those in all.
    """
    wanted = len(text) if samples is None else min(samples, len(text))
    segments = -(-wanted // text.streams)
    width = teacher.initial(teacher.encode(_segment(text, 0, teacher))).shape[-1]  # type: ignore[union-attr]
    shape = (segments, text.streams, text.length, width)
    made_of = json.dumps([identity, text.digest(), shape])
    note = path.with_name(f"{path.name}.json")
    if not (note.exists() and path.exists() and note.read_text() == made_of):
        note.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        _read(teacher, text, _mapped(path, shape), advance)
        write_atomic(note, made_of.encode())
    return RememberedStreams(text, _mapped(path, shape), wanted)


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The numbers of a file; made when it is missing or shorter."""
    size = torch.Size(shape).numel()
    return torch.from_file(str(path), shared=True, size=size, dtype=STORED).view(shape)


def _segment(text: Streams, index: int, teacher: EquilibriumModel) -> LanguageBatch:
    rows = torch.arange(text.streams) + index * text.streams
    return to_device(text.take(rows), teacher.device)


def _read(
    teacher: EquilibriumModel,
    text: Streams,
    states: Tensor,
    advance: Callable[[int, int], None],
) -> None:
    """Fill in the states of one segment after the other."""
    teacher.eval()
    memory = None
    for index, kept in enumerate(states):
        x = teacher.encode(teacher.recall(_segment(text, index, teacher), memory))
        z = teacher.deq(x, teacher.initial(x)).z
        assert isinstance(z, Tensor)
        memory = teacher.remember(z, x)
        kept.copy_(z)
        advance(index + 1, len(states))
