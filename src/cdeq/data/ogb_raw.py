"""Graphs of the Open Graph Benchmark, from the files that its archives unpack to."""

import gzip
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from cdeq.data.graph import Features, NodeData
from cdeq.data.graph_features import lean
from cdeq.data.tensor_cache import cached
from cdeq.errors import CDEQError, StoreError
from cdeq.models.graph.sparse import SparseMatrix

OGBName: TypeAlias = Literal["ogbn-arxiv", "ogbn-products"]
CACHE = "cdeq.safetensors"


@dataclass(frozen=True)
class _Release:
    """What no file of the archive says."""

    classes: int
    features: int
    split: str
    "The folder of the official split."


_RELEASES = {
    "ogbn-arxiv": _Release(classes=40, features=128, split="time"),
    "ogbn-products": _Release(classes=47, features=100, split="sales_ranking"),
}
_RAW = ("edge", "node-feat", "node-label", "num-node-list", "num-edge-list")
_SPLITS = ("train", "valid", "test")


def read_ogb(folder: str | os.PathLike[str], name: OGBName) -> NodeData:
    """A graph in the layout of its official archive, with the official split.

    The first reading leaves its tensors in the folder, if that can be written, so that later ones
    take seconds.

    Arguments:
        folder: Where `raw` and `split` are.
        name: Which set it is.

    Returns:
        The graph; its `note` says when the features are not the official ones.

    Raises:
        ValueError: When there is no such set.
        StoreError: When a file is missing, cut off, or not as long as the counts say.
        CDEQError: When pandas is not installed, which reads the files.

    Example:
        >>> read_ogb("here", "ogbn-arxiv")
        Traceback (most recent call last):
        ...
        cdeq.errors.StoreError: here holds no whole ogbn-arxiv: raw/edge.csv.gz (and 7 more) ...
    """
    folder = Path(folder)
    release = _release(name)
    require_layout(folder, name)
    sources = [folder / file for file in layout(name)]
    held = cached(folder / CACHE, sources, lambda: _parse(folder, release), version=1)
    return NodeData(
        _unpacked(held),
        held["edges"],
        held["label"],
        release.classes,
        *(held[split] for split in _SPLITS),
        name=name,
        note=_note(held, release),
    )


def layout(name: OGBName) -> list[str]:
    """The files of a set that are read, in its folder."""
    split = _release(name).split
    raw = [f"raw/{file}.csv.gz" for file in _RAW]
    return raw + [f"split/{split}/{file}.csv.gz" for file in _SPLITS]


def require_layout(folder: Path, name: OGBName) -> None:
    """Refuse a folder in which a file is missing.

    Raises:
        StoreError: Names it, and says how to get it.
    """
    missing = [file for file in layout(name) if not (folder / file).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        verb = "are" if more else "is"
        raise StoreError(
            f"{folder} holds no whole {name}: {missing[0]}{more} {verb} missing; unpack the "
            f"official archive there again, or delete the folder and have `download_ogb` fetch it."
        )


def _release(name: str) -> _Release:
    if name not in _RELEASES:
        raise ValueError(f"graphs of OGB are {list(get_args(OGBName))}; got {name!r}.")
    return _RELEASES[name]


def _note(held: Mapping[str, Tensor], release: _Release) -> str:
    """Features are told apart by their count, and one-hot guesses by their values."""
    width = int(held["features.shape"][1])
    if width == release.features:
        return ""
    values = held["features.values"]
    if (release.classes, width) == (40, 200) and bool(((values == 0) | (values == 1)).all()):
        return "GPT-prediction features"
    return f"{width} features a node, not the official {release.features}"


def _parse(folder: Path, release: _Release) -> dict[str, Tensor]:
    raw, split = folder / "raw", folder / "split" / release.split
    nodes, edges = (
        int(_table(raw / f"num-{kind}-list.csv.gz", "int64", columns=1, rows=1))
        for kind in ("node", "edge")
    )
    ends = _table(raw / "edge.csv.gz", "int64", columns=2, rows=edges)
    features = _table(raw / "node-feat.csv.gz", "float32", rows=nodes)
    label = _table(raw / "node-label.csv.gz", "int64", columns=1, rows=nodes)
    parts = {name: _table(split / f"{name}.csv.gz", "int64", columns=1) for name in _SPLITS}
    return {
        "edges": ends.t().contiguous(),
        "label": label.flatten(),
        **{name: part.flatten() for name, part in parts.items()},
        **_packed(features),
    }


def _table(
    path: Path, dtype: str, *, columns: int | None = None, rows: int | None = None
) -> Tensor:
    try:
        import pandas
    except ImportError as error:
        raise CDEQError("pandas reads the files of OGB; install cdeq[graph].") from error
    try:
        with gzip.open(path) as file:
            table = pandas.read_csv(file, header=None, dtype=dtype).to_numpy()  # type: ignore[arg-type]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise StoreError(
            f"{path} cannot be read as a table of {dtype} ({str(error).strip()}); unpack it again."
        ) from error
    if columns not in (None, table.shape[1]) or rows not in (None, table.shape[0]):
        raise StoreError(
            f"{path} should hold {_said(rows)} rows of {_said(columns)} numbers and holds "
            f"{table.shape[0]} of {table.shape[1]}; unpack it again."
        )
    return torch.from_numpy(table.copy())  # pandas' own is read-only, and by columns


def _said(count: int | None) -> str:
    return "any" if count is None else str(count)


def _packed(features: Tensor) -> dict[str, Tensor]:
    """The features as dense tensors: all of them, or row starts, columns and values."""
    shape, leaned = torch.tensor(features.shape), lean(features)
    if isinstance(leaned, Tensor):
        return {"features.shape": shape, "features.values": leaned}
    crow, columns, values = leaned.parts()
    places = {"features.crow": crow, "features.columns": columns}
    return {"features.shape": shape, "features.values": values, **places}


def _unpacked(held: Mapping[str, Tensor]) -> Features:
    values = held["features.values"]
    if "features.crow" not in held:
        return values
    count, width = held["features.shape"].tolist()
    rows = torch.repeat_interleave(torch.arange(count), held["features.crow"].diff())
    return SparseMatrix.of(rows, held["features.columns"], values, shape=(count, width))
