"""Data addressed by sample index, and the order in which training visits it.

The order is a pure function of the seed and the step, so a resumed run needs no memory of it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from cdeq.core.tree import map_tensors
from cdeq.models.base import Batch

Indices = Int[Tensor, " b"]


class IndexedData(Protocol):
    """A data set."""

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> Batch:
        """The batch of these samples, in this order."""
        ...


@dataclass(frozen=True)
class FirstSamples:
    """A data set of which only the first samples are looked at.

    Example:
        >>> from cdeq.data.images import ImageSet
        >>> images = ImageSet(torch.zeros(4, 1, 1, 1), torch.arange(4))
        >>> len(FirstSamples(images, 3)), len(FirstSamples(images, 9))
        (3, 4)
    """

    data: IndexedData
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.data))

    def take(self, indices: Indices) -> Batch:
        """The batch of these samples, in this order."""
        return self.data.take(indices)


@runtime_checkable
class OrderedData(IndexedData, Protocol):
    """A data set whose samples go on from one another, so that their order is its own."""

    @property
    def streams(self) -> int:
        """How many samples go on side by side: consecutive slices of so many follow each other."""
        ...

    def order(self, step: int, *, batch_size: int, seed: int) -> Indices:
        """The samples of one training step."""
        ...


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device; tuples, named or not, lists and dicts are searched.

    Example:
        >>> to_device({"image": torch.zeros(1)}, torch.device("meta"))["image"].device
        device(type='meta')
    """
    return map_tensors(lambda tensor: tensor.to(device), batch)


def step_indices(step: int, *, samples: int, batch_size: int, seed: int) -> Indices:
    """The samples of one training step: consecutive slices of one permutation an epoch.

    The samples are shuffled anew each epoch; the last, incomplete slice of an epoch is left out.

    Arguments:
        step: Which step, from 0.
        samples: The size of the data set.
        batch_size: Samples a step; a smaller data set is a single full batch.
        seed: The run's seed.

    Raises:
        ValueError: When the data set is empty.

    Example:
        >>> first, second = (step_indices(s, samples=4, batch_size=2, seed=0) for s in (0, 1))
        >>> sorted([*first.tolist(), *second.tolist()])
        [0, 1, 2, 3]
    """
    if samples < 1:
        raise ValueError("training needs at least one sample; the data set is empty.")
    size = min(batch_size, samples)
    epoch, position = divmod(step, samples // size)
    order = _order(samples, seed * 1_000_003 + epoch)
    return order[position * size : (position + 1) * size].clone()


@lru_cache(maxsize=2)
def _order(samples: int, seed: int) -> Tensor:
    """All samples at random; drawn once an epoch, since a million take their time."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))


class Shares(Dataset[tuple[Batch, Indices]]):
    """The batches of a run by step, and of each the part that one of several processes takes.

    In random order, unless the data have an order of their own.

    Arguments:
        data: The data set.
        batch_size: Samples a step, over all processes.
        seed: The run's seed.
        rank: Which process this is, from 0.
        ranks: How many there are.

    Example:
        >>> from cdeq.data.images import ImageSet
        >>> images = ImageSet(torch.zeros(4, 1, 1, 1), torch.arange(4))
        >>> shares = [Shares(images, batch_size=4, seed=0, rank=rank, ranks=2) for rank in (0, 1)]
        >>> sorted(index for share in shares for index in share[7][1].tolist())
        [0, 1, 2, 3]
    """

    def __init__(
        self, data: IndexedData, batch_size: int, seed: int, rank: int, ranks: int
    ) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.rank, self.ranks = rank, ranks

    def __getitem__(self, step: int) -> tuple[Batch, Indices]:
        batch = self._indices(step)
        indices = batch[self.rank :: self.ranks].contiguous()
        return self.data.take(indices), indices

    def _indices(self, step: int) -> Indices:
        data, size, seed = self.data, self.batch_size, self.seed
        if isinstance(data, OrderedData):
            return data.order(step, batch_size=size, seed=seed)
        return step_indices(step, samples=len(data), batch_size=size, seed=seed)
