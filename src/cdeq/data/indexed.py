"""Data addressed by sample index, and the order in which training visits it.

The order is a pure function of the seed and the step, so a resumed run needs no memory of it.
"""

from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from cdeq.models.base import Batch

Indices = Int[Tensor, " b"]


class IndexedData(Protocol):
    """A data set."""

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> Batch:
        """The batch of these samples, in this order."""
        ...


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
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(samples, generator=generator)[position * size : (position + 1) * size]
