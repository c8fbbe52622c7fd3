"""Learned first steps with weights of their own, then the teacher's solver with a fresh window."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from typing_extensions import Self

from cdeq.consistency.student import Teacher, placed
from cdeq.core.cell import bind
from cdeq.core.readout import Time
from cdeq.core.solvers import Anderson, Solver
from cdeq.core.state import Layout
from cdeq.errors import StoreError
from cdeq.plain import from_plain, to_plain
from cdeq.pretrained import check_kind, load_folder, save_folder
from cdeq.typing import Context, Map, State


class UntiedMemory(NamedTuple):
    """Where a run of `UntiedDEQ` stands."""

    j: int
    """Steps taken."""
    tail: Any
    """The solver's memory; None while the learned steps last."""


class UntiedDEQ(nn.Module):
    r"""A student whose limit is exactly its teacher's fixed point.

    .. math:: z_{j+1} = W_j \, [\, f_{\theta_j}(z_j, x) \,\|\, \mathbf t \,] \quad (j < J) , \qquad
        z_{j+1} = \text{solver}(z_j; f_\theta, x) \quad (j \ge J)

    The first J steps are composed plainly, without mixing, each with its own copy θ_j of the
    weights and its own readout, started at θ and the identity; an untrained student is therefore
    the teacher's solver after J Picard steps. From then on it *is* the teacher's solver, with a
    fresh window, so errors keep shrinking at the solver's rate. One evaluation a step.

    Goes beyond the paper, whose boundary condition turns late steps into the identity.

    Arguments:
        cells: The maps of the first J steps.
        readouts: Their readouts, as many.
        cell: The teacher's map, for the steps after; frozen.
        tail: The solver of those steps.
        batched: Whether the first dimension of a state counts samples.

    Raises:
        ValueError: When there is not one readout a cell.
    """

    def __init__(
        self,
        cells: Iterable[nn.Module],
        readouts: Iterable[nn.Module],
        cell: nn.Module,
        *,
        tail: Solver[Any] = Anderson(),
        batched: bool = True,
    ) -> None:
        super().__init__()
        self.cells, self.readouts = nn.ModuleList(cells), nn.ModuleList(readouts)
        if len(self.cells) != len(self.readouts):
            raise ValueError(
                "every learned step has a cell and a readout; got "
                f"{len(self.cells)} cells and {len(self.readouts)} readouts."
            )
        self.cell = cell.requires_grad_(False)
        self.tail, self.batched = tail, batched

    @classmethod
    def from_teacher(
        cls, teacher: Teacher, *, steps: int = 2, tail: Solver[Any] = Anderson()
    ) -> Self:
        """A student that starts as `steps` Picard steps and then its teacher's solver.

        Arguments:
            teacher: The model to copy; it is left alone.
            steps: How many steps J ≥ 0 have weights of their own.
            tail: The solver of the steps after.
        """
        cell = teacher.deq.cell
        return cls(
            [deepcopy(cell).requires_grad_(True) for _ in range(steps)],
            [placed(teacher.readout(), cell) for _ in range(steps)],
            deepcopy(cell),
            tail=tail,
            batched=teacher.deq.batched,
        )

    def bind(
        self, x: Context
    ) -> Callable[[State, Tensor, UntiedMemory | None], tuple[State, UntiedMemory]]:
        """The student for one context; a cell's constant work is done when its step comes."""
        solver_map: list[Map] = []

        def step(z: State, t: Tensor, memory: UntiedMemory | None) -> tuple[State, UntiedMemory]:
            j, tail = (0, None) if memory is None else memory
            if j < len(self.cells):
                return self._learned(j, z, t, x), UntiedMemory(j + 1, None)
            if not solver_map:
                solver_map.append(bind(self.cell, x))
            layout = Layout.of(z, batched=self.batched)
            flat = layout.pack(z)
            tail = self.tail.init(flat) if tail is None else tail
            taken = self.tail.step(layout.lift(solver_map[0]), flat, tail)
            return layout.unpack(taken.z), UntiedMemory(j + 1, taken.state)

        return step

    def forward(
        self, z: State, t: Time, x: Context, previous: UntiedMemory | None = None
    ) -> tuple[State, UntiedMemory]:
        """One step from z, and the memory to pass to the next."""
        return self.bind(x)(z, t, previous)

    def _learned(self, j: int, z: State, t: Tensor, x: Context) -> State:
        return self.readouts[j](bind(self.cells[j], x)(z), t)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the student to a folder: weights as safetensors, settings as JSON."""
        settings = {"steps": len(self.cells), "tail": to_plain(self.tail)}
        save_folder(folder, self, {"kind": type(self).__name__, **settings})

    @classmethod
    def from_pretrained(cls, source: str | Path, teacher: Teacher) -> Self:
        """Read a student from a folder or a hub repository.

        Arguments:
            source: The folder.
            teacher: Its teacher.

        Raises:
            StoreError: When the folder is damaged, or the student has another teacher.
        """
        config, weights = load_folder(source)
        check_kind(config, cls.__name__, source)
        tail = from_plain(Anderson, config["tail"])
        student = cls.from_teacher(teacher, steps=config["steps"], tail=tail)
        own = {f"cell.{name}": value for name, value in teacher.deq.cell.state_dict().items()}
        different = [n for n, v in own.items() if n not in weights or not _equal(v, weights[n])]
        if different:
            raise StoreError(
                f"{source} is the student of another teacher: {', '.join(different)} differ; "
                "distil this teacher, or load the student's own."
            )
        student.load_state_dict(weights)
        return student.eval()


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one.cpu() == other.cpu()).all())
