"""Multi-step inference (Algorithm 1): one evaluation a step."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool
from torch import Tensor

from cdeq.core.norms import relative
from cdeq.core.state import Layout
from cdeq.typing import Context, Flat, PerSample, State


class Student(Protocol):
    """Anything that advances a state by one evaluation, carrying an explicit memory.

    The memory is None before the first step; what a step returns goes into the next one.
    """

    def bind(self, x: Context) -> "Callable[[State, Tensor, Any], tuple[State, Any]]":
        """The step (z, t, memory) ↦ (z, memory) for one context."""
        ...


def refine(
    student: Student,
    x: Context,
    z0: State,
    times: Iterable[Tensor],
    *,
    stop: float | None = None,
    batched: bool = True,
) -> Iterator[State]:
    """Yield the student's states z_{t_1}, z_{t_2}, … from z0, one evaluation each.

    Nothing but the last state and the memory is kept, so memory does not grow with the steps.

    Paper: Algorithm 1; `stop` goes beyond it.

    Arguments:
        student: The map g.
        x: The context.
        z0: Where to start, at the first of the times.
        times: The virtual times t_0 < t_1 < … at which the student is called.
        stop: A sample rests once a step of its own has moved it by at most this, relative to
            where it got; the run ends, and evaluations are saved, when all rest.
            `cdeq.evaluation.adaptive.calibrate` chooses it. None spends all steps.
        batched: Whether the first dimension counts samples; matters to `stop` alone.

    Raises:
        ValueError: When `stop` is not positive.

    Example:
        >>> class Halve:
        ...     def bind(self, x):
        ...         return lambda z, t, memory: (z / 2, memory)
        >>> [z.item() for z in refine(Halve(), None, torch.ones(()), torch.zeros(3))]
        [0.5, 0.25, 0.125]
    """
    if stop is not None:
        return (p.z for p in refine_adaptively(student, x, z0, times, stop, batched=batched))
    return _run(student, x, z0, times)


def _run(student: Student, x: Context, z0: State, times: Iterable[Tensor]) -> Iterator[State]:
    step = student.bind(x)
    z, memory = z0, None
    for t in times:
        z, memory = step(z, t, memory)
        yield z


class Refined(NamedTuple):
    """A point of an adaptive run."""

    z: State
    moved: Bool[Tensor, " b"]
    """Samples that needed this evaluation; the others rest: they stay in the batch that f sees,
    and stay where they are."""


def refine_adaptively(
    student: Student,
    x: Context,
    z0: State,
    times: Iterable[Tensor],
    stop: float,
    *,
    batched: bool = True,
) -> Iterator[Refined]:
    """The points of `refine` with a `stop`, and which samples needed each evaluation.

    Example:
        >>> class Halve:
        ...     def bind(self, x):
        ...         return lambda z, t, memory: (z / 2 + 1, memory)
        >>> run = refine_adaptively(Halve(), None, torch.zeros(1, 1), torch.zeros(9), stop=0.2)
        >>> [round(z.item(), 2) for z, moved in run]
        [1.0, 1.5, 1.75]
    """
    if not stop > 0.0:
        raise ValueError(f"`stop` is a positive relative step, or None for all steps; got {stop}.")
    layout, step = Layout.of(z0, batched=batched), student.bind(x)
    z, memory = layout.pack(z0), None
    moving = torch.ones(layout.samples, dtype=torch.bool, device=layout.device)
    for t in times:
        new, memory = step(layout.unpack(z), t, memory)
        moved = layout.pack(new)
        size = step_size(moved, z)
        z = torch.where(moving.unsqueeze(1), moved, z)
        yield Refined(layout.unpack(z), moving)
        moving = moving & ~(size <= stop)  # a step that is not a number is not small
        if not bool(moving.any()):
            return


def step_size(z: Flat, before: Flat) -> PerSample:
    r"""How far a step went, relative to where it got: :math:`\|z_{j+1} - z_j\| / \|z_{j+1}\|`.

    Example:
        >>> step_size(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([0.5000])
    """
    return relative(z - before, z)
