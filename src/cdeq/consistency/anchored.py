"""Learned steps of any student, then the teacher's own solver with a fresh window."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

from torch import Tensor, nn

from cdeq.consistency.refine import Student
from cdeq.consistency.student import Teacher, require_own, teacher_digest
from cdeq.core.cell import bind
from cdeq.core.readout import Time
from cdeq.core.solvers import Anderson, Solver
from cdeq.core.state import Layout
from cdeq.typing import Context, Map, State


class AnchoredMemory(NamedTuple):
    """Where a run of `AnchoredDEQ` stands."""

    j: int
    """Steps taken."""
    learned: Any
    """The memory of the learned steps."""
    tail: Any
    """The solver's memory; None while the learned steps last."""


class AnchoredDEQ(nn.Module):
    r"""A student whose limit is exactly its teacher's fixed point.

    .. math:: z_{j+1} = g(z_j, t_j, x) \quad (j < J) , \qquad
        z_{j+1} = \text{solver}(z_j; f_\theta, x) \quad (j \ge J)

    After J steps of any student it *is* the teacher's solver, with a fresh window, since states of
    different maps do not belong into one least-squares problem. Errors keep shrinking at the
    solver's rate. One evaluation a step.

    Goes beyond the paper, whose boundary condition turns late steps into the identity.

    Arguments:
        learned: The student g of the first steps.
        teacher: Gives the map of the steps after, which is copied and frozen.
        steps: J ≥ 0.
        tail: The solver of the steps after.

    It is not saved: save `learned`, and wrap it again.

    Raises:
        ValueError: When J is negative.
        StoreError: When `learned` bears the digest of another teacher.

    Example:
        >>> import torch
        >>> from cdeq import ConsistencyDEQ, refine
        >>> from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
        >>> teacher = ContractionDEQ(ContractionSpec(channels=2))
        >>> student = AnchoredDEQ(ConsistencyDEQ.from_teacher(teacher), teacher, steps=1)
        >>> x = torch.rand(3, 1, 8, 8)
        >>> *_, z = refine(student, x, teacher.initial(x), torch.zeros(40))
        >>> bool(torch.allclose(z, teacher.bind(x)(z), atol=1e-5))
        True
    """

    def __init__(
        self, learned: nn.Module, teacher: Teacher, *, steps: int, tail: Solver[Any] = Anderson()
    ) -> None:
        super().__init__()
        if steps < 0:
            raise ValueError(f"`steps` counts the learned steps J ≥ 0; got {steps}.")
        require_own(learned, teacher)
        self.learned, self.steps, self.tail = learned, steps, tail
        self.cell = deepcopy(teacher.deq.cell).requires_grad_(False).eval()
        self.batched, self.teacher = teacher.deq.batched, teacher_digest(teacher)

    def bind(
        self, x: Context
    ) -> Callable[[State, Tensor, AnchoredMemory | None], tuple[State, AnchoredMemory]]:
        """The student for one context; the solver's map is prepared when its turn comes."""
        learned: Student = self.learned  # type: ignore[assignment]
        learned_step = learned.bind(x)
        solver_map: list[Map] = []

        def step(
            z: State, t: Tensor, memory: AnchoredMemory | None
        ) -> tuple[State, AnchoredMemory]:
            j, inner, tail = memory or (0, None, None)
            if j < self.steps:
                z, inner = learned_step(z, t, inner)
                return z, AnchoredMemory(j + 1, inner, None)
            if not solver_map:
                solver_map.append(bind(self.cell, x))
            z, tail = solver_step(self.tail, solver_map[0], z, tail, batched=self.batched)
            return z, AnchoredMemory(j + 1, None, tail)

        return step

    def forward(
        self, z: State, t: Time, x: Context, previous: AnchoredMemory | None = None
    ) -> tuple[State, AnchoredMemory]:
        """One step from z, and the memory to pass to the next."""
        return self.bind(x)(z, t, previous)

    def train(self, mode: bool = True) -> "AnchoredDEQ":
        """Only the learned steps train: the teacher's map stays in evaluation mode."""
        super().train(mode)
        self.cell.eval()
        return self


def solver_step(
    solver: Solver[Any],
    f: Map,
    z: State,
    memory: Any,  # noqa: ANN401 - the solver's own
    *,
    batched: bool,
) -> tuple[State, Any]:
    """One step of a solver on states; a memory of None begins a run."""
    layout = Layout.of(z, batched=batched)
    flat = layout.pack(z)
    memory = solver.init(flat) if memory is None else memory
    taken = solver.step(layout.lift(f), flat, memory)
    return layout.unpack(taken.z), taken.state
