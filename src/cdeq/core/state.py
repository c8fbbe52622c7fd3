"""Packing: a state of any shape as rows of numbers, and back.

Solvers see `(b, d)` only. A batched state has the samples along its first dimension; an unbatched
one (a graph, say) is a single sample, so its residual is one number.
"""

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from cdeq.typing import Flat, FlatMap, Map, State


def tensors(state: State) -> tuple[Tensor, ...]:
    """The tensors of a state, as a tuple even when there is only one.

    Example:
        >>> len(tensors(torch.zeros(2, 3)))
        1
    """
    return (state,) if isinstance(state, Tensor) else tuple(state)


def like(state: State, parts: tuple[Tensor, ...]) -> State:
    """`parts` in the form of `state`: a bare tensor when `state` is one, a tuple otherwise."""
    return parts[0] if isinstance(state, Tensor) else parts


def detach(state: State) -> State:
    """The same numbers, cut off from the autograd graph."""
    return like(state, tuple(part.detach() for part in tensors(state)))


def widened(state: State, dtype: torch.dtype) -> State:
    """The state in this precision, where `torch.autocast` is on, under which the last operation
    decides the dtype of a value; as it is elsewhere."""
    parts = tensors(state)
    if not torch.is_autocast_enabled(parts[0].device.type):
        return state
    return like(state, tuple(part.to(dtype) for part in parts))


def zeros_like(state: State) -> State:
    """The state z = 0 of the same shapes."""
    return like(state, tuple(torch.zeros_like(part) for part in tensors(state)))


@dataclass(frozen=True)
class Layout:
    """How a state is laid out, and the way to rows and back.

    Arguments:
        shapes: One shape a tensor.
        dtype: The common dtype of the tensors.
        device: Their common device.
        single: Whether the state is a bare tensor rather than a tuple.
        batched: Whether the first dimension counts samples.

    Example:
        >>> z = (torch.zeros(2, 3), torch.ones(2, 4, 5))
        >>> layout = Layout.of(z)
        >>> layout.pack(z).shape
        torch.Size([2, 23])
        >>> all(torch.equal(a, b) for a, b in zip(layout.unpack(layout.pack(z)), z, strict=True))
        True
    """

    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype
    device: torch.device
    single: bool
    batched: bool = True

    @classmethod
    def of(cls, state: State, *, batched: bool = True) -> "Layout":
        """Read the layout off a state.

        Raises:
            TypeError: When the state is no tensor or tuple of floating-point tensors of one dtype.
            ValueError: When a tensor has no batch dimension, or batch sizes or devices differ.
        """
        parts = _checked_parts(state)
        if (batched and len({part.shape[:1] for part in parts}) != 1) or (
            batched and parts[0].ndim == 0
        ):
            raise ValueError(
                "a batched state needs one first dimension (samples) common to its tensors; got "
                f"shapes {[tuple(part.shape) for part in parts]}; pass `batched=False` for a "
                "single sample."
            )
        return cls(
            shapes=tuple(part.shape for part in parts),
            dtype=parts[0].dtype,
            device=parts[0].device,
            single=isinstance(state, Tensor),
            batched=batched,
        )

    @property
    def samples(self) -> int:
        """The number of rows b."""
        return self.shapes[0][0] if self.batched else 1

    def pack(self, state: State) -> Flat:
        """The state as rows `(b, d)`; a view when the state is one contiguous tensor.

        Under `torch.autocast`, where the last operation decides the dtype of a value, a value of
        another precision is cast to the layout's.

        Raises:
            TypeError: When it is no state at all.
            ValueError: When shape, dtype or device is not that of the layout.
        """
        parts = _parts(state)
        if any(part.dtype != self.dtype for part in parts):
            parts = tensors(widened(state, self.dtype))
        self._match(parts)
        rows = [part.reshape(self.samples, self._width(part.shape)) for part in parts]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def unpack(self, flat: Flat) -> State:
        """The inverse of `pack`, as views of the rows."""
        rows, start = [], 0
        for shape in self.shapes:
            width = self._width(shape)
            rows.append(flat[:, start : start + width].view(shape))
            start += width
        return rows[0] if self.single else tuple(rows)

    def narrowed(self, samples: int) -> "Layout":
        """The layout of another number of samples; without a sample dimension, this one."""
        if not self.batched:
            return self
        return replace(self, shapes=tuple(torch.Size((samples, *s[1:])) for s in self.shapes))

    def lift(self, f: Map) -> FlatMap:
        """The map f between states as a map between rows."""
        return lambda flat: self.pack(f(self.unpack(flat)))

    def _width(self, shape: torch.Size) -> int:
        """Features a sample; spelled out, since an empty batch leaves -1 undefined."""
        return math.prod(shape[1:] if self.batched else shape)

    def _match(self, parts: tuple[Tensor, ...]) -> None:
        if tuple(part.shape for part in parts) != self.shapes:
            raise ValueError(
                "f must return a state of the shape it was given, since z* = f(z*, x); expected "
                f"{[tuple(shape) for shape in self.shapes]}, got "
                f"{[tuple(p.shape) for p in parts]}."
            )
        for part in parts:
            if (part.dtype, part.device) != (self.dtype, self.device):
                raise ValueError(
                    "f must return a state of the dtype and device it was given; expected "
                    f"{self.dtype} on {self.device}, got {part.dtype} on {part.device}; cast "
                    f"inside f."
                )


def _parts(state: State) -> tuple[Tensor, ...]:
    """The tensors of what should be a state: z0, or whatever f returned."""
    if not isinstance(state, Tensor) and not isinstance(cast(object, state), tuple):
        raise TypeError(f"a state is a tensor or a tuple of tensors; got {type(state).__name__}.")
    parts = tensors(state)
    if not parts or not all(isinstance(p, Tensor) and p.is_floating_point() for p in parts):
        raise TypeError(
            "a state holds at least one floating-point tensor and nothing else; got "
            f"{[str(p.dtype) if isinstance(p, Tensor) else type(p).__name__ for p in parts]}."
        )
    return parts


def _checked_parts(state: State) -> tuple[Tensor, ...]:
    parts = _parts(state)
    if len({(part.dtype, part.device) for part in parts}) != 1:
        raise ValueError(
            "the tensors of a state share one dtype and one device, since they are packed into "
            f"rows; got {[(str(p.dtype), str(p.device)) for p in parts]}."
        )
    return parts
