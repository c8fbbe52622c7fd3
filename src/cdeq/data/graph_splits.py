"""Which nodes to fit, to select on and to report: by seed, by class, by mask."""

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class NodeSplit(NamedTuple):
    """Node indices in rising order; no node is in two of them."""

    train: Int[Tensor, " s"]
    validation: Int[Tensor, " s"]
    test: Int[Tensor, " s"]


def split_by_shares(
    label: Int[Tensor, " n"],
    *,
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
) -> NodeSplit:
    """The nodes that have a class, in random parts.

    Arguments:
        label: The class of each node; -1 where there is none.
        shares: Of training, validation and test; each > 0, together at most 1.
        seed: Decides which nodes; nothing else does.

    Raises:
        ValueError: When the shares are none.

    Example:
        >>> [len(part) for part in split_by_shares(torch.zeros(10, dtype=torch.long))]
        [6, 2, 2]
    """
    if min(shares) <= 0.0 or sum(shares) > 1.0 + 1e-9:
        raise ValueError(f"shares are above 0 and at most 1 together; got {shares}.")
    shuffled = _shuffled(label, seed)
    # rounded bounds, not rounded sizes: those could be more than there are
    bounds = [0, *(round(share * len(shuffled)) for share in accumulate(shares))]
    parts = [shuffled[low:high] for low, high in pairwise(bounds)]
    return NodeSplit(*(part.sort().values for part in parts))


def split_per_class(
    label: Int[Tensor, " n"],
    classes: int,
    *,
    train: int = 20,
    validation: int = 30,
    seed: int = 0,
) -> NodeSplit:
    """So many random nodes of each class, and all others that have a class for the test.

    References:
        | Pitfalls of Graph Neural Network Evaluation (Shchur et al., 2018)
        | https://arxiv.org/abs/1811.05868

    Arguments:
        label: The class of each node; -1 where there is none.
        classes: How many classes there are.
        train: Training nodes a class.
        validation: Validation nodes a class.
        seed: Decides which nodes; nothing else does.

    Raises:
        ValueError: When a class has too few nodes.

    Example:
        >>> label = torch.arange(200) % 2
        >>> [len(part) for part in split_per_class(label, 2)]
        [40, 60, 100]
    """
    shuffled = _shuffled(label, seed)
    shuffled = shuffled[label[shuffled].sort(stable=True).indices]
    counts = torch.bincount(label[shuffled], minlength=classes)
    if int(counts.min()) < train + validation:
        raise ValueError(
            f"a split of {train} training and {validation} validation nodes a class needs so many "
            f"of each; class {int(counts.argmin())} has {int(counts.min())}."
        )
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(shuffled)) - first[label[shuffled]]
    where = (rank < train, (rank >= train) & (rank < train + validation))
    parts = (*where, ~(where[0] | where[1]))
    return NodeSplit(*(shuffled[part].sort().values for part in parts))


def _shuffled(label: Tensor, seed: int) -> Tensor:
    known = (label >= 0).nonzero().flatten()
    return known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]


def split_of_masks(
    masks: tuple[Bool[Tensor, "n *k"], Bool[Tensor, "n *k"], Bool[Tensor, "n *k"]], split: int
) -> NodeSplit:
    """The nodes where masks are true; of several official splits, one.

    Arguments:
        masks: Of training, validation and test: one entry a node, or one column a split; a mask
            without columns belongs to all splits.
        split: Which column.

    Raises:
        TypeError: When a mask is not Boolean.
        ValueError: When there is no such split.

    Example:
        >>> a, b = torch.tensor([[True, False], [False, True]]), torch.tensor([False, False])
        >>> split_of_masks((a, b, ~a), split=1).train
        tensor([1])
    """
    for mask in masks:
        if mask.dtype is not torch.bool or mask.ndim not in (1, 2):
            raise TypeError(
                "a mask says of each node whether it is in the split, true or false, with one "
                f"column for each of several splits; got {tuple(mask.shape)} of {mask.dtype}."
            )
    known = max(mask.shape[1] if mask.ndim == 2 else 1 for mask in masks)
    if not 0 <= split < known:
        raise ValueError(f"`split` is one of the {known} splits 0 … {known - 1}; got {split}.")
    columns = (mask[:, split] if mask.ndim == 2 else mask for mask in masks)
    return NodeSplit(*(column.nonzero().flatten() for column in columns))
