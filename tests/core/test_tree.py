"""Trees: whatever holds tensors keeps its form, and samples are taken where they are."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cdeq.core.solvers import Anderson, Broyden, Euler, Picard
from cdeq.core.tree import map_tensors, take_samples


class Pair(NamedTuple):
    first: Tensor
    second: object


A, B, C = torch.arange(12.0).view(3, 4), torch.arange(3), torch.eye(4)
TREES = {
    "tensor": A,
    "tuple": (A, B, C),
    "list": [A, [B], []],
    "dict": {"a": A, 3: {"b": B}},
    "named": Pair(A, Pair(B, "text")),
    "mixed": {"a": [(A, None), Pair(B, 2.5)], "scalar": torch.tensor(1.0)},
    "leaf": "text",
    "none": None,
    "empty": (),
}
each_tree = pytest.mark.parametrize("tree", TREES.values(), ids=list(TREES))


def leaves(tree: object) -> list[object]:
    """All that is no container, in order."""
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, (list, tuple)):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def form(tree: object) -> object:
    """A tree without its tensors: its types, keys and everything else."""
    if isinstance(tree, dict):
        return dict, [(key, form(value)) for key, value in tree.items()]
    if isinstance(tree, (list, tuple)):
        return type(tree), [form(value) for value in tree]
    return Tensor if isinstance(tree, Tensor) else tree


@each_tree
def test_tensors_change_and_nothing_else(tree: object) -> None:
    mapped = map_tensors(torch.neg, tree)
    assert form(mapped) == form(tree)
    for before, after in zip(leaves(tree), leaves(mapped), strict=True):
        assert torch.equal(after, -before) if isinstance(before, Tensor) else after is before


@each_tree
def test_each_tensor_is_visited_once_in_order(tree: object) -> None:
    seen: list[Tensor] = []
    map_tensors(lambda tensor: seen.append(tensor) or tensor, tree)
    expected = [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]
    assert len(seen) == len(expected)
    assert all(a is b for a, b in zip(seen, expected, strict=True))


@each_tree
@pytest.mark.parametrize("rows", ([2, 0], [1], [], [0, 0, 1, 2]), ids=str)
def test_samples_are_taken_where_the_first_dimension_counts_them(tree, rows: list[int]) -> None:
    taken = take_samples(tree, torch.tensor(rows, dtype=torch.long), samples=3)
    assert form(taken) == form(tree)
    for before, after in zip(leaves(tree), leaves(taken), strict=True):
        own = isinstance(before, Tensor) and before.shape[:1] == (3,)
        assert torch.equal(after, before[rows]) if own else after is before


@each_tree
@pytest.mark.parametrize("rows", ([], [1], [0, 2], [0, 1, 2]), ids=str)
def test_a_mask_is_the_list_of_its_rows(tree, rows: list[int]) -> None:
    index = torch.tensor(rows, dtype=torch.long)
    mask = torch.zeros(3, dtype=torch.bool)
    mask[index] = True
    pairs = zip(
        leaves(take_samples(tree, mask, samples=3)),
        leaves(take_samples(tree, index, samples=3)),
        strict=True,
    )
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a is b for a, b in pairs)


@pytest.mark.parametrize(
    "solver",
    [Anderson(window=2), Broyden(), Broyden(memory=2), Picard(), Euler(size=0.5)],
    ids=repr,
)
def test_a_solvers_memory_goes_on_with_some_of_its_samples(solver) -> None:
    """The numbers of those who stay are not changed by who leaves."""

    def f(x: Tensor) -> object:
        return lambda z: torch.sin(0.9 * z) + x

    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64)
    rows = torch.tensor([True, False, True, True, False])
    z, memory = torch.zeros_like(x), solver.init(torch.zeros_like(x))
    for _ in range(4):
        step = solver.step(f(x), z, memory)
        z, memory = step.z, step.state
    few, own = z[rows], take_samples(memory, rows, samples=5)
    for _ in range(4):
        step, less = solver.step(f(x), z, memory), solver.step(f(x[rows]), few, own)
        z, memory, few, own = step.z, step.state, less.z, less.state
        torch.testing.assert_close(few, z[rows])
