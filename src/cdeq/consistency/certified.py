"""Certified inference: a student's steps, then the teacher's solver to a residual per sample."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cdeq.consistency.refine import Student, refine
from cdeq.consistency.student import Teacher, require_own
from cdeq.consistency.time import ExponentialSchedule, Schedule
from cdeq.core.norms import relative
from cdeq.core.solve import Solution, require_budget, require_tolerance
from cdeq.core.solvers import Solver
from cdeq.core.state import Layout, tensors
from cdeq.core.tree import take_samples
from cdeq.typing import Context, Flat, FlatMap, Map, PerSample, State


class Certifier(Teacher, Protocol):
    """What is asked of a teacher here; every `EquilibriumModel` has it."""

    def initial(self, x: Context) -> State: ...
    def bind(self, x: Context) -> Map: ...
    def select(self, x: Context, rows: Int[Tensor, " n"], samples: int) -> Context: ...


@dataclass(frozen=True, kw_only=True)
class Certificate(Solution):
    """A solution whose every state comes with its measured residual.

    `steps` counts all evaluations that a sample took, the student's included; `errors` are those
    of the solver's run that gave the answer, repeated at the end where a sample took fewer.
    """

    fallback: Bool[Tensor, " b"]
    """Samples whose answer comes from the solver's run from z_0, since the student's start was not
    finite or led to no answer."""

    @property
    def residual(self) -> PerSample:
        """The residual of the teacher's equation at z, measured by an evaluation that counts."""
        return self.errors[-1]

    @property
    def nfe(self) -> int:
        """The evaluations of the sample that took most."""
        return max(self.steps.tolist(), default=0)


@torch.no_grad()
def certify(
    model: Certifier,
    student: Student | None,
    x: Context,
    *,
    tol: float,
    steps: int,
    max_steps: int = 100,
    solver: Solver[Any] | None = None,
    schedule: Schedule = ExponentialSchedule.from_ratio(0.5),
    check: bool = True,
) -> Certificate:
    r"""Find :math:`\|f(z, x) - z\| \le \text{tol} \, \|f(z, x)\|` for each sample, quickly.

    The student takes `steps` steps, then the teacher's own solver goes on with a fresh window; a
    sample leaves the batch as soon as its residual is at most `tol`. One for which that does not
    end well (the student's state, or the solver's run from it, is not finite, or the run exceeds
    its budget) starts again at z_0. So **every sample that the solver alone certifies within
    `max_steps` is certified**: a bad student costs evaluations, at most `steps + 2 max_steps` a
    sample, never correctness.

    Arguments:
        model: The teacher.
        student: Its student; None for the solver alone.
        x: The context.
        tol: The relative residual of the *teacher's* equation that is asked for.
        steps: The student's evaluations, ≥ 0.
        max_steps: The solver's budget a run, ≥ 1.
        solver: The solver; None takes the teacher's own.
        schedule: The virtual times of the student's steps.
        check: Compare the digest of the teacher's weights with the one that the student bears,
            which reads all weights; a server does so once.

    Raises:
        ValueError: When a setting is outside its range, or the student's state has another shape.
        StoreError: When the student is another teacher's.

    Example:
        >>> from cdeq import FunctionModel, UntiedDEQ
        >>> model = FunctionModel(lambda z, x: torch.cos(z) + x, (4,))
        >>> student = UntiedDEQ.from_teacher(model)
        >>> certify(model, student, torch.rand(3, 4), tol=1e-3, steps=2).status.name
        'CONVERGED'
    """
    _require_steps(steps)
    require_budget(max_steps)
    z0 = model.initial(x)
    layout = Layout.of(z0, batched=model.deq.batched)
    require_tolerance(tol, relative, layout.dtype)
    run = _Search(model, x, layout, solver or model.deq.solver, tol, max_steps)
    everyone = torch.ones(layout.samples, dtype=torch.bool, device=layout.device)
    if student is None or steps == 0:
        return _certificate(layout, run.search(layout.pack(z0), everyone), ~everyone, 0)
    if check:
        require_own(student, model)
    *_, z = refine(student, x, z0, schedule.times(steps))
    start = _packed(layout, z)
    first = run.search(start, start.isfinite().all(1))
    second = run.search(layout.pack(z0), ~first.converged)
    return _certificate(layout, _combined(first, second), ~first.converged, steps)


def _require_steps(steps: int) -> None:
    if steps < 0:
        raise ValueError(f"`steps` counts the student's evaluations, at least 0; got {steps}.")


class _Found(NamedTuple):
    """What runs found."""

    z: Flat
    """Where each sample's residual was measured last."""
    errors: Float[Tensor, "k b"]
    """The residuals on the way; ∞ for a sample that was not asked for."""
    steps: Int[Tensor, " b"]
    converged: Bool[Tensor, " b"]


@dataclass(frozen=True)
class _Search:
    """The solver's runs for one batch."""

    model: Certifier
    x: Context
    layout: Layout
    solver: Solver[Any]
    tol: float
    max_steps: int

    def search(self, start: Flat, wanted: Bool[Tensor, " b"]) -> _Found:
        """Run the solver for some of the samples; one that is finished leaves the batch."""
        answer, wide = start.clone(), torch.promote_types(start.dtype, torch.float32)
        error = torch.full_like(wanted, torch.inf, dtype=wide)  # as residuals are measured
        steps, errors = torch.zeros_like(wanted, dtype=torch.long), []
        (rows,) = wanted.nonzero(as_tuple=True)
        z = start[rows]
        memory, f = self.solver.init(z), self._map(rows)
        while len(rows) and len(errors) < self.max_steps:
            step = self.solver.step(f, z, memory)
            now = relative(step.residual, step.value)
            answer[rows], error[rows] = z, now
            steps[rows] += 1
            errors.append(error.clone())
            going = (now > self.tol) & now.isfinite()
            z, memory = step.z, step.state
            if not bool(going.all()):
                memory = take_samples(memory, going, len(rows))
                z, rows = z[going], rows[going]
                f = self._map(rows)
        history = torch.stack(errors) if errors else error.unsqueeze(0)
        return _Found(answer, history, steps, error <= self.tol)

    def _map(self, rows: Int[Tensor, " n"]) -> FlatMap:
        """f for some of the samples, between rows."""
        if not len(rows):
            return lambda z: z  # nobody is left to call it
        total = self.layout.samples
        x = self.x if len(rows) == total else self.model.select(self.x, rows, total)
        return self.layout.narrowed(len(rows)).lift(self.model.bind(x))


def _combined(first: _Found, second: _Found) -> _Found:
    """The second run's answers where the first has none, and the evaluations of both."""
    length = max(len(first.errors), len(second.errors))
    one, other = (_extended(found.errors, length) for found in (first, second))
    return _Found(
        torch.where(first.converged.unsqueeze(1), first.z, second.z),
        torch.where(first.converged, one, other),
        first.steps + second.steps,
        first.converged | second.converged,
    )


def _extended(errors: Tensor, length: int) -> Tensor:
    """The errors with the last row repeated."""
    return torch.cat([errors, errors[-1:].expand(length - len(errors), -1)])


def _certificate(
    layout: Layout, found: _Found, fallback: Bool[Tensor, " b"], before: int
) -> Certificate:
    return Certificate(
        z=layout.unpack(found.z),
        errors=found.errors,
        steps=found.steps + before,
        converged=found.converged,
        fallback=fallback,
    )


def _packed(layout: Layout, z: State) -> Flat:
    try:
        return layout.pack(z)
    except ValueError as error:
        raise ValueError(
            "the solver goes on from the student's state, so it has the form of the teacher's "
            f"z_0, {[tuple(shape) for shape in layout.shapes]} of {layout.dtype}; got "
            f"{[tuple(part.shape) for part in tensors(z)]} of {tensors(z)[0].dtype}: another "
            "model's student?"
        ) from error
