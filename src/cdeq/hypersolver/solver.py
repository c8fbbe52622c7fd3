"""HyperDEQ: a learned start, then Anderson's form of step with learned weights."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import Self

from cdeq.consistency.student import Teacher, placed, require_teacher, teacher_digest
from cdeq.core.cell import bind
from cdeq.core.readout import LinearReadout, Time
from cdeq.core.state import Layout, like, tensors
from cdeq.errors import StoreError
from cdeq.hypersolver.network import Compression, Mixing, WindowNetwork
from cdeq.hypersolver.scope import PerPosition, Pooled, Scope
from cdeq.plain import from_plain, to_plain
from cdeq.pretrained import check_kind, load_folder, making, save_folder
from cdeq.typing import Context, Map, State

Neighbours: TypeAlias = Callable[[Context], Map]
"""Gives the map that averages numbers over the neighbours of each position, for a context."""


class HyperMemory(NamedTuple):
    """The window: the last m + 1 states at most, the newest last."""

    points: tuple[State, ...]
    """z_i."""
    values: tuple[State, ...]
    """f(z_i), kept and never recomputed."""
    codes: tuple[Tensor, ...]
    """What the network sees of f(z_i) - z_i."""
    mixing: Mixing
    """How the last step mixed them."""


class HyperDEQ(nn.Module):
    r"""A student that learns how to solve its teacher's equation, and leaves f as it is.

    .. math::
        z_0 &= \mathrm{init}(x) \\
        z_{k+1} &= \sum_{i = k - m_k}^{k} \alpha_i \,
            \big( \beta f(z_i) + (1 - \beta) z_i \big) , \qquad m_k = \min(k, m) ,

    where a small network (`WindowNetwork`) says α and β from the compressed residuals of the
    window. α sums to one, so a fixed point of f stays one, but whether the steps lead there is
    learned, not guaranteed: `certify` guarantees it. Untrained and without an initializer, this is
    Picard iteration to the last bit.

    A step evaluates f once. The initializer takes the place of the z_0 that a run is started from;
    it is no evaluation of f, and not counted as one, as in its paper.

    On graphs `neighbours` smooths the codes: IGNN-Solver's form, one sparse product a step with as
    many columns as a code has numbers.

    References:
        | Neural Deep Equilibrium Solvers (Bai et al., 2022)
        | https://openreview.net/forum?id=B0oHOwT5ENL
        | IGNN-Solver: A Graph Neural Solver for Implicit Graph Neural Networks (Lin et al., 2024)
        | https://arxiv.org/abs/2410.08524

    Arguments:
        cell: f, which is frozen.
        compression: Makes the codes, and says what shares one α.
        window: The number of earlier states m ≥ 0 kept besides the current one.
        initializer: Guesses z* from the context, called as `initializer(z_0, x)`; None starts
            where the run starts.
        neighbours: Smooths codes over the neighbours of a position, called as
            `neighbours(x)(codes)`, linear and without a constant; None leaves them.
        teacher: The digest of its teacher's weights; None when nobody shall ask.

    Raises:
        ValueError: When the window is negative, or codes are smoothed that no position has for
            its own.

    Example:
        >>> from cdeq import refine
        >>> from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
        >>> teacher = ContractionDEQ(ContractionSpec(channels=4))
        >>> student = HyperDEQ.from_teacher(teacher)
        >>> x = torch.rand(3, 1, 8, 8)
        >>> *_, z = refine(student, x, teacher.initial(x), torch.zeros(2))
        >>> bool(torch.equal(z, teacher.bind(x)(teacher.bind(x)(teacher.initial(x)))))
        True
    """

    def __init__(
        self,
        cell: nn.Module,
        compression: Compression,
        *,
        window: int = 5,
        initializer: nn.Module | None = None,
        neighbours: Neighbours | None = None,
        teacher: str | None = None,
    ) -> None:
        super().__init__()
        if window < 0:
            raise ValueError(
                f"`window` counts the earlier states m ≥ 0 that are kept; got {window}."
            )
        if neighbours is not None and not isinstance(compression.scope, PerPosition):
            raise ValueError(
                "`neighbours` smooths codes between positions, so each has its own, scope "
                f"PerPosition(); got {compression.scope}."
            )
        self.cell = cell.requires_grad_(False).eval()
        self.compression, self.network = compression, WindowNetwork(compression.width)
        self.window, self.initializer, self.neighbours = window, initializer, neighbours
        self.batched, self.teacher = compression.batched, teacher

    @classmethod
    def from_teacher(
        cls,
        teacher: Teacher,
        *,
        window: int = 5,
        width: int = 20,
        scope: Scope = Pooled(),
        initializer: nn.Module | None = None,
        neighbours: Neighbours | None = None,
    ) -> Self:
        """An untrained solver for a copy of the teacher's map, where the teacher is.

        Arguments:
            teacher: The model to copy; it is left alone.
            window: The number of earlier states m ≥ 0.
            width: Numbers in a code, a multiple of 5 from 10 up.
            scope: What shares one α: `Pooled` or `PerPosition`.
            initializer: Guesses z* from the context; see the class.
            neighbours: Smooths codes; see the class.

        Raises:
            TypeError: When the teacher's readout does not say what the features of its state are.
        """
        readout, cell = teacher.readout(), deepcopy(teacher.deq.cell)
        if not isinstance(readout, LinearReadout):
            raise TypeError(
                "what features a state has is read off the teacher's readout, a LinearReadout; "
                f"got {type(readout).__name__}: build a Compression for the state."
            )
        compression = Compression(
            readout.features,
            axis=readout.axis,
            width=width,
            scope=scope,
            batched=teacher.deq.batched,
        )
        student = cls(
            cell,
            compression,
            window=window,
            initializer=initializer,
            neighbours=neighbours,
            teacher=teacher_digest(teacher),
        )
        home = readout if next(cell.parameters(), None) is None else cell
        for part in (student.compression, student.network, student.initializer or nn.Identity()):
            placed(part, home)  # one by one: f stays as it is, whatever its parts are
        return student

    def bind(
        self, x: Context
    ) -> Callable[[State, Tensor, HyperMemory | None], tuple[State, HyperMemory]]:
        """The solver for one context; f's constant work is done once for all steps."""
        f = bind(self.cell, x)
        smooth = None if self.neighbours is None else self.neighbours(x)

        def step(z: State, t: Tensor, memory: HyperMemory | None) -> tuple[State, HyperMemory]:
            z = self.start(z, x) if memory is None else z
            layout = Layout.of(z, batched=self.batched)
            value = layout.unpack(layout.pack(f(z)))
            with torch.autocast(layout.device.type, enabled=False):  # that is for f alone
                return self._step(z, value, smooth, memory)

        return step

    def forward(
        self, z: State, t: Time, x: Context, previous: HyperMemory | None = None
    ) -> tuple[State, HyperMemory]:
        """One step from z, and the memory to pass to the next; the time says nothing here."""
        return self.bind(x)(z, t, previous)

    def start(self, z0: State, x: Context) -> State:
        """Where a run begins: the initializer's guess, or z_0.

        Raises:
            ValueError: When the guess is no state like z_0.
        """
        if self.initializer is None:
            return z0
        guess, dtype = self.initializer(z0, x), tensors(z0)[0].dtype
        guess = like(guess, tuple(part.to(dtype) for part in tensors(guess)))
        wanted, found = (Layout.of(z, batched=self.batched) for z in (z0, guess))
        if wanted != found:
            raise ValueError(
                "an initializer guesses a state of the form of z_0, "
                f"{[tuple(shape) for shape in wanted.shapes]} on {wanted.device}; got "
                f"{[tuple(shape) for shape in found.shapes]} on {found.device}."
            )
        return guess

    def mixed_residual(self, memory: HyperMemory) -> State:
        r"""What the last step's weights make of the residuals, :math:`\sum_i \alpha_i (f(z_i) -
        z_i)`: the vector that Anderson acceleration makes as short as possible."""
        z, value = (self._mixed(states, memory.mixing) for states in memory[:2])
        return _difference(value, z)

    def _step(
        self, z: State, value: State, smooth: Map | None, memory: HyperMemory | None
    ) -> tuple[State, HyperMemory]:
        code, kept = self.compression(_difference(value, z), smooth), self.window + 1
        points, values, codes = ((), (), ()) if memory is None else memory[:3]
        points, values = (*points, z)[-kept:], (*values, value)[-kept:]
        codes = (*codes, code)[-kept:]
        mixing = self.network(torch.stack(codes, dim=2))
        ends = (tensors(self._mixed(states, mixing)) for states in (points, values))
        parts = (
            torch.lerp(a, b, self._spread(mixing.beta, a)) for a, b in zip(*ends, strict=True)
        )
        return like(z, tuple(parts)), HyperMemory(points, values, codes, mixing)

    def _mixed(self, states: tuple[State, ...], mixing: Mixing) -> State:
        """Σ α_i z_i."""
        windows = zip(*map(tensors, states), strict=True)
        return like(states[0], tuple(self._weighted(window, mixing.alpha) for window in windows))

    def _weighted(self, window: tuple[Tensor, ...], alpha: Tensor) -> Tensor:
        oldest, *others = zip(window, alpha.unbind(1), strict=True)
        total = oldest[0] * self._spread(oldest[1], oldest[0])
        for part, weight in others:  # in place: neither factor's gradient needs the sum
            total = total.addcmul_(part, self._spread(weight, part))
        return total

    def _spread(self, weight: Tensor, part: Tensor) -> Tensor:
        form = self.compression
        return form.scope.spread(weight, part, axis=form.axis, batched=form.batched)

    def train(self, mode: bool = True) -> Self:
        """Only what is learned trains: the teacher's map stays in evaluation mode."""
        super().train(mode)
        self.cell.eval()
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the student to a folder: what it learned as safetensors, settings as JSON.

        Raises:
            StoreError: When its scope is of a kind that `from_pretrained` does not know.
        """
        scope = self.compression.scope
        if not isinstance(scope, _SCOPES):
            raise StoreError(
                "a saved student's `scope` is Pooled() or PerPosition(), which can be read back; "
                f"got {scope!r}: keep this student's `state_dict()` instead."
            )
        config = {
            "kind": _KIND,
            "teacher": self.teacher,
            "window": self.window,
            "width": self.compression.width,
            "scope": to_plain(scope),
            "smoothed": self.neighbours is not None,
        }
        save_folder(folder, _learned(self), config)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        teacher: Teacher,
        *,
        initializer: nn.Module | None = None,
        neighbours: Neighbours | None = None,
    ) -> Self:
        """Read a student from a folder or a hub repository.

        Arguments:
            source: The folder.
            teacher: Its teacher.
            initializer: A fresh module of the kind it was built with, if it was built with one.
            neighbours: What it was built with, if it was.

        Raises:
            StoreError: When the folder is damaged, or the student has another teacher.
        """
        config, weights = load_folder(source)
        check_kind(config, _KIND, source)
        require_teacher(config.get("teacher"), teacher, source)
        with making(_KIND, source):
            if config["smoothed"] != (neighbours is not None):
                raise ValueError(
                    f"its codes are smoothed: {config['smoothed']}; one that was built with "
                    "`neighbours`, and no other, is read with them"
                )
            student = cls.from_teacher(
                teacher,
                window=config["window"],
                width=config["width"],
                scope=from_plain(_SCOPES, config["scope"]),
                initializer=initializer,
                neighbours=neighbours,
            )
            expected = _learned(student)
            if expected.keys() != weights.keys():
                raise ValueError(
                    f"it holds {sorted(weights)}, and a student like that has {sorted(expected)}; "
                    "one that was built with an `initializer` is read with another such"
                )
            student.load_state_dict(weights, strict=False)
        return student.eval()


_KIND = "HyperDEQ"
_SCOPES = Pooled | PerPosition


def _learned(student: nn.Module) -> dict[str, Tensor]:
    """What the teacher does not tell."""
    return {n: value for n, value in student.state_dict().items() if not n.startswith("cell.")}


def _difference(value: State, z: State) -> State:
    pairs = zip(tensors(value), tensors(z), strict=True)
    return like(z, tuple(one - other for one, other in pairs))
