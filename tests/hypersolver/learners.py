"""Learned solvers for tests, with something to have learned."""

import pytest
import torch
from consistency.toys import TIMES, disturb
from problems import Taught
from torch import Tensor, nn

from cdeq.hypersolver.scope import PerPosition, Pooled
from cdeq.hypersolver.solver import HyperDEQ, HyperMemory
from cdeq.typing import Map, State

SCOPES = (Pooled(), PerPosition())
each_scope = pytest.mark.parametrize("scope", SCOPES, ids=str)
each_window = pytest.mark.parametrize("window", (0, 1, 3))


class Guess(nn.Module):
    """Looks at x alone."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, z: State, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def learned(taught: Taught, size: float = 0.3, **settings: object) -> HyperDEQ:
    """A solver whose weights are anything but the newest state's."""
    student = HyperDEQ.from_teacher(taught, width=10, **settings)
    disturb(student, size)
    return student


def memories(student: HyperDEQ, taught: Taught, steps: int) -> list[tuple[State, HyperMemory]]:
    """What each step of a run returns."""
    step, z, memory, found = student.bind(taught.x), taught.start, None, []
    with torch.no_grad():
        for t in TIMES[:steps]:
            z, memory = step(z, t, memory)
            found.append((z, memory))
    return found


Graph = tuple[Tensor, Tensor]


def along(x: Graph) -> Map:
    """Codes averaged over neighbours."""
    return lambda codes: x[0] @ codes
