"""A graph from tensors by name, as PyTorch Geometric and others call them."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from cdeq.data.graph import Features, NodeData
from cdeq.data.graph_features import lean, lean_of
from cdeq.data.graph_splits import NodeSplit, split_of_masks

Otherwise: TypeAlias = Callable[[Tensor, int], NodeSplit]
"""The split of a graph that brings none, from labels and number of classes."""

_PARTS = ("train", "val", "test")
_TRIPLE = ("x_data", "x_indices", "x_indptr", "x_shape")


def from_fields(
    fields: Mapping[str, Tensor], *, name: str, split: int = 0, otherwise: Otherwise
) -> NodeData:
    """The graph that these tensors describe.

    Arguments:
        fields: `edge_index` (2, e) and `y` (n,), integers; `x` (n, p), dense or sparse, or the
            triple `x_data`, `x_indices`, `x_indptr` with `x_shape`; optionally `train_idx`,
            `val_idx` and `test_idx`, or masks `train_mask`, … (n,), or (n, k) for k splits.
        name: What the graph is called.
        split: Which of several splits.
        otherwise: Makes a split where there is none.

    Raises:
        TypeError: When indices are no integers.
        ValueError: When a tensor is missing, there is no such split, or `NodeData` refuses.

    Example:
        >>> from cdeq.data.graph_splits import split_by_shares
        >>> ring = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
        >>> fields = {"edge_index": ring, "x": torch.eye(5), "y": torch.tensor([0, 0, 1, 1, 1])}
        >>> data = from_fields(fields, name="ring", otherwise=lambda y, _: split_by_shares(y))
        >>> data.classes, len(data.train)
        (2, 3)
    """
    edges, label = _whole(fields, "edge_index"), _whole(fields, "y")
    if label.ndim == 2 and label.shape[1] == 1:
        label = label.flatten()
    classes = int(label.max()) + 1 if label.numel() else 0
    chosen = _given(fields, split) or otherwise(label, classes)
    return NodeData(_features(fields), edges, label, classes, *chosen, name)


def _field(fields: Mapping[str, Tensor], name: str) -> Tensor:
    if not isinstance(fields.get(name), Tensor):
        raise ValueError(
            f"a graph needs `edge_index`, `x` (or {', '.join(_TRIPLE)}) and `y`; there is no "
            f"`{name}` among {sorted(fields)}."
        )
    return fields[name]


def _whole(fields: Mapping[str, Tensor], name: str) -> Tensor:
    """Whole numbers of any width, as int64."""
    field = _field(fields, name)
    if field.is_floating_point() or field.is_complex() or field.dtype is torch.bool:
        raise TypeError(f"`{name}` holds integers; got {field.dtype}.")
    return field.long()


def _features(fields: Mapping[str, Tensor]) -> Features:
    if "x" not in fields and "x_data" in fields:
        return _from_triple(fields)
    x = _field(fields, "x")
    if x.layout is torch.strided:
        return lean(x.float()) if x.ndim == 2 else x.float()
    entries = x.to_sparse_coo().coalesce()
    rows, columns = entries.indices()
    return lean_of(rows, columns, entries.values().float(), shape=(x.shape[0], x.shape[1]))


def _from_triple(fields: Mapping[str, Tensor]) -> Features:
    """Compressed sparse rows, checked: torch would read past the end of wrong ones."""
    starts, columns = _whole(fields, "x_indptr"), _whole(fields, "x_indices")
    values, shape = _field(fields, "x_data").float(), _whole(fields, "x_shape").tolist()
    counts = starts.diff()
    right = len(shape) == 2 and len(starts) == shape[0] + 1 and len(columns) == len(values)
    if not right or bool((counts < 0).any()) or int(counts.sum()) != len(values):
        raise ValueError(
            "`x_indptr` says where each row of `x_indices` and `x_data` starts, one number more "
            f"than `x_shape` has rows; got {len(starts)}, {len(columns)} and {len(values)} "
            f"numbers for the shape {shape}."
        )
    if len(columns) and not 0 <= int(columns.min()) <= int(columns.max()) < shape[1]:
        raise ValueError(
            f"`x_indices` are columns 0 … {shape[1] - 1}; got {int(columns.min())} … "
            f"{int(columns.max())}."
        )
    rows = torch.repeat_interleave(torch.arange(shape[0]), counts)
    return lean_of(rows, columns, values, shape=(shape[0], shape[1]))


def _given(fields: Mapping[str, Tensor], split: int) -> NodeSplit | None:
    """The split that the tensors name, by index or by mask."""
    for kind in ("idx", "mask"):
        names = [f"{part}_{kind}" for part in _PARTS]
        there = [name for name in names if name in fields]
        if there and there != names:
            raise ValueError(f"a split is {', '.join(names)}; got only {', '.join(there)}.")
        if there and kind == "mask":
            train, validation, test = (fields[name] for name in names)
            return split_of_masks((train, validation, test), split)
        if there and split != 0:
            raise ValueError(f"`split` is 0 where indices name the only one; got {split}.")
        if there:
            return NodeSplit(*(_whole(fields, name) for name in names))
    return None
