"""Tiny teachers, ten samples of data, and the manifest that fits them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cdeq import DEQ, Anderson, EquilibriumModel, LinearReadout
from cdeq.core.state import tensors
from cdeq.digest import digest_of, digest_of_tensors
from cdeq.trajectories import Manifest, OnlineTrajectories
from cdeq.typing import State

SAMPLES, STEPS, SHARD = 10, 4, 4
SHARD_ROWS = ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9])
SEED = torch.Generator().manual_seed(3)
DATA = torch.randn(SAMPLES, 3, generator=SEED)


class TanhCell(nn.Module):
    """z ↦ tanh(W z + x); a pair of tensors is coupled through the mean of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, z: State, x: Tensor) -> State:
        if isinstance(z, Tensor):
            return torch.tanh(0.5 * self.linear(z) + x)
        a, b = z
        mean = b.mean(dim=(1, 2)).unsqueeze(1)
        return torch.tanh(0.5 * self.linear(a) + x + 0.2 * mean), torch.tanh(
            0.4 * b + a[:, :2, None]
        )


class Toy(EquilibriumModel):
    """A teacher whose encoder drops half of its output in training mode."""

    def __init__(self, *, pair: bool = False, batched: bool = True) -> None:
        super().__init__()
        self.encoder, self.dropout = nn.Linear(3, 3), nn.Dropout(0.5)
        self.deq = DEQ(TanhCell(), batched=batched)
        self.pair = pair

    def encode(self, batch: Tensor) -> Tensor:
        return self.dropout(self.encoder(batch))

    def initial(self, x: Tensor) -> State:
        return (
            (torch.zeros_like(x), x.new_zeros(len(x), 2, 2)) if self.pair else torch.zeros_like(x)
        )

    def decode(self, z: State, x: Tensor) -> Tensor:
        return tensors(z)[0]

    def loss(self, output: Tensor, batch: Tensor) -> Tensor:
        return (output - batch).square().mean(1)

    def readout(self) -> nn.Module:
        return LinearReadout([3], axis=1)


def single() -> Toy:
    """States are one tensor."""
    torch.manual_seed(1)
    return Toy()


def pair() -> Toy:
    """States are two tensors of different shapes."""
    torch.manual_seed(2)
    return Toy(pair=True)


def graph() -> Toy:
    """The state is one sample: a row a node."""
    torch.manual_seed(4)
    return Toy(batched=False)


def online(teacher: Toy, solver: Anderson = Anderson()) -> OnlineTrajectories:
    """A graph's nodes are always all there; otherwise a batch is the rows asked for."""
    batched = teacher.deq.batched
    return OnlineTrajectories(
        teacher=teacher,
        contexts=lambda rows: DATA[rows] if batched else DATA,
        solver=solver,
        max_steps=STEPS,
    )


def manifest_of(teacher: Toy, *, dtype: str = "float32") -> Manifest:
    return Manifest(
        teacher=digest_of(teacher),
        data=digest_of_tensors(DATA),
        solver=repr(Anderson()),
        initial="zero",
        max_steps=STEPS,
        samples=SAMPLES if teacher.deq.batched else 1,
        dtype=dtype,
    )


MANIFEST = manifest_of(single())

OTHERS = {
    "teacher": replace(MANIFEST, teacher="0" * 64),
    "data": replace(MANIFEST, data="0" * 64),
    "solver": replace(MANIFEST, solver="Picard(damping=1.0)"),
    "initial": replace(MANIFEST, initial="noise"),
    "max_steps": replace(MANIFEST, max_steps=STEPS + 1),
    "samples": replace(MANIFEST, samples=SAMPLES + 1),
    "dtype": replace(MANIFEST, dtype="bfloat16"),
}
"""The manifest, with one field changed."""


def same(a: Sequence[State], b: Sequence[State]) -> bool:
    """Whether two trajectories have the same structure, dtypes and bits."""
    return len(a) == len(b) and all(
        type(z) is type(w)
        and all(
            p.dtype is q.dtype and torch.equal(p, q)
            for p, q in zip(tensors(z), tensors(w), strict=True)
        )
        for z, w in zip(a, b, strict=True)
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
