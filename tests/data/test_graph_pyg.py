"""Graphs of PyTorch Geometric: its own files read back, its own splits, nothing left behind."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from cdeq.data.graph import NodeData
from cdeq.data.pyg_sets import read_pyg
from cdeq.errors import CDEQError, StoreError
from cdeq.models.graph.sparse import SparseMatrix

# PyTorch Geometric scripts some of its functions when it is imported
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)

RANDOM = np.random.default_rng(0)


def dense(data: NodeData) -> Tensor:
    features = data.features
    return (
        features @ torch.eye(features.shape[1]) if isinstance(features, SparseMatrix) else features
    )


def pairs(edges: Tensor) -> set[tuple[int, ...]]:
    """Undirected edges without loops."""
    return {tuple(sorted(edge)) for edge in edges.t().tolist() if edge[0] != edge[1]}


EDGES = np.array([[0, 1, 2, 9, 100], [1, 0, 4, 9, 110]])
LABELS = np.arange(120) % 2


def write_amazon(root: Path, words: np.ndarray) -> Path:
    adjacency = csr_matrix((np.ones(5), EDGES), (120, 120))
    bags = csr_matrix(words)
    raw = root / "Photo" / "raw"
    raw.mkdir(parents=True)
    np.savez(
        raw / "amazon_electronics_photo.npz",
        adj_data=adjacency.data,
        adj_indices=adjacency.indices,
        adj_indptr=adjacency.indptr,
        adj_shape=adjacency.shape,
        attr_data=bags.data,
        attr_indices=bags.indices,
        attr_indptr=bags.indptr,
        attr_shape=bags.shape,
        labels=LABELS,
    )
    return raw / "amazon_electronics_photo.npz"


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("start", ["first", "second"])
def test_amazon_is_read_as_written(share: float, start: str, tmp_path: Path) -> None:
    words = (np.random.default_rng(0).random((120, 30)) < share).astype(np.float32)
    write_amazon(tmp_path, words)
    if start == "second":
        read_pyg(tmp_path, "amazon", "photo")
    data = read_pyg(tmp_path, "amazon", "photo", shares=False)
    assert isinstance(data.features, SparseMatrix) == (share < 0.1)
    assert torch.equal(dense(data), torch.from_numpy(words))
    assert pairs(data.edges) == pairs(torch.from_numpy(EDGES))
    assert torch.equal(data.label, torch.from_numpy(LABELS)) and data.classes == 2
    sums = dense(read_pyg(tmp_path, "amazon", "photo")).sum(1)
    torch.testing.assert_close(sums, torch.from_numpy(words).sum(1).clamp_max(1.0))


def test_a_set_without_split_has_20_and_30_nodes_a_class_by_seed(tmp_path: Path) -> None:
    write_amazon(tmp_path, np.eye(120, 30, dtype=np.float32))
    first, again, other = (read_pyg(tmp_path, "amazon", "Photo", seed=seed) for seed in (0, 0, 1))
    assert first.label[first.train].bincount().tolist() == [20, 20]
    assert first.label[first.validation].bincount().tolist() == [30, 30]
    assert len(first.test) == 20
    assert torch.equal(first.train, again.train) and not torch.equal(first.train, other.train)
    with pytest.raises(StoreError, match="there is no folder"):
        read_pyg(tmp_path / "elsewhere", "amazon", "Photo")


def write_planetoid(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """510 nodes: 4 to fit, 500 to select, 6 to report, these in another order than their rows."""
    words = (RANDOM.random((510, 40)) < 0.05).astype(np.float32)
    labels = np.arange(510) % 2
    order = np.array([509, 504, 506, 505, 508, 507])
    one_hot = np.eye(2, dtype=np.int32)[labels]
    raw = root / "Cora" / "raw"
    raw.mkdir(parents=True)
    contents = {
        "x": csr_matrix(words[:4]),
        "tx": csr_matrix(words[order]),
        "allx": csr_matrix(words[:504]),
        "y": one_hot[:4],
        "ty": one_hot[order],
        "ally": one_hot[:504],
        "graph": {node: [(node + 1) % 510, (node - 1) % 510] for node in range(510)},
    }
    for name, content in contents.items():
        (raw / f"ind.cora.{name}").write_bytes(pickle.dumps(content))
    (raw / "ind.cora.test.index").write_text("".join(f"{node}\n" for node in order))
    return words, labels, order


def test_planetoid_has_its_public_split(tmp_path: Path) -> None:
    words, labels, order = write_planetoid(tmp_path)
    data = read_pyg(tmp_path, "planetoid", "CORA", shares=False)
    assert torch.equal(dense(data), torch.from_numpy(words))
    assert torch.equal(data.label, torch.from_numpy(labels))
    assert data.train.tolist() == [0, 1, 2, 3]
    assert data.validation.tolist() == list(range(4, 504))
    assert data.test.tolist() == sorted(order.tolist())
    assert pairs(data.edges) == {tuple(sorted((node, (node + 1) % 510))) for node in range(510)}
    with pytest.raises(ValueError, match="the 1 splits 0 … 0; got 1"):
        read_pyg(tmp_path, "planetoid", "CORA", split=1)


def write_heterophilous(root: Path) -> tuple[np.ndarray, np.ndarray]:
    features = RANDOM.normal(size=(40, 7)).astype(np.float32)
    parts = np.stack([RANDOM.permutation(40) for _ in range(10)])
    raw = root / "minesweeper" / "raw"
    raw.mkdir(parents=True)
    np.savez(
        raw / "minesweeper.npz",
        node_features=features,
        node_labels=np.arange(40) % 2,
        edges=np.array([[0, 1], [1, 2]]),
        train_masks=parts < 20,
        val_masks=(parts >= 20) & (parts < 30),
        test_masks=parts >= 30,
    )
    return features, parts


def test_each_of_ten_splits_can_be_chosen_and_features_that_are_no_bags_stay(
    tmp_path: Path,
) -> None:
    features, parts = write_heterophilous(tmp_path)
    for split in range(10):
        data = read_pyg(tmp_path, "heterophilous", "minesweeper", split=split)
        assert data.train.tolist() == np.nonzero(parts[split] < 20)[0].tolist()
        assert data.test.tolist() == np.nonzero(parts[split] >= 30)[0].tolist()
        assert torch.equal(dense(data), torch.from_numpy(features))
    with pytest.raises(ValueError, match="the 10 splits 0 … 9; got 10"):
        read_pyg(tmp_path, "heterophilous", "minesweeper", split=10)


def test_missing_files_are_named_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"ms_academic_cs.npz is missing for CS \(1 of 1 files"):
        read_pyg(tmp_path, "coauthor", "cs")
    assert list(tmp_path.iterdir()) == []
    write_planetoid(tmp_path)
    (tmp_path / "Cora/raw/ind.cora.tx").unlink()
    with pytest.raises(StoreError, match=r"ind.cora.tx is missing for Cora \(1 of 8 files"):
        read_pyg(tmp_path, "planetoid", "cora")


# numpy does not close a file that it cannot read
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kept", [0, 50, -30])
def test_a_damaged_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = write_amazon(tmp_path, np.eye(120, 30, dtype=np.float32))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StoreError, match=r"Photo under .* cannot be read .* get them again"):
        read_pyg(tmp_path, "amazon", "photo")


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    write_amazon(tmp_path, np.eye(120, 30, dtype=np.float32))
    read_pyg(tmp_path, "amazon", "photo")
    copy = tmp_path / "Photo" / "processed" / "data.pt"
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.raises(StoreError, match="delete its folder `processed`"):
        read_pyg(tmp_path, "amazon", "photo")


class Bomb:
    """What a file could do to whoever loads it carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_copy_that_would_run_code_is_refused(tmp_path: Path) -> None:
    write_amazon(tmp_path, np.eye(120, 30, dtype=np.float32))
    read_pyg(tmp_path, "amazon", "photo")
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "Photo" / "processed" / "data.pt")
    with pytest.raises(StoreError, match="Weights only load failed"):
        read_pyg(tmp_path, "amazon", "photo")
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_geometric.data import dataset

    def refuse(path: str, **_: bool) -> None:
        raise PermissionError(13, "Permission denied", path)

    write_amazon(tmp_path, np.eye(120, 30, dtype=np.float32))
    monkeypatch.setattr(dataset.fs, "makedirs", refuse)
    with pytest.raises(StoreError, match=r"keeps its own copy of Photo .* cannot be written"):
        read_pyg(tmp_path, "amazon", "photo")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(CDEQError, match=r"PyTorch Geometric; install cdeq\[graph\]"):
        read_pyg(tmp_path, "planetoid", "cora")


@pytest.mark.parametrize(
    ("family", "name", "text"),
    [
        ("planetoids", "Cora", "families are .*'planetoid', .*; got 'planetoids'"),
        ("planetoid", "Core", "graphs of planetoid are .*'Cora', .*; got 'Core'"),
        ("coauthor", "Photo", "graphs of coauthor are .*'CS', 'Physics'.; got 'Photo'"),
    ],
)
def test_other_names_are_refused(family, name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        read_pyg(tmp_path, family, name)
