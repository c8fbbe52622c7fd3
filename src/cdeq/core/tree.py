"""Tensors inside tuples, named or not, lists and dicts: contexts, batches, solver memories."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor


def map_tensors(change: Callable[[Tensor], Tensor], tree: Any) -> Any:  # noqa: ANN401
    """The same tree with every tensor changed; whatever else is in it stays.

    Arguments:
        change: What happens to a tensor.
        tree: A tensor, or tuples, lists and dicts of trees; anything else is a leaf.

    Example:
        >>> import torch
        >>> map_tensors(torch.neg, {"z": (torch.ones(1), 3)})
        {'z': (tensor([-1.]), 3)}
    """
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(change, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [map_tensors(change, value) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def take_samples(tree: Any, rows: Int[Tensor, " n"] | Bool[Tensor, " b"], samples: int) -> Any:  # noqa: ANN401
    """The part of a tree that belongs to some samples.

    A tensor whose first dimension is `samples` has one row a sample; any other belongs to all.

    Arguments:
        tree: Tensors in tuples, lists and dicts.
        rows: Which samples to keep, as indices or as a mask.
        samples: How many there are in the tree.

    Example:
        >>> import torch
        >>> take_samples((torch.arange(3), torch.eye(2)), torch.tensor([2]), samples=3)[0]
        tensor([2])
    """

    def keep(tensor: Tensor) -> Tensor:
        own = tensor.ndim > 0 and len(tensor) == samples
        return tensor[rows.to(tensor.device)] if own else tensor

    return map_tensors(keep, tree)
