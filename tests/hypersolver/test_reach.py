"""Who hears of whom: samples, tokens, nodes."""

import pytest
import torch
from consistency.toys import equal, run
from hypersolver.learners import (
    Graph,
    Guess,
    along,
    each_scope,
    learned,
)
from problems import Mixing, Taught, rows, seeded, vector_teacher
from torch import Tensor, nn

from cdeq import DEQ
from cdeq.hypersolver.scope import PerPosition, Pooled, Scope
from cdeq.typing import Map


@pytest.mark.parametrize("index", (0, 2))
@each_scope
def test_a_sample_does_not_hear_of_its_batch(scope: Scope, index: int, device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = learned(taught, scope=scope)
    part = slice(index, index + 1)
    alone = Taught(taught.deq, taught.x[part], taught.start[part], taught.features, taught.axis)
    for ours, theirs in zip(run(student, alone, 5), run(student, taught, 5), strict=True):
        torch.testing.assert_close(ours, rows(theirs, part))


class Causal(nn.Module):
    """A position sees those before it: the cell tanh(W mean + x) of sequences."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        counts = torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device)
        return torch.tanh(0.5 * self.mix(z.cumsum(1) / counts[:, None]) + x)


def sequences(length: int, device: torch.device) -> Taught:
    torch.manual_seed(0)
    x = seeded(2, 7, 4, seed=40, dtype=torch.float64, device=device)[:, :length]
    deq = DEQ(Causal(4).to(x), max_steps=40)
    return Taught(deq, x, torch.zeros_like(x), (4,), -1)


@pytest.mark.parametrize("length", (1, 3, 6))
def test_weights_a_token_are_causal(length: int, device) -> None:
    whole, part = sequences(7, device), sequences(length, device)
    student = learned(whole, scope=PerPosition(), initializer=Guess(4))
    for ours, theirs in zip(run(student, part, 5), run(student, whole, 5), strict=True):
        torch.testing.assert_close(ours, theirs[:, :length])


def test_weights_a_sequence_are_not(device) -> None:
    whole, part = sequences(7, device), sequences(3, device)
    student = learned(whole, scope=Pooled())
    assert not torch.allclose(run(student, part, 5)[-1], run(student, whole, 5)[-1][:, :3])


class Propagating(Mixing):
    """tanh(A z W + x) on a graph."""

    def forward(self, z: Tensor, x: Graph) -> Tensor:
        return torch.tanh(x[0] @ self.mix(z) + x[1])


class NodeGuess(Guess):
    def forward(self, z: Tensor, x: Graph) -> Tensor:
        return super().forward(z, x[1])


def path(order: Tensor, device: torch.device) -> Taught:
    """A path of six nodes in some order, no two of which are alike."""
    torch.manual_seed(0)
    dense = torch.eye(6, dtype=torch.float64, device=device)
    adjacency = (dense + dense.roll(1, 0).tril() + dense.roll(-1, 0).triu())[order][:, order] / 3
    x = seeded(6, 3, seed=41, dtype=torch.float64, device=device)[order]
    deq = DEQ(Propagating(3).to(x), max_steps=40, batched=False)
    return Taught(deq, (adjacency, x), torch.zeros_like(x), (3,), -1)


GRAPHS = {
    "pooled": {},
    "per node": {"scope": PerPosition()},
    "smoothed": {"scope": PerPosition(), "neighbours": along},
    "guessing": {"scope": PerPosition(), "neighbours": along, "initializer": NodeGuess(3)},
}


@pytest.mark.parametrize("settings", GRAPHS.values(), ids=list(GRAPHS))
def test_the_order_of_nodes_does_not_matter(settings, device) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2], device=device)
    plain, mixed = path(torch.arange(6, device=device), device), path(order, device)
    student = learned(plain, **settings)
    for ours, theirs in zip(run(student, mixed, 5), run(student, plain, 5), strict=True):
        torch.testing.assert_close(ours, theirs[order])


def test_codes_are_smoothed_once_a_step(device) -> None:
    taught, calls = path(torch.arange(6, device=device), device), []

    def watched(x: Graph) -> Map:
        calls.append(0)
        return lambda codes: (calls.append(codes.shape), along(x)(codes))[1]

    student = learned(taught, scope=PerPosition(), neighbours=watched)
    smoothed = run(student, taught, 4)
    assert calls == [0, *[(6, 10)] * 4]
    student.neighbours = None
    assert not equal(smoothed[-1], run(student, taught, 4)[-1])


def test_smoothing_over_a_graph_without_edges_changes_nothing(device) -> None:
    taught = path(torch.arange(6, device=device), device)
    student = learned(taught, scope=PerPosition(), neighbours=lambda x: lambda codes: codes)
    smoothed = run(student, taught, 4)
    student.neighbours = None
    assert all(map(equal, smoothed, run(student, taught, 4)))
