"""The run: a generator of iterates, and a fold over it.

A generator has no grad mode of its own: what counts is the mode in which it is consumed. Nothing
here touches it, so consuming with gradients enabled unrolls the solver.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import count, islice
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import Self

from cdeq.core.norms import Norm, relative
from cdeq.core.solvers import Anderson, Solver
from cdeq.core.state import Layout, like, tensors
from cdeq.errors import SolveError
from cdeq.typing import Map, PerSample, State


class Status(Enum):
    """How a solve ended, worst sample first; the value is the message."""

    NONFINITE = (
        "f returned a value that is not finite for at least one sample; check x and z0 for NaN, "
        "or make f a contraction (weight normalisation, a Jacobian penalty)"
    )
    MAX_STEPS = (
        "stopped after `max_steps` evaluations before every sample reached `tol`; raise "
        "`max_steps`, loosen `tol`, or check that f is a contraction"
    )
    CONVERGED = "every sample's residual is at most `tol`"


class Iterate(NamedTuple):
    """One point of a run, and what its predecessor's evaluation showed."""

    k: int
    """Evaluations spent so far."""
    z: State
    """z_k."""
    error: PerSample
    """The residual's norm at z_{k-1}."""
    active: Bool[Tensor, " b"]
    """Samples that this evaluation moved: not converged and finite."""


def iterate(
    f: Map,
    z0: State,
    solver: Solver = Anderson(),
    *,
    tol: float | None = None,
    norm: Norm = relative,
    batched: bool = True,
) -> Iterator[Iterate]:
    """Yield z_1, z_2, … at the price of one evaluation of f each, without end.

    With `tol`, a sample whose residual is at most `tol`, or not finite, stays at the point where
    that was measured, and the run ends when no sample moves any more. Without it, nothing is
    inspected and the host is never synchronised.

    Arguments:
        f: The map z ↦ f(z, x), its context bound.
        z0: Where to start.
        solver: How to get from point to point.
        tol: The residual norm that counts as converged.
        norm: How large a residual is.
        batched: Whether the first dimension counts samples; without it the state is one sample.

    Raises:
        ValueError: When `tol` cannot be met in the state's precision, or f changes shape, dtype or
            device.
        TypeError: When z0 is no state.

    Example:
        >>> from cdeq import Picard, iterate
        >>> for k, z, error, _ in iterate(torch.cos, torch.zeros(1, 1), Picard(), tol=0.2):
        ...     print(k, round(z.item(), 4), round(error.item(), 4))
        1 1.0 1.0
        2 0.5403 0.8508
        3 0.8576 0.3699
        4 0.6543 0.3107
        5 0.6543 0.1754
    """
    layout = Layout.of(z0, batched=batched)
    require_tolerance(tol, norm, layout.dtype)
    z = layout.pack(z0)
    packed_f, state = layout.lift(f), solver.init(z)
    active = torch.ones(layout.samples, dtype=torch.bool, device=layout.device)
    for k in count(1):
        step = solver.step(packed_f, z, state)
        error, state = norm(step.residual, step.value), step.state
        moving = layout.samples
        if tol is not None:
            active = active & (error > tol) & torch.isfinite(error)
            moving = int(active.sum())
        all_move = moving == layout.samples
        z = step.z if all_move else torch.where(active.unsqueeze(1), step.z, z)
        yield Iterate(k, layout.unpack(z), error, active)
        if moving == 0:
            return


@dataclass(frozen=True)
class Solution:
    """What a solve found; numerical trouble is data here, not an exception."""

    z: State
    """The last iterate, or the best one where that was asked for."""
    errors: Float[Tensor, "k b"]
    """The residual norm at z_0 … z_{K-1}; row k is the price of evaluation k + 1."""
    steps: Int[Tensor, " b"]
    """Evaluations each sample needed: up to the one that showed it converged or not finite."""
    converged: Bool[Tensor, " b"]
    """Whether the sample's residual was seen to be at most `tol`; all False without `tol`."""
    trajectory: tuple[State, ...] | None = None
    """z_0 … z_K, the true iterates, K + 1 of them, where recording was asked for."""

    @property
    def nfe(self) -> int:
        """How often f was evaluated."""
        return self.errors.shape[0]

    @property
    def finite(self) -> Bool[Tensor, " b"]:
        """Whether every evaluation of the sample was finite."""
        return torch.isfinite(self.errors).all(0)

    @property
    def statuses(self) -> tuple[Status, ...]:
        """How each sample ended."""
        ends = zip(self.finite.tolist(), self.converged.tolist(), strict=True)
        return tuple(
            Status.CONVERGED if done else Status.MAX_STEPS if finite else Status.NONFINITE
            for finite, done in ends
        )

    @property
    def status(self) -> Status:
        """The outcome of the worst sample."""
        if not bool(self.finite.all()):
            return Status.NONFINITE
        return Status.CONVERGED if bool(self.converged.all()) else Status.MAX_STEPS

    def check(self) -> Self:
        """This solution, if it converged.

        Raises:
            SolveError: When it did not; says how many samples, and what to do.
        """
        if self.status is not Status.CONVERGED:
            done, total = int(self.converged.sum()), self.converged.numel()
            raise SolveError(f"{done} of {total} samples converged: {self.status.value}.")
        return self


def solve(
    f: Map,
    z0: State,
    solver: Solver = Anderson(),
    *,
    max_steps: int,
    tol: float | None = None,
    norm: Norm = relative,
    record: bool = False,
    best: bool = False,
    batched: bool = True,
) -> Solution:
    r"""Find :math:`z^* = f(z^*)` from z0, with at most `max_steps` evaluations of f.

    Arguments:
        f: The map z ↦ f(z, x), its context bound.
        z0: Where to start.
        solver: The method.
        max_steps: The budget K ≥ 1. Without `tol` it is spent to the last evaluation.
        tol: Stop a sample when its residual norm is at most this; its z is then the very point
            where that was measured.
        norm: How large a residual is.
        record: Keep the trajectory z_0 … z_K.
        best: Return, sample by sample, the iterate among z_0 … z_{K-1} whose measured residual is
            smallest, instead of z_K, whose residual nobody has measured.
        batched: Whether the first dimension counts samples; without it the state is one sample.

    Raises:
        ValueError: When `max_steps` < 1, `tol` cannot be met in the state's precision, or f
            changes shape, dtype or device.
        TypeError: When z0 is no state.

    Example:
        >>> from cdeq import Anderson, solve
        >>> solution = solve(torch.cos, torch.zeros(1, 1), Anderson(), max_steps=20, tol=1e-5)
        >>> solution.z, solution.nfe, solution.status.name
        (tensor([[0.7391]]), 6, 'CONVERGED')
    """
    require_budget(max_steps)
    layout = Layout.of(z0, batched=batched)
    run = islice(iterate(f, z0, solver, tol=tol, norm=norm, batched=batched), max_steps)
    z, trajectory, errors, moved = z0, [z0], [], []
    leader = _Leader(layout, z0) if best else None
    for point in run:
        if leader is not None:
            leader = leader.challenge(z, point.error)
        z = point.z
        errors.append(point.error)
        moved.append(point.active)
        if record:
            trajectory.append(z)
    all_errors, active = torch.stack(errors), torch.stack(moved)
    return Solution(
        z=z if leader is None else layout.unpack(leader.z),
        errors=all_errors,
        steps=(active.sum(0) + 1).clamp_max(len(errors)),
        converged=~active[-1] & torch.isfinite(all_errors).all(0),
        trajectory=tuple(trajectory) if record else None,
    )


class _Leader:
    """The best measured iterate of each sample so far."""

    def __init__(self, layout: Layout, z0: State, error: Tensor | None = None) -> None:
        self.layout, self.z, self.error = layout, layout.pack(z0), error

    def challenge(self, z: State, error: Tensor) -> "_Leader":
        if self.error is None:
            return _Leader(self.layout, z, error)
        better = (error < self.error) | (torch.isfinite(error) & ~torch.isfinite(self.error))
        rows = torch.where(better.unsqueeze(1), self.layout.pack(z), self.z)
        return _Leader(
            self.layout, self.layout.unpack(rows), torch.where(better, error, self.error)
        )


def residual_norm(f: Map, z: State, *, norm: Norm = relative, batched: bool = True) -> PerSample:
    """The residual norm of each sample at z; costs one evaluation of f.

    Arguments:
        f: The map z ↦ f(z, x), its context bound.
        z: Where to look.
        norm: How large a residual is.
        batched: Whether the first dimension counts samples.

    Example:
        >>> residual_norm(torch.cos, torch.zeros(1, 1))
        tensor([1.])
    """
    layout = Layout.of(z, batched=batched)
    rows, value = layout.pack(z), layout.pack(f(z))
    return norm(value - rows, value)


def relative_error(z: State, target: State, *, batched: bool = True) -> PerSample:
    r"""How far each sample is from a known answer, :math:`\|z - z^*\| / \|z^*\|`.

    Arguments:
        z: The states.
        target: z*.
        batched: Whether the first dimension counts samples.

    Example:
        >>> relative_error(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([1.])
    """
    layout = Layout.of(target, batched=batched)
    goal = layout.pack(target)
    return relative(layout.pack(like(target, tensors(z))) - goal, goal)


def require_budget(max_steps: int) -> None:
    """Refuse a budget that is not a whole number of evaluations, at least one.

    Raises:
        ValueError: Says what came.
    """
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(
            f"`max_steps` is the number of evaluations of f, at least 1; got {max_steps!r}."
        )


def require_tolerance(tol: float | None, norm: Norm, dtype: torch.dtype) -> None:
    """Refuse a tolerance that no state of this precision can meet.

    Raises:
        ValueError: Says what the precision resolves.
    """
    if tol is None:
        return
    if not tol > 0.0:
        raise ValueError(
            f"`tol` is a positive residual norm, or None for a fixed budget; got {tol}."
        )
    eps = torch.finfo(dtype).eps
    if norm is relative and tol < eps:
        raise ValueError(
            f"`tol` is a relative residual, which {dtype} resolves down to {eps:.1e}; got {tol}; "
            "loosen it or solve in a wider dtype."
        )
