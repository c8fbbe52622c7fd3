"""Where a recipe's graph comes from: files that are named, or a generator."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from cdeq.data.chains import chains
from cdeq.data.graph import NodeData
from cdeq.data.graph_file import read_graph_file
from cdeq.data.ogb_download import download_ogb
from cdeq.data.ogb_raw import OGBName, read_ogb
from cdeq.data.pyg_sets import FamilyName, read_pyg
from cdeq.recipes.data_root import data_root, looking_in


@dataclass(frozen=True, kw_only=True)
class OGBSource:
    """A graph of the Open Graph Benchmark, in the layout of its official archive.

    Arguments:
        name: ogbn-arxiv or ogbn-products.
        root: The folder that holds its own, ogbn_arxiv or ogbn_products; `CDEQ_DATA` by default.
        download: Fetch it with the package `ogb` where it is not there.
    """

    name: OGBName = "ogbn-arxiv"
    root: Path = field(default_factory=data_root)
    download: bool = False

    def load(self) -> NodeData:
        """The graph."""
        folder = self.root / self.name.replace("-", "_")
        with looking_in(self.root):
            if self.download and not folder.exists():
                folder = download_ogb(self.root, self.name)
            return read_ogb(folder, self.name)


@dataclass(frozen=True, kw_only=True)
class PyGSource:
    """A graph that PyTorch Geometric has a class for, in that class's layout.

    Arguments:
        family: The class: planetoid, amazon, coauthor, webkb, wikipedia, actor, heterophilous.
        name: The set.
        root: The folder that holds the family's own, planetoid say; `CDEQ_DATA` by default.
        split: Which of ten official splits, where there are so many.
        split_seed: Draws the split where there is no official one.
        shares: Divide bags of words by their sizes.
        download: Let PyTorch Geometric fetch it where it is not there.
    """

    family: FamilyName
    name: str
    root: Path = field(default_factory=data_root)
    split: int = 0
    split_seed: int = 0
    shares: bool = True
    download: bool = False

    def load(self) -> NodeData:
        """The graph."""
        with looking_in(self.root):
            return read_pyg(
                self.root / self.family,
                self.family,
                self.name,
                split=self.split,
                seed=self.split_seed,
                shares=self.shares,
                download=self.download,
            )


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """A graph of one's own.

    Arguments:
        path: An .npz of arrays, or a .pt of PyTorch Geometric's `Data`.
        split: Which of several splits, where the file has so many.
        split_seed: Draws the split where the file has none.
    """

    path: Path = Path("graph.npz")
    split: int = 0
    split_seed: int = 0

    def load(self) -> NodeData:
        """The graph."""
        return read_graph_file(self.path, split=self.split, seed=self.split_seed)


@dataclass(frozen=True, kw_only=True)
class ChainsSource:
    """Generated paths whose first node alone tells the class.

    Arguments:
        classes: How many.
        per_class: Paths a class.
        length: Nodes a path.
        features: Features of a node.
        noise: The standard deviation of white noise on them.
        seed: Of noise and split.
    """

    classes: int = 2
    per_class: int = 20
    length: int = 10
    features: int = 100
    noise: float = 0.0
    seed: int = 0

    def load(self) -> NodeData:
        """The graph."""
        return chains(
            classes=self.classes,
            per_class=self.per_class,
            length=self.length,
            features=self.features,
            noise=self.noise,
            seed=self.seed,
        )


Source: TypeAlias = OGBSource | PyGSource | FileSource | ChainsSource


@lru_cache(maxsize=1)
def loaded(source: Source) -> NodeData:
    """The graph of a source; the last one is kept, since reading takes longer than many steps."""
    return source.load()
