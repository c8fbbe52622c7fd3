"""A user's own graph: arrays and `Data` read alike, and no file runs code."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from cdeq.data.graph import NodeData
from cdeq.data.graph_file import read_graph_file
from cdeq.errors import StoreError
from cdeq.models.graph.sparse import SparseMatrix

# PyTorch Geometric scripts some of its functions when it is imported
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)

N = 20
EDGES = np.array([[0, 1, 2, 3, 19], [1, 2, 0, 3, 4]], np.int32)
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
Y = (np.arange(N) % 3).astype(np.int16)
PARTS = [list(range(10)), list(range(10, 15)), list(range(15, 18))]
ORDERS = np.stack([np.random.default_rng(seed).permutation(N) for seed in range(10)])
MASKS = [ORDERS < 10, (ORDERS >= 10) & (ORDERS < 15), ORDERS >= 15]
BASE: dict[str, Any] = {"edge_index": EDGES, "x": X, "y": Y}


def dense(data: NodeData) -> Tensor:
    features = data.features
    return (
        features @ torch.eye(features.shape[1]) if isinstance(features, SparseMatrix) else features
    )


def named(kind: str, parts: list[Any]) -> dict[str, Any]:
    names = ("train", "val", "test")
    return {f"{name}_{kind}": part for name, part in zip(names, parts, strict=True)}


def npz(path: Path, fields: dict[str, Any]) -> Path:
    path = path / "mine.npz"
    np.savez(path, **fields)
    return path


def in_columns(name: str, value: Any) -> Tensor:  # noqa: ANN401 - an array or a list
    tensor = torch.as_tensor(np.asarray(value))
    return tensor.t() if name.endswith("_mask") and tensor.ndim == 2 else tensor


def pt_data(path: Path, fields: dict[str, Any]) -> Path:
    from torch_geometric.data import Data

    path = path / "mine.pt"
    torch.save(Data(**{name: in_columns(name, value) for name, value in fields.items()}), path)
    return path


def pt_dictionary(path: Path, fields: dict[str, Any]) -> Path:
    path = path / "mine.pt"
    torch.save({name: in_columns(name, value) for name, value in fields.items()}, path)
    return path


each_way = pytest.mark.parametrize("write", [npz, pt_data, pt_dictionary])
Write = Callable[[Path, dict[str, Any]], Path]


@each_way
@pytest.mark.parametrize("kind", ["idx", "mask"])
def test_a_graph_is_read_as_written(write: Write, kind: str, tmp_path: Path) -> None:
    masks = [np.isin(np.arange(N), part) for part in PARTS]
    parts = PARTS if kind == "idx" else masks
    data = read_graph_file(write(tmp_path, {**BASE, **named(kind, parts)}))
    assert torch.equal(data.edges, torch.from_numpy(EDGES).long())
    assert torch.equal(dense(data), torch.from_numpy(X))
    assert torch.equal(data.label, torch.from_numpy(Y).long())
    assert [part.tolist() for part in (data.train, data.validation, data.test)] == PARTS
    assert (data.classes, data.name, data.note) == (3, "mine", "")


@each_way
def test_each_of_ten_splits_can_be_chosen(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, {**BASE, **named("mask", MASKS)})
    for split in range(10):
        data = read_graph_file(path, split=split)
        assert data.train.tolist() == np.nonzero(MASKS[0][split])[0].tolist()
        assert data.test.tolist() == np.nonzero(MASKS[2][split])[0].tolist()
    with pytest.raises(ValueError, match="the 10 splits 0 … 9; got 10"):
        read_graph_file(path, split=10)


def test_masks_may_be_called_by_the_plural(tmp_path: Path) -> None:
    data = read_graph_file(npz(tmp_path, {**BASE, **named("masks", MASKS)}), split=3)
    assert data.validation.tolist() == np.nonzero(MASKS[1][3])[0].tolist()


@each_way
def test_without_a_split_the_seed_draws_one_of_nodes_with_a_class(
    write: Write, tmp_path: Path
) -> None:
    label = np.where(np.arange(N) < 5, -1, Y)
    path = write(tmp_path, {**BASE, "y": label})
    first, again, other = (read_graph_file(path, seed=seed) for seed in (0, 0, 1))
    assert [len(part) for part in (first.train, first.validation, first.test)] == [9, 3, 3]
    drawn = torch.cat([first.train, first.validation, first.test])
    assert drawn.sort().values.tolist() == list(range(5, N))
    assert torch.equal(first.train, again.train) and not torch.equal(first.train, other.train)


def triple(width: int) -> dict[str, Any]:
    rows = csr_matrix(3 * np.eye(width, dtype=np.float32)[np.arange(N) % width])
    arrays = rows.data, rows.indices, rows.indptr, np.array(rows.shape)
    return dict(zip(("x_data", "x_indices", "x_indptr", "x_shape"), arrays, strict=True))


TRIPLE = triple(30)
STARTS = TRIPLE["x_indptr"]
BARE: dict[str, Any] = {"edge_index": EDGES, "y": Y}


@pytest.mark.parametrize("write", [npz, pt_dictionary])
@pytest.mark.parametrize("width", [5, 30])
def test_compressed_rows_are_read_and_stay_so_where_few_are_filled(
    write: Write, width: int, tmp_path: Path
) -> None:
    data = read_graph_file(write(tmp_path, {**BARE, **triple(width)}))
    assert isinstance(data.features, SparseMatrix) == (width == 30)
    wanted = np.arange(width) == np.arange(N)[:, None] % width
    assert torch.equal(dense(data), 3 * torch.from_numpy(wanted).float())


def test_sparse_tensors_are_read(tmp_path: Path) -> None:
    from torch_geometric.data import Data

    x = (3 * torch.eye(N, 30)).to_sparse_coo()
    data = Data(x=x, edge_index=torch.from_numpy(EDGES), y=torch.from_numpy(Y).view(N, 1))
    torch.save(data, tmp_path / "mine.pt")
    read = read_graph_file(tmp_path / "mine.pt")
    assert torch.equal(dense(read), 3 * torch.eye(N, 30))
    assert torch.equal(read.label, torch.from_numpy(Y).long())


@each_way
@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"edge_index": EDGES + 1}, "join nodes 0 … 19; got 1 that do not, the first from 20"),
        ({"x": np.where(X > 1.5, np.nan, X)}, "nodes hold NaN or infinity"),
        ({"x": X[:-1]}, r"join nodes 0 … 18|19 nodes and 20 labels"),
        ({"y": Y[:-1]}, "20 nodes and 19 labels"),
        (named("idx", [[0], [1], [1]]), "1 are named more often, the first is node 1"),
        (named("idx", [[0], [1], [20]]), "the test split holds 20"),
        (named("mask", [Y < 5, Y > 5, Y > 5]), "the validation split is empty"),
        ({"y": np.full(N, -1)}, "the training split is empty"),
        ({"train_mask": Y < 1, "test_mask": Y > 1}, "got only train_mask, test_mask"),
    ],
)
def test_a_wrong_graph_is_refused(
    write: Write, changed: dict[str, Any], text: str, tmp_path: Path
) -> None:
    path = write(tmp_path, {**BASE, **changed})
    with pytest.raises(ValueError, match=text):
        read_graph_file(path)


@each_way
@pytest.mark.parametrize("name", ["edge_index", "x", "y"])
def test_a_missing_tensor_is_named(write: Write, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, {key: value for key, value in BASE.items() if key != name})
    with pytest.raises(ValueError, match=f"there is no `{name}` among"):
        read_graph_file(path)


@each_way
@pytest.mark.parametrize("name", ["edge_index", "y"])
def test_broken_numbers_are_no_indices(write: Write, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, {**BASE, name: BASE[name].astype(np.float32)})
    with pytest.raises(TypeError, match=f"`{name}` holds integers; got torch.float32"):
        read_graph_file(path)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"x_indptr": STARTS[:-1]}, r"where each row .* got 20, 20 and 20 .* \[20, 30\]"),
        ({"x_indptr": STARTS + 1 * (np.arange(21) == 20)}, "where each row .* starts"),
        ({"x_indptr": STARTS[::-1]}, "where each row .* starts"),
        ({"x_data": TRIPLE["x_data"][:-1]}, "got 21, 20 and 19"),
        ({"x_indices": TRIPLE["x_indices"] + 11}, "columns 0 … 29; got 11 … 30"),
        ({"x_shape": np.array([20])}, "where each row .* starts"),
        ({"x_data": np.full(N, np.inf)}, "20 of 20 nodes hold NaN or infinity"),
    ],
)
def test_wrong_compressed_rows_are_refused(
    changed: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=text):
        read_graph_file(npz(tmp_path, {**BARE, **TRIPLE, **changed}))


@each_way
@pytest.mark.parametrize("kept", [0, 10, -40])
def test_a_damaged_file_is_refused(write: Write, kept: int, tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StoreError, match=r"mine\.\w+ cannot be read .* save the graph again"):
        read_graph_file(path)


def test_a_missing_file_and_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no file .*mine.npz"):
        read_graph_file(tmp_path / "mine.npz")
    with pytest.raises(ValueError, match=r"an .npz of arrays or a .pt .*; got mine.csv"):
        read_graph_file(tmp_path / "mine.csv")


class Bomb:
    """What a file could do to whoever loads it carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_no_file_runs_code(tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "ran")
    torch.save({**BASE, "x": bomb}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(bomb))
    np.savez(tmp_path / "bomb.npz", **{**BASE, "x": np.array([bomb])})
    for name in ("bomb.pt", "plain.pt", "bomb.npz"):
        with pytest.raises(StoreError, match=f"{name} cannot be read"):
            read_graph_file(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("held", [[1, 2], torch.zeros(3), "graph"], ids=type)
def test_other_contents_are_refused(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "mine.pt")
    with pytest.raises(StoreError, match=f"it holds a {type(held).__name__}"):
        read_graph_file(tmp_path / "mine.pt")


WITHOUT_PYG = """
import sys
sys.modules["torch_geometric"] = None
from cdeq.data.graph_file import read_graph_file
print(read_graph_file(sys.argv[1]).nodes)
read_graph_file(sys.argv[2])
"""


def test_without_pyg_dictionaries_are_read_and_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    paths = [pt_dictionary(tmp_path, BASE), pt_data(tmp_path / "data", BASE)]
    command = [sys.executable, "-c", WITHOUT_PYG, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{N}\n"
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cdeq.errors.CDEQError: ")
    assert last.endswith("is missing; install cdeq[graph].")


def test_reading_allows_nothing_for_others_and_takes_nothing_from_them(tmp_path: Path) -> None:
    """PyTorch Geometric allows torch some of its classes; the scope that adds more keeps those."""
    from torch_geometric.data import Data

    path = pt_data(tmp_path, BASE)
    before, load = list(torch.serialization.get_safe_globals()), torch.load
    read_graph_file(path)
    path.write_bytes(b"")
    with pytest.raises(StoreError):
        read_graph_file(path)
    assert set(torch.serialization.get_safe_globals()) == set(before)
    assert Data in before  # otherwise an earlier reading has taken it away
    assert torch.load is load
