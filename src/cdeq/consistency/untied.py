"""Learned first steps with weights of their own, then the teacher's solver with a fresh window."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args

from torch import Tensor, nn
from typing_extensions import Self

from cdeq.consistency.anchored import AnchoredDEQ, solver_step
from cdeq.consistency.increments import Full, Increments, LowRank, Shared, merge
from cdeq.consistency.student import Teacher, placed, require_teacher
from cdeq.core.cell import bind
from cdeq.core.solvers import Anderson, Broyden, Picard, Solver
from cdeq.core.state import tensors, widened
from cdeq.errors import StoreError
from cdeq.plain import from_plain, to_plain
from cdeq.pretrained import check_kind, load_folder, making, save_folder
from cdeq.typing import Context, State


class UntiedMemory(NamedTuple):
    """Where a run of `UntiedSteps` stands."""

    j: int
    """Steps taken."""
    mixing: Any
    """The memory of the mixing solver; None without one."""


class UntiedSteps(nn.Module):
    r"""A student of J steps, each with its own map.

    .. math:: z_{j+1} = W_j \, [\, f_{\theta_j}(z_j, x) \,\|\, \mathbf t \,]

    Steps are composed plainly, or mixed by a solver over their window.

    Arguments:
        cells: The maps :math:`f_{\theta_j}`.
        readouts: Their readouts, as many; or none, for :math:`W_j = [I \,|\, 0]` throughout.
        mixing: Mixes the steps; None composes them plainly.
        batched: Whether the first dimension of a state counts samples.

    Raises:
        ValueError: When there are readouts, but not one a cell.
    """

    def __init__(
        self,
        cells: Iterable[nn.Module],
        readouts: Iterable[nn.Module] = (),
        *,
        mixing: Solver[Any] | None = None,
        batched: bool = True,
    ) -> None:
        super().__init__()
        self.cells, self.readouts = nn.ModuleList(cells), nn.ModuleList(readouts)
        self.mixing, self.batched = mixing, batched
        if len(self.readouts) not in (0, len(self.cells)):
            raise ValueError(
                "every learned step has a cell and a readout, or none has a readout; got "
                f"{len(self.cells)} cells and {len(self.readouts)} readouts."
            )

    def bind(
        self, x: Context
    ) -> Callable[[State, Tensor, UntiedMemory | None], tuple[State, UntiedMemory]]:
        """The steps for one context; a cell's constant work is done when its step comes."""

        def step(z: State, t: Tensor, memory: UntiedMemory | None) -> tuple[State, UntiedMemory]:
            j, mixing = memory or (0, None)
            f = bind(self.cells[j], x)

            def g(z: State) -> State:
                value = self.readouts[j](f(z), t) if self.readouts else f(z)
                return widened(value, tensors(z)[0].dtype)

            if self.mixing is None:
                return g(z), UntiedMemory(j + 1, None)
            z, mixing = solver_step(self.mixing, g, z, mixing, batched=self.batched)
            return z, UntiedMemory(j + 1, mixing)

        return step


class UntiedDEQ(AnchoredDEQ):
    r"""A student with its own weights for the first J steps, then its teacher's solver.

    .. math:: z_{j+1} = W_j \, [\, f_{\theta + \Delta_j}(z_j, x) \,\|\, \mathbf t \,]
        \quad (j < J) , \qquad
        z_{j+1} = \text{solver}(z_j; f_\theta, x) \quad (j \ge J)

    Δ = 0 and W = [I | 0] to begin with: an untrained student is the teacher's solver after J
    Picard steps, and whatever was learned, its limit is the teacher's fixed point. Goes beyond
    the paper.

    Arguments:
        learned: The first steps, as many as it has cells.
        teacher: Gives the map of the steps after, which is copied and frozen.
        increments: The form of Δ_1 … Δ_J.
        tail: The solver of the steps after.

    Example:
        >>> from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
        >>> teacher = ContractionDEQ(ContractionSpec(channels=4))
        >>> student = UntiedDEQ.from_teacher(teacher, steps=2)
        >>> sum(p.numel() for p in student.parameters() if p.requires_grad)
        408
    """

    learned: UntiedSteps

    def __init__(
        self,
        learned: UntiedSteps,
        teacher: Teacher,
        *,
        increments: Increments = Full(),
        tail: Solver[Any] = Anderson(),
    ) -> None:
        super().__init__(learned, teacher, steps=len(learned.cells), tail=tail)
        self.increments = increments

    @classmethod
    def from_teacher(
        cls,
        teacher: Teacher,
        *,
        steps: int = 2,
        increments: Increments = Full(),
        readout: bool = True,
        mixing: Solver[Any] | None = None,
        first: nn.Module | None = None,
        tail: Solver[Any] = Anderson(),
    ) -> Self:
        """A student that starts as `steps` Picard steps and then its teacher's solver.

        Arguments:
            teacher: The model to copy; it is left alone.
            steps: How many steps J ≥ 0 have weights of their own.
            increments: The form of Δ_1 … Δ_J.
            readout: Whether steps have a readout W_j besides.
            mixing: Mixes the learned steps; None composes them plainly.
            first: What stands in place of the first step's cell, called as `first(z, x)`: a
                learned initializer that looks at x alone, say. It counts as one evaluation, and
                is moved to where the teacher's cell is.
            tail: The solver of the steps after.

        Raises:
            ValueError: When J is negative.
        """
        _require_steps(steps, least=0 if first is None else 1)
        cell = teacher.deq.cell
        own = [] if first is None else [placed(first, cell)]
        learned = UntiedSteps(
            [*own, *increments.copies(cell, steps - len(own))],
            [placed(teacher.readout(), cell) for _ in range(steps * readout)],
            mixing=mixing,
            batched=teacher.deq.batched,
        )
        return cls(learned, teacher, increments=increments, tail=tail)

    def merged(self) -> Self:
        """A frozen copy for inference whose weights θ + Δ_j are folded, so that a step costs what
        an evaluation costs. The tail stays the teacher's map to the last bit."""
        student = deepcopy(self).requires_grad_(False).eval()
        cells = (merge(cell, self.cell) for cell in self.learned.cells)
        student.learned.cells = nn.ModuleList(cells)
        return student

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the student to a folder: what it learned as safetensors, settings as JSON.

        Raises:
            StoreError: When its weights are merged: θ + Δ does not tell what Δ was. Or when its
                solvers or increments are of a kind that `from_pretrained` does not know.
        """
        trained = [parameter.requires_grad for parameter in self.learned.parameters()]
        if trained and not any(trained):
            raise StoreError(
                "a merged student is for inference, and what it learned is folded into copies of "
                "its teacher's weights; save the student that was trained."
            )
        _require_known("increments", self.increments, _INCREMENTS)
        _require_known("mixing", self.learned.mixing, _SOLVERS | None)
        _require_known("tail", self.tail, _SOLVERS)
        settings = {
            "steps": self.steps,
            "increments": self.increments,
            "readout": len(self.learned.readouts) > 0,
            "mixing": self.learned.mixing,
            "tail": self.tail,
        }
        identity = {"kind": type(self).__name__, "teacher": self.teacher}
        plain = {name: to_plain(value) for name, value in settings.items()}
        save_folder(folder, _learned(self), identity | plain)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, teacher: Teacher, *, first: nn.Module | None = None
    ) -> Self:
        """Read a student from a folder or a hub repository.

        Arguments:
            source: The folder.
            teacher: Its teacher.
            first: A fresh module of the kind it was built with, if it was built with one.

        Raises:
            StoreError: When the folder is damaged, or the student has another teacher.
        """
        config, weights = load_folder(source)
        check_kind(config, cls.__name__, source)
        require_teacher(config.get("teacher"), teacher, source)
        with making(cls.__name__, source):
            mixing = config["mixing"]
            student = cls.from_teacher(
                teacher,
                steps=config["steps"],
                increments=from_plain(_INCREMENTS, config["increments"]),
                readout=config["readout"],
                mixing=None if mixing is None else from_plain(_SOLVERS, mixing),
                first=first,
                tail=from_plain(_SOLVERS, config["tail"]),
            )
            expected = _learned(student)
            if expected.keys() != weights.keys():
                raise ValueError(
                    f"it holds {sorted(weights)}, and a student like that has {sorted(expected)}; "
                    "one that was built with `first` is read with another such"
                )
            student.load_state_dict(weights, strict=False)
        return student.eval()


def _require_steps(steps: int, least: int) -> None:
    if steps < least:
        raise ValueError(
            f"`steps` counts the steps J with weights of their own, here at least {least}; got "
            f"{steps}."
        )


_SOLVERS = Anderson | Broyden | Picard
_INCREMENTS = Full | LowRank | Shared


def _require_known(name: str, setting: object, kinds: UnionType) -> None:
    """Refuse to write what nobody could read."""
    if not isinstance(setting, kinds):
        raise StoreError(
            f"a saved student's `{name}` is one of {[kind.__name__ for kind in get_args(kinds)]}, "
            f"which can be read back; got {setting!r}: keep this student's `state_dict()` instead."
        )


def _learned(student: nn.Module) -> dict[str, Tensor]:
    """What the teacher does not tell: trained parameters, each once, and buffers."""
    trained = {n: p for n, p in student.named_parameters() if p.requires_grad}
    return trained | {n: b for n, b in student.named_buffers() if not n.startswith("cell.")}
