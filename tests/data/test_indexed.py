"""The order of training: a pure function, each sample once an epoch, shared out evenly."""

from itertools import chain
from typing import NamedTuple

import pytest
import torch

from cdeq.data.images import ImageSet
from cdeq.data.indexed import Shares, step_indices, to_device

each_size = pytest.mark.parametrize(
    ("samples", "size"), [(12, 4), (12, 12), (13, 4), (1, 1), (7, 1), (3, 8), (100, 33)]
)


@each_size
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_visits_samples_at_most_once_and_leaves_out_less_than_a_batch(
    samples: int, size: int, epoch: int
) -> None:
    taken = min(size, samples)
    steps = samples // taken
    visited = [
        index
        for step in range(epoch * steps, (epoch + 1) * steps)
        for index in step_indices(step, samples=samples, batch_size=size, seed=1).tolist()
    ]
    assert len(visited) == len(set(visited)) == steps * taken > samples - taken
    assert set(visited) <= set(range(samples))


@each_size
def test_a_step_needs_no_memory_of_the_ones_before(samples: int, size: int) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    forwards = [order(step, samples, size) for step in range(9)]
    backwards = [order(step, samples, size) for step in reversed(range(9))]
    assert forwards == backwards[::-1]
    assert torch.equal(torch.get_rng_state(), before)


def order(step: int, samples: int, size: int, seed: int = 1) -> list[int]:
    return step_indices(step, samples=samples, batch_size=size, seed=seed).tolist()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [order(epoch, 50, 50, seed) for epoch in range(3) for seed in range(3)]
    assert len({tuple(one) for one in orders}) == 9
    assert all(sorted(one) == list(range(50)) for one in orders)


def test_no_sample_is_preferred() -> None:
    """Over many epochs of 3 from 4, each is left out about as often: 400 ± 5 σ of 1,600."""
    counts = torch.zeros(4)
    for step in range(1600):
        counts[step_indices(step, samples=4, batch_size=3, seed=0)] += 1
    assert (counts - 1200).abs().max() < 5 * (1600 * 0.25 * 0.75) ** 0.5


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one sample; the data set is empty"):
        step_indices(0, samples=0, batch_size=4, seed=0)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
@pytest.mark.parametrize("step", [0, 3, 17])
def test_shares_are_disjoint_equal_and_complete(ranks: int, step: int) -> None:
    data = ImageSet(torch.rand(20, 1, 2, 2), torch.arange(20))
    shares = [Shares(data, 6, 1, rank, ranks)[step] for rank in range(ranks)]
    rows = [indices.tolist() for _, indices in shares]
    assert sorted(chain.from_iterable(rows)) == sorted(order(step, 20, 6))
    assert {len(row) for row in rows} == {6 // ranks}
    for batch, indices in shares:
        assert torch.equal(batch.label, indices)
        assert torch.equal(batch.image, data.image[indices])


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(2),
        (torch.ones(2), "name", 3),
        [torch.ones(2), [torch.ones(1)]],
        {"a": torch.ones(2), "b": (torch.ones(1), None)},
        Pair(torch.ones(1), torch.ones(2)),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_everything_moves_and_keeps_its_form(batch: object) -> None:
    moved = to_device(batch, torch.device("meta"))
    assert form(moved) == form(batch)
    assert {tensor.device.type for tensor in leaves(moved)} == {"meta"}
    assert {tensor.device.type for tensor in leaves(batch)} == {"cpu"}


def form(batch: object) -> object:
    if isinstance(batch, torch.Tensor):
        return batch.shape
    if isinstance(batch, dict):
        return {key: form(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch), [form(value) for value in batch]
    return batch


def leaves(batch: object) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    inside = batch.values() if isinstance(batch, dict) else batch
    if isinstance(inside, (str, int, type(None))):
        return []
    return [leaf for value in inside for leaf in leaves(value)]
