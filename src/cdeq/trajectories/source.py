"""A source of trajectories: sample indices in, z_0 … z_K out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from cdeq.core.deq import DEQ
from cdeq.core.solve import Solution, solve
from cdeq.core.solvers import Solver
from cdeq.typing import Context, Map, State

Indices: TypeAlias = "Sequence[int] | Tensor"
"""Which samples of the data set, in which order; repeats are allowed."""

Batch: TypeAlias = Any
"""What the teacher encodes."""


@runtime_checkable
class TrajectorySource(Protocol):
    """Whatever knows a data set's trajectories: recomputed, read from disk, or a function."""

    def __call__(self, indices: Indices) -> tuple[State, ...]:
        """The states z_0 … z_K of these samples, in their order.

        States without a sample dimension (a graph) are asked for one sample at a time.
        """
        ...


@runtime_checkable
class EndSource(Protocol):
    """A source that knows the ends of its trajectories without reading all of them."""

    def ends(self, indices: Indices) -> State:
        """The states z_K of these samples, in their order."""
        ...


def ends(source: TrajectorySource, indices: Indices) -> State:
    """The states z_K of these samples, read alone where the source can.

    Example:
        >>> ends(lambda rows: (rows * 0.0, rows + 1.0), torch.tensor([3, 1]))
        tensor([4., 2.])
    """
    return source.ends(indices) if isinstance(source, EndSource) else source(indices)[-1]


@runtime_checkable
class Teacher(Protocol):
    """What is asked of a teacher; every `EquilibriumModel` has it."""

    deq: DEQ

    def encode(self, batch: Batch) -> Context: ...
    def initial(self, x: Context) -> State: ...
    def bind(self, x: Context) -> Map: ...
    def modules(self) -> Iterator[nn.Module]: ...


@dataclass(frozen=True, kw_only=True)
class OnlineTrajectories:
    """Trajectories recomputed at every call, without gradients, by the teacher in evaluation mode.

    A cache written from this source gives the same numbers, bit by bit where it is read in the
    batches it was written in. Each module's training mode is put back afterwards.

    Arguments:
        teacher: An equilibrium model.
        contexts: Gives the batch of the samples with these indices, on the teacher's device.
        solver: The solver whose trajectory is wanted.
        max_steps: The budget K ≥ 1, spent to the end by whole trajectories.
        end_tol: The relative residual at which a solve for the end alone stops; None spends the
            budget there too, and has the end of the trajectory to the last bit.
    """

    teacher: Teacher
    contexts: Callable[[Int[Tensor, " b"]], Batch]
    solver: Solver
    max_steps: int
    end_tol: float | None = None

    def __call__(self, indices: Indices) -> tuple[State, ...]:
        return self._solved(indices, record=True).trajectory or ()

    def ends(self, indices: Indices) -> State:
        """The states z_K of these samples; those before are not kept."""
        return self._solved(indices, record=False, tol=self.end_tol).z

    def _solved(self, indices: Indices, *, record: bool, tol: float | None = None) -> Solution:
        batched = self.teacher.deq.batched
        batch = self.contexts(as_indices(indices, batched=batched))
        with torch.no_grad(), _evaluation_mode(self.teacher):
            x = self.teacher.encode(batch)
            return solve(
                self.teacher.bind(x),
                self.teacher.initial(x),
                self.solver,
                max_steps=self.max_steps,
                tol=tol,
                record=record,
                batched=batched,
            )


class RememberedTrajectories:
    """A source that asks another one only once for the same samples, and keeps the answers.

    Whole trajectories and ends are kept apart: who asks for ends alone pays for ends alone.

    Arguments:
        source: The source that is asked.

    Example:
        >>> source = RememberedTrajectories(lambda rows: (torch.rand(len(rows)),))
        >>> torch.equal(source.ends([3, 1]), source.ends([3, 1]))
        True
    """

    def __init__(self, source: TrajectorySource) -> None:
        self.source = source
        self.trajectories: dict[tuple[int, ...], tuple[State, ...]] = {}
        self.last: dict[tuple[int, ...], State] = {}

    def __call__(self, indices: Indices) -> tuple[State, ...]:
        key = tuple(map(int, indices))
        if key not in self.trajectories:
            self.trajectories[key] = self.source(indices)
        return self.trajectories[key]

    def ends(self, indices: Indices) -> State:
        """The states z_K of these samples, in their order."""
        key = tuple(map(int, indices))
        if key not in self.last:
            self.last[key] = ends(self.source, indices)
        return self.last[key]


def as_indices(
    indices: Indices, *, batched: bool, samples: int | None = None
) -> Int[Tensor, " b"]:
    """Sample indices as a tensor on the CPU.

    Raises:
        ValueError: When they are no list of whole numbers in 0 … samples - 1, or several although
            states are unbatched.

    Example:
        >>> as_indices([3, 1], batched=True)
        tensor([3, 1])
    """
    rows = torch.as_tensor(indices)
    whole = not (rows.is_floating_point() or rows.is_complex() or rows.dtype is torch.bool)
    if not whole or rows.ndim != 1 or rows.numel() == 0:
        raise ValueError(
            "samples are addressed by a list of at least one whole number; got a "
            f"{tuple(rows.shape)} of {rows.dtype}."
        )
    low, high = (int(end) for end in rows.aminmax())
    if low < 0 or (samples is not None and high >= samples):
        end = "" if samples is None else f" to {samples - 1}"
        raise ValueError(f"samples are counted from 0{end}; got indices from {low} to {high}.")
    if not batched and len(rows) != 1:
        raise ValueError(
            "states without a sample dimension are asked for one sample at a time; got the "
            f"samples {rows.tolist()}."
        )
    return rows.to("cpu", torch.long)


@contextmanager
def _evaluation_mode(teacher: Teacher) -> Iterator[None]:
    modes = [(module, module.training) for module in teacher.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
