"""Chains: the class is told at the first node of each, and nowhere else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cdeq.data.chains import chains
from cdeq.data.graph import NodeData, split_parts
from cdeq.models.graph.sparse import SparseMatrix


def dense(data: NodeData) -> Tensor:
    features = data.features
    return (
        features @ torch.eye(features.shape[1]) if isinstance(features, SparseMatrix) else features
    )


each_shape = pytest.mark.parametrize(
    ("classes", "per_class", "length", "features"),
    [(2, 20, 10, 100), (3, 7, 5, 3), (5, 40, 2, 8), (2, 30, 1, 2), (2, 1, 40, 2)],
)


@each_shape
def test_following_a_chain_to_its_start_tells_the_class(
    classes: int, per_class: int, length: int, features: int
) -> None:
    data = chains(classes=classes, per_class=per_class, length=length, features=features)
    told, before = dense(data), dict(reversed(edge) for edge in data.edges.t().tolist())
    steps = []
    for node, label in enumerate(data.label.tolist()):
        here, away = node, 0
        while here in before:
            here, away = before[here], away + 1
        steps.append(away)
        assert told[here].tolist() == [float(i == label) for i in range(features)]
        assert away == 0 or not bool(told[node].any())
    assert sorted(steps) == sorted(list(range(length)) * classes * per_class)


@each_shape
def test_chains_are_balanced_and_as_many_as_asked_for(
    classes: int, per_class: int, length: int, features: int
) -> None:
    data = chains(classes=classes, per_class=per_class, length=length, features=features)
    assert data.label.bincount().tolist() == [per_class * length] * classes
    assert data.edges.shape == (2, classes * per_class * (length - 1))
    assert data.features.shape == (classes * per_class * length, features)


def test_propagating_as_often_as_a_chain_has_edges_tells_all_nodes() -> None:
    """And once less does not: the task needs its whole length."""
    data = chains(length=6)
    A = split_parts(data).train.graph.adjacency
    right = []
    z = dense(data)
    for _ in range(6):
        guess = torch.where(z.sum(1) > 0, z.argmax(1), -1)
        right.append(float((guess == data.label).float().mean()))
        z = A @ z
    assert right == pytest.approx([(k + 1) / 6 for k in range(6)])


def test_the_default_has_the_sizes_of_the_paper() -> None:
    data = chains()
    sizes = (data.nodes, len(data.train), len(data.validation), len(data.test))
    assert sizes == (400, 20, 100, 200)


def test_the_seed_decides_the_split_and_the_noise() -> None:
    first, again, other = (chains(noise=0.1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(dense(first), dense(again)) and torch.equal(first.train, again.train)
    assert not torch.equal(dense(first), dense(other))
    assert not torch.equal(first.train, other.train)


def test_noise_is_white_and_of_the_size_asked_for() -> None:
    rest = dense(chains(noise=0.3)) - dense(chains())
    assert float(rest.std()) == pytest.approx(0.3, rel=0.02)
    assert float(rest.mean()) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"classes": 1}, "at least 2 classes"),
        ({"per_class": 0}, "1 path a class"),
        ({"length": 0}, "1 node a path"),
        ({"classes": 5, "features": 4}, "a feature a class; got 5, 20, 10 and 4"),
        ({"noise": -0.1}, "standard deviation ≥ 0; got -0.1"),
        ({"noise": float("nan")}, "standard deviation ≥ 0; got nan"),
        ({"shares": (0.6, 0.6, 0.1)}, "at most 1 together"),
        ({"per_class": 1, "length": 2}, "the training split is empty"),
    ],
)
def test_impossible_chains_are_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        chains(**wrong)
