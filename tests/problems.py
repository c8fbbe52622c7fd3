"""The zoo: small maps z ↦ f(z) whose fixed point is known, each with its spectral radius.

A problem is a frozen value and is itself the map. `ZOO` holds functions that build one in a dtype
on a device. A map F gets a chosen solution z* by a shift, f = F + (z* - F(z*)), or inside its
nonlinearity.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from cdeq import DEQ, RK4, Anderson, Broyden, Euler, LinearReadout, Picard
from cdeq.core.state import Layout, like, tensors, zeros_like
from cdeq.typing import Context, Map, State

CPU = torch.device("cpu")
DOTTIE = 0.739085133215160641655312087674
"""The fixed point of the cosine."""

SOLVERS = {
    "picard": Picard(),
    "damped": Picard(damping=0.5),
    "window0": Anderson(window=0),
    "window2": Anderson(window=2),
    "anderson": Anderson(),
    "mixing": Anderson(mixing=0.7),
    "ridge": Anderson(ridge=1e-3),
    "broyden": Broyden(),
    "memory2": Broyden(memory=2),
    "euler": Euler(size=0.5),
    "rk4": RK4(size=0.5),
}


def seeded(*shape: int, seed: int, dtype: torch.dtype, device: torch.device = CPU) -> Tensor:
    """The same normal numbers in every precision and everywhere."""
    draw = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return draw.to(device, dtype)


def jacobians(f: Map, z: State, *, batched: bool = True) -> Tensor:
    """The dense Jacobian of every sample, `(b, d, d)`, by one backward pass an output."""
    layout = Layout.of(z, batched=batched)
    total = torch.autograd.functional.jacobian(
        lambda rows: layout.lift(f)(rows).sum(0), layout.pack(z)
    )
    return total.transpose(0, 1)


def distance(z: State, target: State, *, batched: bool = True) -> Tensor:
    """‖z - z*‖ of each sample, measured in float64."""
    layout = Layout.of(target, batched=batched)
    return torch.linalg.vector_norm(layout.pack(z).double() - layout.pack(target).double(), dim=1)


def rows(state: State, index: int | slice | Tensor) -> State:
    """Some samples of a batched state."""
    return like(state, tuple(part[index] for part in tensors(state)))


class Counted:
    """A map that counts how often it is evaluated."""

    def __init__(self, f: Callable[..., State]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, *args: object) -> State:
        self.calls += 1
        return self.f(*args)


class Problem(ABC):
    """A map with a known answer."""

    batched: ClassVar[bool] = True
    start: State
    solution: State

    @abstractmethod
    def __call__(self, z: State) -> State: ...

    @property
    def radius(self) -> Tensor:
        """The spectral radius of the Jacobian at the solution, a sample."""
        dense = jacobians(self, self.solution, batched=self.batched)
        return torch.linalg.eigvals(dense.double()).abs().amax(1)

    def miss(self, z: State) -> Tensor:
        """The distance to the solution, relative to its size, a sample."""
        size = distance(zeros_like(self.solution), self.solution, batched=self.batched)
        return distance(z, self.solution, batched=self.batched) / size


@dataclass(frozen=True)
class Cosine(Problem):
    """z ↦ cos z, with radius sin z* = 0.674."""

    start: Tensor

    def __call__(self, z: State) -> State:
        return torch.cos(z)

    @property
    def solution(self) -> Tensor:
        return torch.full_like(self.start, DOTTIE)


@dataclass(frozen=True)
class Linear(Problem):
    """z ↦ A z + b, with z* = (I - A)⁻¹ b."""

    matrix: Tensor
    offset: Tensor

    def __call__(self, z: State) -> State:
        return z @ self.matrix.T + self.offset

    @property
    def start(self) -> Tensor:
        return torch.zeros_like(self.offset)

    @property
    def solution(self) -> Tensor:
        eye = torch.eye(len(self.matrix), dtype=torch.float64, device=self.matrix.device)
        exact = torch.linalg.solve(eye - self.matrix.double(), self.offset.double().T).T
        return exact.to(self.offset.dtype)


@dataclass(frozen=True)
class Tanh(Problem):
    """A layer, z ↦ tanh(W (z - z*) + atanh z*)."""

    weight: Tensor
    solution: Tensor

    def __call__(self, z: State) -> State:
        return torch.tanh((z - self.solution) @ self.weight.T + torch.atanh(self.solution))

    @property
    def start(self) -> Tensor:
        return torch.zeros_like(self.solution)


@dataclass(frozen=True)
class Coupled(Problem):
    """Two tensors of different shapes that see each other; no matrix product anywhere."""

    solution: tuple[Tensor, Tensor]

    def __call__(self, z: State) -> State:
        parts = zip(_couple(*z), _couple(*self.solution), self.solution, strict=True)
        return tuple(new - at_solution + goal for new, at_solution, goal in parts)

    @property
    def start(self) -> State:
        return zeros_like(self.solution)


def _couple(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(b, 2, 3) and (b, 4)."""
    return (
        0.4 * torch.tanh(u + v[:, :1].unsqueeze(1)),
        0.5 * torch.sin(v) + 0.3 * u.flatten(1)[:, :4],
    )


@dataclass(frozen=True)
class Propagation(Problem):
    """A graph as one sample: z ↦ tanh(Â (z - z*) W + atanh z*)."""

    adjacency: Tensor
    weight: Tensor
    solution: Tensor
    batched: ClassVar[bool] = False

    def __call__(self, z: State) -> State:
        change = self.adjacency @ (z - self.solution) @ self.weight
        return torch.tanh(change + torch.atanh(self.solution))

    @property
    def start(self) -> Tensor:
        return torch.zeros_like(self.solution)


def cosine(dtype: torch.dtype, device: torch.device = CPU) -> Cosine:
    return Cosine(torch.tensor([[0.0], [0.4], [1.3]], dtype=dtype, device=device))


def contraction(dtype: torch.dtype, device: torch.device = CPU) -> Linear:
    """A random matrix of radius 0.8, far from normal."""
    basis = seeded(5, 5, seed=1, dtype=torch.float64, device=device)
    values = torch.tensor([0.8, 0.5, -0.4, 0.3, 0.1], dtype=torch.float64, device=device)
    matrix = basis @ torch.diag(values) @ basis.inverse()
    return Linear(matrix.to(dtype), seeded(3, 5, seed=2, dtype=dtype, device=device))


def rotation(dtype: torch.dtype, device: torch.device = CPU) -> Linear:
    """Two right angles, scaled by 1.1: Picard spirals outwards."""
    turn = torch.tensor([[0.0, -1.1], [1.1, 0.0]], dtype=dtype, device=device)
    matrix = torch.block_diag(turn, turn)
    return Linear(matrix, seeded(3, 4, seed=3, dtype=dtype, device=device))


def stiff(dtype: torch.dtype, device: torch.device = CPU) -> Linear:
    """Symmetric, with 1 - λ from 0.01 to 1: Picard needs a thousand steps."""
    basis = torch.linalg.qr(seeded(5, 5, seed=4, dtype=torch.float64, device=device)).Q
    values = 1 - torch.logspace(-2, 0, 5, dtype=torch.float64, device=device)
    matrix = basis @ torch.diag(values) @ basis.T
    return Linear(matrix.to(dtype), seeded(3, 5, seed=5, dtype=dtype, device=device))


def tanh(dtype: torch.dtype, device: torch.device = CPU) -> Tanh:
    weight = 0.35 * seeded(6, 6, seed=6, dtype=dtype, device=device)
    return Tanh(weight, torch.tanh(seeded(3, 6, seed=7, dtype=dtype, device=device)))


def coupled(dtype: torch.dtype, device: torch.device = CPU) -> Coupled:
    u = seeded(3, 2, 3, seed=8, dtype=dtype, device=device)
    return Coupled((u, seeded(3, 4, seed=9, dtype=dtype, device=device)))


def propagation(dtype: torch.dtype, device: torch.device = CPU) -> Propagation:
    """A ring of six nodes."""
    ring = torch.eye(6, dtype=dtype, device=device)
    adjacency = (ring + ring.roll(1, 0) + ring.roll(-1, 0)) / 3
    weight = 0.4 * seeded(2, 2, seed=10, dtype=dtype, device=device)
    solution = torch.tanh(seeded(6, 2, seed=11, dtype=dtype, device=device))
    return Propagation(adjacency, weight, solution)


ZOO = (cosine, contraction, rotation, stiff, tanh, coupled, propagation)
CONTRACTIONS = (cosine, contraction, tanh, coupled, propagation)
"""Those that Picard solves in a few dozen steps."""
BATCHED = (cosine, contraction, rotation, stiff, tanh, coupled)

each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))
each_problem = pytest.mark.parametrize("make", ZOO)
each_dtype = pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)


class Mixing(nn.Module):
    """The cell tanh(W z + x), features last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.mix.weight, std=0.4 / width**0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.mix(z) + x)


class Convolving(nn.Module):
    """The cell tanh(w * z + x) on images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.normal_(self.conv.weight, std=0.4 / (9 * channels) ** 0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(z) + x)


class TwoScales(nn.Module):
    """A cell on two tensors of different width that see each other."""

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.across, self.back = nn.Linear(second, first), nn.Linear(first, second)

    def forward(self, z: tuple[Tensor, ...], x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        u, v = z
        return torch.tanh(0.5 * self.across(v) + x[0]), torch.tanh(0.5 * self.back(u) + x[1])


@dataclass(frozen=True)
class Taught:
    """A teacher, with a context and an initial state to solve for."""

    deq: DEQ
    x: Context
    start: State
    features: tuple[int, ...]
    axis: int

    def readout(self) -> nn.Module:
        return LinearReadout(self.features, axis=self.axis)

    @property
    def f(self) -> Map:
        """The teacher's map, its context bound."""
        return lambda z: self.deq.cell(z, self.x)


def vector_teacher(dtype: torch.dtype, device: torch.device = CPU) -> Taught:
    x = seeded(3, 5, seed=20, dtype=dtype, device=device)
    return Taught(_frozen(Mixing(5), x), x, torch.zeros_like(x), (5,), -1)


def image_teacher(dtype: torch.dtype, device: torch.device = CPU) -> Taught:
    x = seeded(3, 2, 4, 4, seed=21, dtype=dtype, device=device)
    return Taught(_frozen(Convolving(2), x), x, torch.zeros_like(x), (2,), 1)


def pair_teacher(dtype: torch.dtype, device: torch.device = CPU) -> Taught:
    """Sequences of three positions, in two widths."""
    x = tuple(seeded(2, 3, w, seed=22 + w, dtype=dtype, device=device) for w in (2, 4))
    return Taught(_frozen(TwoScales((2, 4)), x[0]), x, zeros_like(x), (2, 4), -1)


def graph_teacher(dtype: torch.dtype, device: torch.device = CPU) -> Taught:
    """Six nodes that are one sample."""
    x = seeded(6, 3, seed=30, dtype=dtype, device=device)
    return Taught(_frozen(Mixing(3), x, batched=False), x, torch.zeros_like(x), (3,), -1)


TEACHERS = (vector_teacher, image_teacher, pair_teacher, graph_teacher)
each_teacher = pytest.mark.parametrize("make", TEACHERS)


def _frozen(cell: nn.Module, like: Tensor, *, batched: bool = True) -> DEQ:
    return DEQ(cell.to(like), max_steps=40, batched=batched)
