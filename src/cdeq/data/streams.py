"""A text read as several streams at once, segment after segment."""

from dataclasses import KW_ONLY, dataclass
from hashlib import sha256

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cdeq.data.indexed import Indices
from cdeq.models.language.batch import LanguageBatch

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Streams:
    r"""Contiguous streams of equal length, cut from one text into segments.

    With S streams of segments of l tokens, n tokens make :math:`g = \lfloor
    (\lfloor n / S \rfloor - 1) / l \rfloor` segments a stream. Stream s is the tokens from
    :math:`s (g l + 1)` on, :math:`g l + 1` of them, the last of which is a target only; what comes
    after stream S - 1 is left out.

    Sample i is segment ⌊i / S⌋ of stream i mod S, so that consecutive slices of S samples are one
    segment of every stream, in reading order.

    Arguments:
        tokens: The ids of the text, int32 or int64, which may be memory-mapped.
        streams: S ≥ 1.
        length: l ≥ 1.
        past: How many tokens before a segment come with it, m ≥ 0.
        types: The size of the vocabulary that all ids have to be in; None checks no upper bound.

    Raises:
        TypeError: When tokens are no one-dimensional int32 or int64.
        ValueError: When a count is below its least value, the text is too short for one segment
            of every stream, or an id is not in the vocabulary.

    Example:
        >>> data = Streams(torch.arange(11), streams=2, length=2, past=3)
        >>> len(data), data.scored, data.left_out
        (4, 8, 1)
        >>> batch = data.take(torch.tensor([2, 3]))
        >>> batch.tokens.tolist(), batch.target.tolist()
        ([[2, 3], [7, 8]], [[3, 4], [8, 9]])
        >>> batch.past[batch.known].tolist()
        [0, 1, 5, 6]
    """

    tokens: Int[Tensor, " n"]
    _: KW_ONLY
    streams: int
    length: int
    past: int = 0
    types: int | None = None

    def __post_init__(self) -> None:
        if self.tokens.dtype not in (torch.int32, torch.int64) or self.tokens.dim() != 1:
            raise TypeError(
                "a text is one long row of int32 or int64 ids; got shape "
                f"{tuple(self.tokens.shape)} of {self.tokens.dtype}."
            )
        least = {"streams": 1, "length": 1, "past": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"`{name}` is at least {lowest}; got {getattr(self, name)}.")
        if self.segments < 1:
            raise ValueError(
                f"one segment of {self.length} tokens, and the token after it, for each of "
                f"{self.streams} streams takes {self.streams * (self.length + 1):,} tokens; the "
                f"text has {len(self.tokens):,}: take fewer streams, shorter segments or more "
                "text."
            )
        self._check_ids()

    def _check_ids(self) -> None:
        lowest, highest = (int(bound) for bound in self.tokens.aminmax())
        if lowest < 0 or (self.types is not None and highest >= self.types):
            raise ValueError(
                f"ids are at least 0 and below the size of the vocabulary, {self.types}; the text "
                f"has ids from {lowest} to {highest}: tokenise it with this vocabulary."
            )

    @property
    def segments(self) -> int:
        """Segments a stream, g."""
        return (len(self.tokens) // self.streams - 1) // self.length

    @property
    def scored(self) -> int:
        """Tokens that are targets: all of the streams but the first of each."""
        return len(self) * self.length

    @property
    def left_out(self) -> int:
        """Tokens at the end of the text that are in no stream."""
        return len(self.tokens) - self.streams * self._span

    @property
    def _span(self) -> int:
        return self.segments * self.length + 1

    def __len__(self) -> int:
        return self.streams * self.segments

    def take(self, indices: Indices) -> LanguageBatch:
        """The segments of these samples, int64, in this order.

        A past token from before its stream is 0, and not known.

        Raises:
            IndexError: When there is no such sample.
        """
        if bool(((indices < 0) | (indices >= len(self))).any()):
            raise IndexError(f"samples are 0 … {len(self) - 1}; got {indices.tolist()}.")
        stream, segment = (indices % self.streams)[:, None], (indices // self.streams)[:, None]
        place = segment * self.length + torch.arange(-self.past, self.length + 1)
        inside = place >= 0
        found = self.tokens[stream * self._span + place.clamp(min=0)].long()
        past, here = found[:, : self.past], found[:, self.past :]
        known = inside[:, : self.past]
        return LanguageBatch(here[:, :-1], here[:, 1:], past.where(known, 0), known)

    def starts(self, indices: Indices) -> Bool[Tensor, " b"]:
        """Which of these samples are the first of their streams, so that nothing is known before.

        Example:
            >>> Streams(torch.arange(11), streams=2, length=2).starts(torch.arange(4))
            tensor([ True,  True, False, False])
        """
        return indices < self.streams

    def order(self, step: int, *, batch_size: int, seed: int) -> Indices:
        """The samples of one training step: the next segment of every stream.

        The streams are read side by side to their ends and then from the start again, so that
        what is remembered of one step is what came before the next.

        Arguments:
            step: Which step, from 0.
            batch_size: Has to be the number of streams.
            seed: Of no influence, since a text has one order.

        Raises:
            ValueError: When `batch_size` is another number.

        Example:
            >>> data = Streams(torch.arange(11), streams=2, length=2)
            >>> [data.order(step, batch_size=2, seed=0).tolist() for step in range(3)]
            [[0, 1], [2, 3], [0, 1]]
        """
        if batch_size != self.streams:
            raise ValueError(
                "a training step reads one segment of every stream, so that the next can go on "
                f"from it: the batch size is the number of streams, {self.streams}; got "
                f"{batch_size}."
            )
        return step % self.segments * self.streams + torch.arange(self.streams)

    def digest(self) -> str:
        """The SHA-256 of the text, whatever its dtype, and of how it is cut."""
        digest = sha256(f"{self.streams} {self.length} {self.past}\0".encode())
        for part in self.tokens.split(_CHUNK):  # so that a memory-mapped text never is in memory
            digest.update(part.to(torch.int32).contiguous().numpy().data)
        return digest.hexdigest()
