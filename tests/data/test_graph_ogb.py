"""OGB's raw files: read back as written, kept for the next start, refused when damaged."""

import gzip
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cdeq.data import ogb_download, ogb_raw
from cdeq.data.graph import NodeData
from cdeq.data.ogb_download import download_ogb
from cdeq.data.ogb_raw import OGBName, layout, read_ogb
from cdeq.errors import CDEQError, StoreError
from cdeq.models.graph.sparse import SparseMatrix

SPLIT = {"ogbn-arxiv": "time", "ogbn-products": "sales_ranking"}


def write(path: Path, rows: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (",".join(map(str, row)) for row in rows.tolist())
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def make(name: OGBName, features: Tensor) -> dict[str, Tensor]:
    """The tables of a graph with eight nodes."""
    split = f"split/{SPLIT[name]}"
    return {
        "raw/edge": torch.tensor([[0, 1], [2, 1], [2, 7], [3, 3], [6, 5]]),
        "raw/node-feat": features,
        "raw/node-label": torch.tensor([[0], [1], [2], [0], [1], [2], [0], [39]]),
        "raw/num-node-list": torch.tensor([[8]]),
        "raw/num-edge-list": torch.tensor([[5]]),
        f"{split}/train": torch.tensor([[5], [0], [1]]),
        f"{split}/valid": torch.tensor([[2], [3]]),
        f"{split}/test": torch.tensor([[7]]),
    }


def write_all(folder: Path, tables: dict[str, Tensor]) -> Path:
    for file, rows in tables.items():
        write(folder / f"{file}.csv.gz", rows)
    return folder


@pytest.fixture
def features() -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, features: Tensor) -> Path:
    return write_all(tmp_path / "ogbn_arxiv", make("ogbn-arxiv", features))


def dense(data: NodeData) -> Tensor:
    if isinstance(data.features, SparseMatrix):
        return data.features @ torch.eye(data.features.shape[1])
    return data.features


def equal(first: NodeData, second: NodeData) -> bool:
    names = ("edges", "label", "train", "validation", "test")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    pairs.append((dense(first), dense(second)))
    return all(torch.equal(a, b) for a, b in pairs) and first.note == second.note


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("start", ["first", "second"])
def test_what_was_written_is_read(
    name: OGBName, start: str, tmp_path: Path, features: Tensor
) -> None:
    tables = make(name, features)
    data = read_ogb(write_all(tmp_path, tables), name)
    if start == "second":
        data = read_ogb(tmp_path, name)
    assert data.name == name and data.classes == {"ogbn-arxiv": 40, "ogbn-products": 47}[name]
    assert torch.equal(data.edges, tables["raw/edge"].t())
    assert torch.equal(data.label, tables["raw/node-label"].flatten())
    for part, file in ((data.train, "train"), (data.validation, "valid"), (data.test, "test")):
        assert torch.equal(part, tables[f"split/{SPLIT[name]}/{file}"].flatten())
    torch.testing.assert_close(dense(data), features)


def test_mostly_empty_features_are_sparse_after_each_start(tmp_path: Path) -> None:
    tables = make("ogbn-arxiv", torch.eye(8, 30))
    write_all(tmp_path, tables)
    for _ in range(2):
        data = read_ogb(tmp_path, "ogbn-arxiv")
        assert isinstance(data.features, SparseMatrix) and data.features.entries == 8
        assert torch.equal(dense(data), torch.eye(8, 30))


@pytest.mark.parametrize(
    ("features", "note"),
    [
        (torch.rand(8, 128), ""),
        (torch.eye(8, 200), "GPT-prediction features"),
        (torch.zeros(8, 200), "GPT-prediction features"),
        (torch.rand(8, 200), "200 features a node, not the official 128"),
        (torch.eye(8, 6), "6 features a node, not the official 128"),
    ],
)
def test_features_that_are_not_official_are_noted(
    features: Tensor, note: str, tmp_path: Path
) -> None:
    folder = write_all(tmp_path, make("ogbn-arxiv", features))
    assert [read_ogb(folder, "ogbn-arxiv").note for _ in range(2)] == [note, note]


def test_official_products_have_no_note(tmp_path: Path) -> None:
    folder = write_all(tmp_path, make("ogbn-products", torch.rand(8, 100)))
    assert read_ogb(folder, "ogbn-products").note == ""


@pytest.mark.parametrize("file", layout("ogbn-arxiv"))
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    read_ogb(folder, "ogbn-arxiv")  # even where it had been read before
    (folder / file).unlink()
    with pytest.raises(StoreError, match=rf"{file} is missing; unpack .* `download_ogb`"):
        read_ogb(folder, "ogbn-arxiv")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def unzipped(path: Path) -> None:
    path.write_bytes(gzip.decompress(path.read_bytes()))


def words(path: Path) -> None:
    path.write_bytes(gzip.compress(b"one,two\n"))


def ragged(path: Path) -> None:
    path.write_bytes(gzip.compress(b"1\n1,2\n"))


@pytest.mark.parametrize("spoil", [cut, empty, unzipped, words, ragged])
@pytest.mark.parametrize("file", layout("ogbn-arxiv"))
def test_a_damaged_file_is_named(folder: Path, file: str, spoil: Callable[[Path], None]) -> None:
    spoil(folder / file)
    with pytest.raises(StoreError, match=rf"{file} cannot be read as a table .* unpack it again"):
        read_ogb(folder, "ogbn-arxiv")
    assert not (folder / ogb_raw.CACHE).exists()


@pytest.mark.parametrize(
    ("table", "rows", "text"),
    [
        ("raw/edge", [[0, 1]], r"edge.csv.gz should hold 5 rows of 2 numbers .* holds 1 of 2"),
        ("raw/edge", [[0]] * 5, r"edge.csv.gz should hold 5 rows of 2 numbers .* holds 5 of 1"),
        ("raw/node-feat", [[0.0] * 6] * 7, "node-feat.csv.gz should hold 8 rows of any numbers"),
        ("raw/node-label", [[0]] * 9, "node-label.csv.gz should hold 8 rows of 1 numbers"),
        ("raw/num-node-list", [[8], [8]], "num-node-list.csv.gz should hold 1 rows of 1"),
        ("raw/num-edge-list", [[6]], "edge.csv.gz should hold 6 rows"),
        ("split/time/test", [[6, 7]], "test.csv.gz should hold any rows of 1 numbers"),
    ],
)
def test_half_a_table_is_refused(
    folder: Path, table: str, rows: list[list[Any]], text: str
) -> None:
    write(folder / f"{table}.csv.gz", torch.tensor(rows))
    with pytest.raises(StoreError, match=text):
        read_ogb(folder, "ogbn-arxiv")


@pytest.mark.parametrize(
    ("table", "rows", "text"),
    [
        ("raw/edge", [[0, 1]] * 4 + [[0, 8]], "got 1 that do not, the first from 0 to 8"),
        ("raw/node-feat", [[float("nan")] * 6] * 8, "8 of 8 nodes hold NaN"),
        ("raw/node-label", [[40]] * 8, "in 0 … 39; 3 of the training split"),
        ("split/time/valid", [[2], [8]], "the validation split holds 8"),
        ("split/time/valid", [[2], [7]], "1 are named more often, the first is node 7"),
    ],
)
def test_a_wrong_graph_is_refused(
    folder: Path, table: str, rows: list[list[Any]], text: str
) -> None:
    write(folder / f"{table}.csv.gz", torch.tensor(rows))
    with pytest.raises(ValueError, match=text):
        read_ogb(folder, "ogbn-arxiv")


@pytest.mark.parametrize("read", [read_ogb, download_ogb])
def test_other_sets_are_refused(read, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'ogbn-products'\]; got 'ogbn-mag'"):
        read(tmp_path, "ogbn-mag")


def test_packages_that_are_missing_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "ogb", None)
    with pytest.raises(CDEQError, match=r"pandas reads .* install cdeq\[graph\]"):
        read_ogb(folder, "ogbn-arxiv")
    with pytest.raises(CDEQError, match=r"`ogb`, which is missing; install cdeq\[graph\]"):
        download_ogb(tmp_path / "new", "ogbn-arxiv")
    assert not (tmp_path / "new").exists()


class Server:
    """An archive that `ogb` can fetch without a network."""

    def __init__(self, place: Path, tables: dict[str, Tensor]) -> None:
        write_all(place / "arxiv", tables)
        shutil.make_archive(str(place / "arxiv"), "zip", place, "arxiv")
        self.archive = place / "arxiv.zip"

    def facts(self, name: str) -> tuple[str, str]:
        return self.archive.as_uri(), "arxiv"


@pytest.fixture
def server(tmp_path: Path, features: Tensor, monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(tmp_path / "server", make("ogbn-arxiv", features))
    monkeypatch.setattr(ogb_download, "_archive", server.facts)
    return server


def test_a_fetched_set_is_the_one_that_was_packed(
    server: Server, tmp_path: Path, folder: Path
) -> None:
    root = tmp_path / "new" / "root"
    fetched = download_ogb(root, "ogbn-arxiv")
    assert [path.name for path in root.iterdir()] == ["ogbn_arxiv"]
    assert equal(read_ogb(fetched, "ogbn-arxiv"), read_ogb(folder, "ogbn-arxiv"))
    server.archive.unlink()
    assert download_ogb(root, "ogbn-arxiv") == fetched  # what is there is not fetched again


def test_fetching_leaves_torch_as_it_was(server: Server, tmp_path: Path) -> None:
    before = torch.load, torch.save, list(torch.serialization.get_safe_globals())
    environment = {name: value for name, value in os.environ.items() if name.startswith("TORCH")}
    read_ogb(download_ogb(tmp_path / "root", "ogbn-arxiv"), "ogbn-arxiv")
    after = torch.load, torch.save, list(torch.serialization.get_safe_globals())
    assert before[:2] == after[:2] and set(before[2]) == set(after[2])
    assert environment == {k: v for k, v in os.environ.items() if k.startswith("TORCH")}


def nothing(archive: Path) -> None:
    archive.unlink()


def half(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "kind", "text"),
    [
        (nothing, CDEQError, "could not be fetched from file.* name the folder ogbn_arxiv"),
        (half, StoreError, "the archive of ogbn-arxiv arrived damaged"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(
    server: Server, tmp_path: Path, spoil: Callable[[Path], None], kind: type, text: str
) -> None:
    spoil(server.archive)
    with pytest.raises(kind, match=text):
        download_ogb(tmp_path / "root", "ogbn-arxiv")
    assert list((tmp_path / "root").iterdir()) == []


def test_an_archive_without_all_files_leaves_nothing(
    tmp_path: Path, features: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make("ogbn-arxiv", features)
    del tables["raw/node-feat"]
    monkeypatch.setattr(ogb_download, "_archive", Server(tmp_path / "server", tables).facts)
    with pytest.raises(StoreError, match=r"raw/node-feat\.csv\.gz is missing"):
        download_ogb(tmp_path / "root", "ogbn-arxiv")
    assert list((tmp_path / "root").iterdir()) == []


def test_half_a_set_is_not_fetched_over(server: Server, tmp_path: Path) -> None:
    folder = download_ogb(tmp_path, "ogbn-arxiv")
    (folder / "raw/edge.csv.gz").unlink()
    with pytest.raises(StoreError, match=r"raw/edge.csv.gz is missing; .* delete the folder"):
        download_ogb(tmp_path, "ogbn-arxiv")


@pytest.mark.parametrize("name", SPLIT)
def test_ogb_says_where_its_archives_are(name: str) -> None:
    address, folder = ogb_download._archive(name)
    assert address.endswith(f"/{folder}.zip") and folder == name.removeprefix("ogbn-")
