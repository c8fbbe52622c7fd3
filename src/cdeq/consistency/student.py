"""The consistency DEQ: a map from any point of the teacher's path straight to its end."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from cdeq.consistency.time import Boundary
from cdeq.core.cell import bind
from cdeq.core.deq import DEQ
from cdeq.core.readout import LinearReadout, MLPReadout, Time
from cdeq.core.solvers.base import require_fraction
from cdeq.core.solvers.weights import two_point_weight
from cdeq.core.state import Layout
from cdeq.digest import digest_of
from cdeq.errors import StoreError
from cdeq.plain import from_plain, to_plain
from cdeq.pretrained import check_kind, load_folder, making, save_folder
from cdeq.typing import Context, Flat, Map, State


class History(NamedTuple):
    """The previous point, with its estimate, which is kept and never recomputed."""

    z: State
    """z_{t_{j-1}}."""
    h: State
    """h(z_{t_{j-1}}, t_{j-1}, x)."""


StudentStep = Callable[[State, Tensor, History | None], tuple[State, History]]
"""One step with the context bound: (z, t, previous) ↦ (g, history)."""


class Teacher(Protocol):
    """What a student needs of its teacher."""

    deq: DEQ

    def readout(self) -> nn.Module: ...


class ConsistencyDEQ(nn.Module):
    r"""The student :math:`g_\phi` of Consistency DEQ.

    .. math::
        h(z, t, x) &= W \, [\, f_{\phi'}(z, x) \,\|\, \mathbf t \,] \\
        P &= \sum_i \alpha^i \, \big( \beta \, h_i + (1 - \beta) \, z_i \big) \\
        g(z, t, x) &= c_\text{skip}(t) \, z + c_\text{out}(t) \, P

    where i runs over the current and the previous point and α are Anderson's weights of the two
    residuals :math:`h_i - z_i`. Without a previous point P is h (for β = 1), and a previous point
    equal to the current one changes nothing. One call evaluates the cell once.

    Paper: Eqs. (5), (7), (8).

    Arguments:
        cell: The backbone :math:`f_{\phi'}`, called as `cell(z, x)`.
        readout: Adds the time, called as `readout(value, t)`; `LinearReadout` is the paper's.
        boundary: c_skip and c_out.
        mixing: The relaxation β of Eq. (4), in (0, 1].
        accelerate: Whether P mixes two points; False is the paper's "w/o AA".
        detach_weights: Treat α as constants in the backward pass, which the released code does not
            and the paper does not say.
        batched: Whether the first dimension of a state counts samples, each with its own α.
        teacher: The digest of its teacher's weights (`teacher_digest`), by which others know whose
            student it is; None when nobody shall ask.

    Raises:
        ValueError: When `mixing` is outside (0, 1].
    """

    def __init__(
        self,
        cell: nn.Module,
        readout: nn.Module,
        *,
        boundary: Boundary = Boundary(),
        mixing: float = 1.0,
        accelerate: bool = True,
        detach_weights: bool = False,
        batched: bool = True,
        teacher: str | None = None,
    ) -> None:
        super().__init__()
        require_fraction("mixing", mixing, "the relaxation β of Eq. (4)")
        self.cell, self.readout, self.boundary = cell, readout, boundary
        self.mixing, self.accelerate = mixing, accelerate
        self.detach_weights, self.batched = detach_weights, batched
        self.teacher = teacher

    @classmethod
    def from_teacher(
        cls,
        teacher: Teacher,
        *,
        readout: nn.Module | None = None,
        boundary: Boundary = Boundary(),
        mixing: float = 1.0,
        accelerate: bool = True,
        detach_weights: bool = False,
        train_cell: bool = True,
    ) -> Self:
        """A student that starts as its teacher: a copy of the cell, an identity readout, h ≡ f.

        Arguments:
            teacher: The model to copy; it is left alone.
            readout: Another readout than the teacher's own fresh one; it is moved to where the
                cell is.
            boundary: c_skip and c_out.
            mixing: The relaxation β.
            accelerate: Whether P mixes two points.
            detach_weights: Whether α are constants in the backward pass.
            train_cell: False freezes the copied cell, as the released code does.
        """
        cell = deepcopy(teacher.deq.cell).requires_grad_(train_cell)
        return cls(
            cell,
            placed(teacher.readout() if readout is None else readout, cell),
            boundary=boundary,
            mixing=mixing,
            accelerate=accelerate,
            detach_weights=detach_weights,
            batched=teacher.deq.batched,
            teacher=teacher_digest(teacher),
        )

    def estimate(self, z: State, t: Time, x: Context) -> State:
        """h(z, t, x) of Eq. (8): the one evaluation of the cell."""
        return self.readout(bind(self.cell, x)(z), t)

    def bind(self, x: Context) -> StudentStep:
        """The student for one context, its cell's constant work done once for all steps."""
        f = bind(self.cell, x)
        return lambda z, t, previous: self._step(f, z, t, previous)

    def forward(
        self, z: State, t: Time, x: Context, previous: History | None = None
    ) -> tuple[State, History]:
        """g(z, t, x), and the history to pass to the next call.

        Arguments:
            z: The current point.
            t: Its virtual time: one for all samples, or one a sample.
            x: The context.
            previous: What the previous call returned; None on the first.
        """
        return self.bind(x)(z, t, previous)

    def _step(self, f: Map, z: State, t: Time, previous: History | None) -> tuple[State, History]:
        layout = Layout.of(z, batched=self.batched)
        h = self.readout(f(z), t)
        z_flat, h_flat = layout.pack(z), layout.pack(h)
        p = self._accelerated(layout, z_flat, h_flat, previous)
        c_skip, c_out = (c.to(p).reshape(-1, 1) for c in self.boundary(t))
        return layout.unpack(c_skip * z_flat + c_out * p), History(z, h)

    def _accelerated(self, layout: Layout, z: Flat, h: Flat, previous: History | None) -> Flat:
        """P of Eq. (7)."""
        p = _relax(z, h, self.mixing)
        if previous is None or not self.accelerate:
            return p
        z_before, h_before = layout.pack(previous.z), layout.pack(previous.h)
        alpha = self._weight(h - z, h_before - z_before)
        return torch.lerp(_relax(z_before, h_before, self.mixing), p, alpha)

    def _weight(self, residual: Flat, before: Flat) -> Tensor:
        if self.detach_weights:
            residual, before = residual.detach(), before.detach()
        return two_point_weight(residual, before).unsqueeze(1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the student to a folder: weights as safetensors, settings as JSON."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        settings["train_cell"] = any(p.requires_grad for p in self.cell.parameters())
        readout = type(self.readout).__name__
        config = {"kind": _KIND, "teacher": self.teacher, "readout": readout}
        save_folder(folder, self, {**config, "settings": to_plain(settings)})

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
        check_kind(config, _KIND, source)
        require_teacher(config.get("teacher"), teacher, source)
        readout = teacher.readout()
        if config.get("readout") == MLPReadout.__name__ and isinstance(readout, LinearReadout):
            readout = MLPReadout(readout.features, axis=readout.axis)
        with making(_KIND, source):
            boundary = from_plain(Boundary, config["settings"]["boundary"])
            settings = {**config["settings"], "boundary": boundary}
            student = cls.from_teacher(teacher, readout=readout, **settings)
            student.load_state_dict(weights)
        return student.eval()


_KIND = "ConsistencyDEQ"
_SETTINGS = ("boundary", "mixing", "accelerate", "detach_weights")


def teacher_digest(teacher: Teacher) -> str:
    """The fingerprint by which a student knows its teacher: that of its cell's weights."""
    return digest_of(teacher.deq.cell)


def require_teacher(digest: str | None, teacher: Teacher, student: object) -> None:
    """Refuse a teacher whose student this is not.

    Raises:
        StoreError: Names both.
    """
    found = teacher_digest(teacher)
    if digest != found:
        raise StoreError(
            f"{student} is the student of another teacher, whose weights have the digest "
            f"{str(digest)[:12]}, not {found[:12]}; distil it, or load the student's own."
        )


def require_own(student: object, teacher: Teacher) -> None:
    """Refuse the student of another teacher; one that bears no digest says nothing.

    Raises:
        StoreError: Names both.
    """
    bearer = getattr(student, "teacher", None)
    if isinstance(bearer, str):  # a student of somebody's own may keep its teacher itself there
        require_teacher(bearer, teacher, type(student).__name__)


def placed(module: nn.Module, cell: nn.Module) -> nn.Module:
    """The module where the cell's parameters are, in their precision."""
    parameter = next(cell.parameters(), None)
    return module if parameter is None else module.to(parameter)


def _relax(z: Flat, h: Flat, beta: float) -> Flat:
    return h if beta == 1.0 else torch.lerp(z, h, beta)
