"""Multi-step inference (Algorithm 1): one evaluation a step."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor

from cdeq.typing import Context, State


class Student(Protocol):
    """Anything that advances a state by one evaluation, carrying an explicit memory.

    The memory is None before the first step; what a step returns goes into the next one.
    """

    def bind(self, x: Context) -> "Callable[[State, Tensor, Any], tuple[State, Any]]":
        """The step (z, t, memory) ↦ (z, memory) for one context."""
        ...


def refine(student: Student, x: Context, z0: State, times: Iterable[Tensor]) -> Iterator[State]:
    """Yield the student's states z_{t_1}, z_{t_2}, … from z0, one evaluation each.

    Nothing but the last state and the memory is kept, so memory does not grow with the steps.

    Paper: Algorithm 1.

    Arguments:
        student: The map g.
        x: The context.
        z0: Where to start, at the first of the times.
        times: The virtual times t_0 < t_1 < … at which the student is called.

    Example:
        >>> import torch
        >>> class Halve:
        ...     def bind(self, x):
        ...         return lambda z, t, memory: (z / 2, memory)
        >>> [z.item() for z in refine(Halve(), None, torch.ones(()), torch.zeros(3))]
        [0.5, 0.25, 0.125]
    """
    step = student.bind(x)
    z, memory = z0, None
    for t in times:
        z, memory = step(z, t, memory)
        yield z
