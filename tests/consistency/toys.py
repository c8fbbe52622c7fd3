"""Runs of students on the zoo's teachers, and the forms of what they learn."""

from collections.abc import Callable
from dataclasses import replace

import problems
import torch
from problems import Taught, image_teacher, vector_teacher
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cdeq import ExponentialSchedule, Solution, refine, solve
from cdeq.consistency.increments import Full, Increments, LowRank, Shared
from cdeq.core.state import like, tensors
from cdeq.models.function import FunctionModel
from cdeq.typing import Context, State

TIMES = ExponentialSchedule().times(100)
FORMS: dict[str, Increments] = {
    "full": Full(),
    "low-rank": LowRank(rank=1),
    "gated": Shared(decay=0.5),
    "annealed": Shared(decay=0.7, learned=False),
}


def run(student, taught: Taught, steps: int) -> list[State]:
    """The states of inference."""
    with torch.no_grad():
        return list(refine(student, taught.x, taught.start, TIMES[:steps]))


def equal(one: State, other: State) -> bool:
    return all(map(torch.equal, tensors(one), tensors(other)))


def close(one: State, other: State) -> bool:
    return all(map(torch.allclose, tensors(one), tensors(other)))


@torch.no_grad()
def disturb(module: nn.Module, size: float = 0.1, seed: int = 0) -> None:
    """Move whatever is trained, by the same numbers for the same module."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            parameter.add_(size * noise.to(parameter))


def normed_vector_teacher(dtype: torch.dtype, device: torch.device = problems.CPU) -> Taught:
    """Its weight is already a function of others: a direction and a length."""
    taught = vector_teacher(dtype, device)
    weight_norm(taught.deq.cell.mix)
    return taught


def normed_image_teacher(dtype: torch.dtype, device: torch.device = problems.CPU) -> Taught:
    taught = image_teacher(dtype, device)
    weight_norm(taught.deq.cell.conv)
    return taught


TEACHERS = (*problems.TEACHERS, normed_vector_teacher, normed_image_teacher)


def shapes_of(state: State, *, batched: bool) -> tuple:
    shapes = tuple(tuple(part.shape[batched:]) for part in tensors(state))
    return shapes[0] if isinstance(state, Tensor) else shapes


def as_model(taught: Taught, **settings: object) -> FunctionModel:
    """A teacher with all that inference asks for."""
    batched = taught.deq.batched
    shapes = shapes_of(taught.start, batched=batched)
    return FunctionModel(taught.deq.cell, shapes, batched=batched, **settings)


FIELDS = {
    problems.cosine: "start",
    problems.contraction: "offset",
    problems.rotation: "offset",
    problems.stiff: "offset",
    problems.tanh: "solution",
    problems.coupled: "solution",
    problems.propagation: "solution",
}
"""What tells a problem's samples apart, hence the context."""


class Rows:
    """A map of state and context that counts the samples it is evaluated for."""

    def __init__(self, f: Callable[..., State]) -> None:
        self.f, self.sizes = f, list[int]()

    def __call__(self, z: State, x: Context) -> State:
        self.sizes.append(len(tensors(z)[0]))
        return self.f(z, x)


def modelled(make, dtype, device, **settings: object) -> tuple[FunctionModel, Context, Rows]:
    """A problem as a model, its context, and the counter of what it costs."""
    problem, field = make(dtype, device), FIELDS[make]
    rows = Rows(lambda z, x: replace(problem, **{field: x})(z))
    model = FunctionModel(
        rows,
        shapes_of(problem.start, batched=problem.batched),
        initial=lambda x: replace(problem, **{field: x}).start,
        axis=-1,
        batched=problem.batched,
        **settings,
    )
    return model.to(tensors(problem.start)[0]), getattr(problem, field), rows


class Jump:
    """A student that goes where it is told."""

    def __init__(self, goal: State) -> None:
        self.goal = goal

    def bind(self, x: Context) -> Callable[[State, Tensor, None], tuple[State, None]]:
        return lambda z, t, memory: (self.goal, memory)


TOL = 1e-8


def alone(model: FunctionModel, x: Context, max_steps: int = 100, tol: float = TOL) -> Solution:
    """What the teacher's own solver finds."""
    options = {"max_steps": max_steps, "tol": tol, "batched": model.deq.batched}
    with torch.no_grad():
        return solve(model.bind(x), model.initial(x), model.deq.solver, **options)


def only(z: State, chosen: Tensor) -> State:
    """z in the chosen samples, not a number in the others."""
    return like(z, tuple(_spoilt(part.clone(), ~chosen) for part in tensors(z)))


def _spoilt(part: Tensor, rows: Tensor) -> Tensor:
    part[rows] = torch.nan
    return part


def scaled(z: State, factor: float) -> State:
    """Somewhere else, a sample each."""
    return like(z, tuple(factor * (part + 1) for part in tensors(z)))
