"""A user's own graph: arrays in an `.npz`, or PyTorch Geometric's `Data` in a `.pt`."""

import os
import zipfile
import zlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdeq.data.graph import NodeData
from cdeq.data.graph_fields import from_fields
from cdeq.data.graph_splits import NodeSplit, split_by_shares
from cdeq.errors import CDEQError, StoreError


def read_graph_file(path: str | os.PathLike[str], *, split: int = 0, seed: int = 0) -> NodeData:
    """The graph in a file, by the names that PyTorch Geometric uses.

    An `.npz` holds `edge_index`, `y`, `x` or its compressed sparse rows, and a split if there is
    one (see `from_fields`); masks of k splits have the shape (k, n), and may be called
    `train_masks`, …. A `.pt` is `torch.save` of a `Data` with these attributes, or of a
    dictionary with such entries. Without a split, 60 / 20 / 20 % of the nodes with a class are
    drawn. No file can run code here: arrays of objects and classes other than PyG's are refused.

    Arguments:
        path: The file.
        split: Which of several splits.
        seed: Draws the split of a graph that has none.

    Raises:
        StoreError: When there is no such file, or it cannot be read.
        CDEQError: When the file holds a `Data` and PyTorch Geometric is not installed.
        TypeError: When a tensor holds the wrong kind of numbers.
        ValueError: When the file is of another kind, a tensor is missing, or `NodeData` refuses.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> ring = np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "ring.npz"
        ...     np.savez(path, edge_index=ring, x=np.eye(5), y=np.array([0, 0, 1, 1, 1]))
        ...     data = read_graph_file(path)
        >>> data.name, data.nodes, data.classes
        ('ring', 5, 2)
    """
    path = Path(path)
    readers = {".npz": _arrays, ".pt": _saved}
    if path.suffix not in readers:
        raise ValueError(
            "a graph file is an .npz of arrays or a .pt of PyTorch Geometric's `Data`; got "
            f"{path.name}."
        )
    if not path.is_file():
        raise StoreError(f"there is no file {path}; give the path of your graph.")
    fields = readers[path.suffix](path)
    return from_fields(fields, name=path.stem, split=split, otherwise=partial(_drawn, seed))


def _drawn(seed: int, label: Tensor, classes: int) -> NodeSplit:
    return split_by_shares(label, seed=seed)


def _arrays(path: Path) -> dict[str, Tensor]:
    import numpy as np

    try:
        # opened here, because numpy does not close a file that it cannot read
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            fields = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, "arrays of numbers", error) from error
    return dict(_as_columns(name, field) for name, field in fields.items())


def _as_columns(name: str, field: Tensor) -> tuple[str, Tensor]:
    """Masks with one split a column, as PyTorch Geometric has them."""
    if not name.endswith(("_mask", "_masks")):
        return name, field
    return name.removesuffix("s"), field.t() if field.ndim == 2 else field


def _saved(path: Path) -> dict[str, Tensor]:
    """The entries of a `Data`, or of a dictionary of tensors."""
    try:
        with torch.serialization.safe_globals(_classes_of_data()):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in a dozen ways
        if find_spec("torch_geometric") is None and "torch_geometric" in str(error):
            raise CDEQError(
                f"{path} holds a `Data`, and PyTorch Geometric, which that is from, is missing; "
                "install cdeq[graph]."
            ) from error
        raise _unreadable(path, "a `Data` or a dictionary of tensors", error) from error
    fields = held if isinstance(held, dict) else _entries(path, held)
    return {name: field for name, field in fields.items() if isinstance(field, Tensor)}


def _classes_of_data() -> list[Any]:
    """What a pickled `Data` names, without what torch is willing to read already.

    On its way out, `safe_globals` forgets all that it was given, even what PyTorch Geometric had
    allowed for itself before: that would then read its own files unsafely.
    """
    try:
        from torch_geometric.data.data import Data, DataEdgeAttr, DataTensorAttr
        from torch_geometric.data.storage import GlobalStorage
    except ImportError:
        return []
    known = torch.serialization.get_safe_globals()
    return [
        kind for kind in (Data, DataEdgeAttr, DataTensorAttr, GlobalStorage) if kind not in known
    ]


def _entries(path: Path, held: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever was saved
    if not hasattr(held, "to_dict"):
        raise _unreadable(path, "a `Data` or a dictionary", f"it holds a {type(held).__name__}")
    return held.to_dict()


def _unreadable(path: Path, wanted: str, why: object) -> StoreError:
    return StoreError(f"{path} cannot be read as {wanted} ({why}); save the graph again.")
