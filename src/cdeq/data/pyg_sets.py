"""Well-known graphs, read by PyTorch Geometric's own data set classes."""

import os
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from cdeq.data.graph import NodeData
from cdeq.data.graph_features import rows_as_shares
from cdeq.data.graph_fields import from_fields
from cdeq.data.graph_splits import NodeSplit, split_per_class
from cdeq.errors import CDEQError, StoreError

FamilyName: TypeAlias = Literal[
    "planetoid", "amazon", "coauthor", "webkb", "wikipedia", "actor", "heterophilous"
]


@dataclass(frozen=True)
class _Family:
    kind: str
    "The class in `torch_geometric.datasets`."
    sets: tuple[str, ...]
    bags: bool = True
    "Whether features are bags of words."


_FAMILIES = {
    "planetoid": _Family("Planetoid", ("Cora", "CiteSeer", "PubMed")),
    "amazon": _Family("Amazon", ("Computers", "Photo")),
    "coauthor": _Family("Coauthor", ("CS", "Physics")),
    "webkb": _Family("WebKB", ("Cornell", "Texas", "Wisconsin")),
    "wikipedia": _Family("WikipediaNetwork", ("chameleon", "squirrel")),
    "actor": _Family("Actor", ("Actor",)),
    "heterophilous": _Family(
        "HeterophilousGraphDataset",
        ("Roman-empire", "Amazon-ratings", "Minesweeper", "Tolokers", "Questions"),
        bags=False,
    ),
}


def read_pyg(
    root: str | os.PathLike[str],
    family: FamilyName,
    name: str,
    *,
    split: int = 0,
    seed: int = 0,
    shares: bool = True,
    download: bool = False,
) -> NodeData:
    """A graph from PyTorch Geometric's files of it.

    Planetoid has its public split; WebKB, Wikipedia, actor and the heterophilous sets have ten
    official ones; of the others, 20 nodes a class are fitted, 30 select, and all others are
    reported, drawn by seed (`split_per_class`).

    PyTorch Geometric reads a set once and keeps what it has read in a folder `processed` beside
    the raw files, so it has to be able to write there at the first start.

    Arguments:
        root: The folder that the set's class is given in PyTorch Geometric.
        family: Which class that is.
        name: The set, in any case.
        split: Which of ten splits.
        seed: Draws a split where there is no official one.
        shares: Whether bags of words are divided by their sizes, as the literature does; features
            that are no bags of words stay as they are.
        download: Whether missing files may be fetched.

    Raises:
        ValueError: When there is no such family, set or split.
        StoreError: When a file is missing or damaged, or `processed` cannot be written.
        CDEQError: When PyTorch Geometric is not installed.

    Example:
        >>> read_pyg("nowhere", "planetoid", "cora")
        Traceback (most recent call last):
        ...
        cdeq.errors.StoreError: there is no folder nowhere for Cora; ...
    """
    facts, title = _chosen(family, name)
    if not (download or Path(root).is_dir()):
        raise StoreError(
            f"there is no folder {root} for {title}; give the one that holds PyTorch Geometric's "
            "files, or allow it to be downloaded."
        )
    fields = _loaded(Path(root), facts, title, download)
    drawn = partial(_per_class, seed)
    data = from_fields(fields, name=title.lower(), split=split, otherwise=drawn)
    if facts.bags and shares:
        return replace(data, features=rows_as_shares(data.features))
    return data


def _per_class(seed: int, label: Tensor, classes: int) -> NodeSplit:
    return split_per_class(label, classes, seed=seed)


def _chosen(family: str, name: str) -> tuple[_Family, str]:
    if family not in _FAMILIES:
        raise ValueError(f"families are {list(get_args(FamilyName))}; got {family!r}.")
    facts = _FAMILIES[family]
    titles = {title.lower(): title for title in facts.sets}
    if name.lower() not in titles:
        raise ValueError(f"graphs of {family} are {list(facts.sets)}; got {name!r}.")
    return facts, titles[name.lower()]


def _loaded(root: Path, facts: _Family, title: str, download: bool) -> dict[str, Any]:
    try:
        from torch_geometric import datasets
    except ImportError as error:
        raise CDEQError(f"{title} is read by PyTorch Geometric; install cdeq[graph].") from error
    kind = getattr(datasets, facts.kind)
    kind = kind if download else _offline(kind, root, title)
    arguments = (str(root),) if facts.sets == (facts.kind,) else (str(root), title)
    try:
        with warnings.catch_warnings():
            # after this warning PyTorch Geometric would load a file that may run code
            warnings.filterwarnings("error", message="Weights only load failed")
            return kind(*arguments)[0].to_dict()
    except StoreError:
        raise
    except PermissionError as error:
        raise StoreError(
            f"PyTorch Geometric keeps its own copy of {title} under {root}, which cannot be "
            f"written ({error}); copy the folder to a place that can."
        ) from error
    except Exception as error:  # a damaged file fails in a dozen ways
        raise StoreError(
            f"{title} under {root} cannot be read ({type(error).__name__}: {error}); delete its "
            "folder `processed`, and if that does not help its raw files, and get them again."
        ) from error


def _offline(kind: Any, root: Path, title: str) -> Any:  # noqa: ANN401 - an untyped class
    """The class, but one that names what is missing where it would download."""

    class Offline(kind):
        def download(self) -> None:
            missing = [path for path in map(Path, self.raw_paths) if not path.exists()]
            _remove_empty(Path(self.raw_dir), root)
            raise StoreError(
                f"{missing[0]} is missing for {title} ({len(missing)} of {len(self.raw_paths)} "
                "files are); put PyTorch Geometric's files there, or allow it to be downloaded."
            )

    return Offline


def _remove_empty(folder: Path, root: Path) -> None:
    """The folders that were made just now to download into."""
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
