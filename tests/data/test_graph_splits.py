"""Splits: disjoint, of the sizes asked for, a function of the seed and of nothing else."""

import pytest
import torch
from torch import Tensor

from cdeq.data.graph_splits import NodeSplit, split_by_shares, split_of_masks, split_per_class

LABEL = torch.arange(300) % 3
PARTLY = torch.where(torch.arange(300) < 30, -1, LABEL)


def once(split: NodeSplit) -> Tensor:
    """All nodes of a split, none of them twice."""
    nodes = torch.cat(list(split))
    assert len(nodes.unique()) == len(nodes)
    assert all(torch.equal(part, part.sort().values) for part in split)
    return nodes.sort().values


@pytest.mark.parametrize("label", [LABEL, PARTLY], ids=["all", "some"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_split_per_class_has_so_many_of_each(label: Tensor, seed: int) -> None:
    split = split_per_class(label, 3, train=20, validation=30, seed=seed)
    assert torch.equal(once(split), (label >= 0).nonzero().flatten())
    assert label[split.train].bincount().tolist() == [20, 20, 20]
    assert label[split.validation].bincount().tolist() == [30, 30, 30]


@pytest.mark.parametrize("label", [LABEL, PARTLY], ids=["all", "some"])
@pytest.mark.parametrize("shares", [(0.6, 0.2, 0.2), (0.05, 0.25, 0.5), (1 / 3, 1 / 3, 1 / 3)])
def test_shares_are_kept(label: Tensor, shares: tuple[float, float, float]) -> None:
    split = split_by_shares(label, shares=shares)
    known = (label >= 0).nonzero().flatten()
    assert set(once(split).tolist()) <= set(known.tolist())
    for part, share in zip(split, shares, strict=True):
        assert abs(len(part) - share * len(known)) <= 1


@pytest.mark.parametrize("nodes", range(3, 12))
def test_shares_that_are_all_leave_out_nothing(nodes: int) -> None:
    split = split_by_shares(torch.zeros(nodes, dtype=torch.long))
    assert len(once(split)) == nodes


@pytest.mark.parametrize(
    "make", [split_by_shares, lambda y, seed: split_per_class(y, 3, seed=seed)]
)
def test_the_seed_decides_and_nothing_else(make) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = make(LABEL, seed=4), make(LABEL, seed=4), make(LABEL, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.train, other.train)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_node_is_as_likely_in_training() -> None:
    counts = torch.zeros(300)
    for seed in range(400):
        counts[split_per_class(LABEL, 3, seed=seed).train] += 1
    # 20 of a class's 100, so 80 of 400 times; within 5 standard deviations
    assert float((counts - 80).abs().max()) < 5 * (400 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("shares", [(0.0, 0.5, 0.5), (0.6, 0.6, 0.2), (-0.2, 0.6, 0.6)])
def test_impossible_shares_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1 together"):
        split_by_shares(LABEL, shares=shares)


def test_a_small_class_is_refused() -> None:
    label = torch.cat([LABEL, torch.full((7,), 3)])
    with pytest.raises(ValueError, match=r"20 training and 30 validation .* class 3 has 7"):
        split_per_class(label, 4)


MASKS = torch.rand(9, 4, generator=torch.Generator().manual_seed(0)) < 0.5


@pytest.mark.parametrize("split", range(4))
def test_a_mask_says_which_nodes(split: int) -> None:
    whole = torch.zeros(9, dtype=torch.bool)
    whole[2] = True
    chosen = split_of_masks((MASKS, ~MASKS, whole), split)
    for node in range(9):
        assert (node in chosen.train.tolist()) == bool(MASKS[node, split])
        assert (node in chosen.validation.tolist()) != bool(MASKS[node, split])
    assert chosen.test.tolist() == [2]


@pytest.mark.parametrize("split", [-1, 4])
def test_only_splits_that_exist_can_be_chosen(split: int) -> None:
    with pytest.raises(ValueError, match=f"the 4 splits 0 … 3; got {split}"):
        split_of_masks((MASKS, MASKS, MASKS), split)


@pytest.mark.parametrize("mask", [torch.ones(9), torch.ones(9, 1, 1, dtype=torch.bool)])
def test_other_masks_are_refused(mask: Tensor) -> None:
    with pytest.raises(TypeError, match="true or false"):
        split_of_masks((mask, MASKS, MASKS), 0)
