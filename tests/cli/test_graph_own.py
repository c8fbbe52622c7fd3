"""A graph of one's own, data that are not there, and guarantees that are given up."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli.graph_runs import ITERATIVE, STEPS, small, table
from cli.run import Ended, cdeq, refused

from cdeq.data.graph_file import read_graph_file
from cdeq.recipes.graph_sources import loaded


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Two rings of twelve nodes, each of its own class, in the names of PyTorch Geometric."""
    here = np.arange(24)
    after = np.where(here % 12 == 11, here - 11, here + 1)
    label = here // 12
    features = np.eye(2)[label] + np.random.default_rng(0).normal(size=(24, 2))
    np.savez(tmp_path / "rings.npz", edge_index=np.stack([here, after]), x=features, y=label)
    loaded.cache_clear()
    return tmp_path / "rings.npz"


def own(command: str, graph: Path, *more: object) -> Ended:
    folder = graph.parent / "run"
    words = ("--folder", folder, "--source.path", graph, *STEPS, "--explicit", "gcn", *more)
    return cdeq(command, "own_graph", *words)


def test_a_graph_of_ones_own_goes_all_the_way(graph: Path) -> None:
    said = own("demo", graph)
    assert (said.code, said.err) == (0, "")
    folder, data = graph.parent / "run", read_graph_file(graph)
    assert {*table(folder, "accuracy")} == {
        *ITERATIVE, ("teacher", None), ("gcn", None), ("few-step", 1), ("few-step", 3),
    }  # fmt: skip
    shares = {round(value * len(data.test), 6) for value in table(folder, "accuracy").values()}
    assert all(share.is_integer() for share in shares), "of its own test nodes"
    assert table(folder, "products")["picard", 3] == 3.0
    spec = json.loads((folder / "teacher/config.json").read_text())["spec"]
    assert (spec["inputs"], spec["classes"]) == (2, 2)


def test_a_graph_that_changed_is_another_one(graph: Path) -> None:
    assert own("train", graph).code == 0
    fields = dict(np.load(graph))
    fields["x"][0, 0] += 1.0
    np.savez(graph, **fields)
    loaded.cache_clear()
    said = own("train", graph)
    assert said.code == 1
    assert "data.train was" in said.err


def test_another_draw_of_the_split_is_another_run(graph: Path) -> None:
    assert own("train", graph).code == 0
    said = own("train", graph, "--source.split-seed", "1")
    assert said.code == 1
    assert "data.train was" in said.err


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("edge_index", np.array([[0], [24]]), "edges join nodes 0 … 23; got 1 that do not"),
        ("x", np.full((24, 2), np.nan), "node features must be finite numbers"),
        ("y", np.full(24, -1), "the training split is empty"),
    ],
)
def test_a_graph_that_is_none_is_refused_in_a_sentence(
    field: str, value: np.ndarray, text: str, graph: Path
) -> None:
    np.savez(graph, **{**np.load(graph), field: value})
    loaded.cache_clear()
    said = own("train", graph)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("cdeq: ") and said.err.count("\n") == 1
    assert text in said.err
    assert not (graph.parent / "run").exists()


# Data that are not there, and settings that give up too much


@pytest.mark.parametrize(
    ("recipe", "missing"),
    [
        ("cora", "planetoid"),
        ("computers", "amazon"),
        ("physics", "coauthor"),
        ("arxiv", "ogbn_arxiv"),
        ("ogbn_products", "ogbn_products"),
    ],
)
def test_missing_data_are_named_and_where_they_are_looked_for(
    recipe: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDEQ_DATA", str(tmp_path / "here"))
    text = refused(tmp_path, "train", recipe, "--folder", tmp_path / "run")
    assert f"{tmp_path / 'here' / missing}" in text
    assert f"looked for in {tmp_path / 'here'}, " in text
    assert "the environment variable CDEQ_DATA or the source's `root`" in text
    root = tmp_path / "there"
    words = ("train", recipe, "--folder", tmp_path / "run", "--source.root", root)
    assert f"{root / missing}" in refused(tmp_path, *words)


@pytest.mark.parametrize(
    ("recipe", "under", "file"),
    [("arxiv", "ogbn_arxiv", "raw/edge.csv.gz"), ("cora", "planetoid", "Cora/raw/ind.cora.x")],
)
def test_half_unpacked_data_name_the_file_that_is_missing(
    recipe: str, under: str, file: str, tmp_path: Path
) -> None:
    (tmp_path / under).mkdir()
    words = ("train", recipe, "--folder", tmp_path / "run", "--source.root", tmp_path)
    text = refused(tmp_path, *words)
    assert file in text
    assert "CDEQ_DATA" in text


def test_a_missing_graph_of_ones_own_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    words = ("train", "own_graph", "--folder", tmp_path / "run", "--source.path", path)
    assert f"there is no file {path}" in refused(tmp_path, *words)


@pytest.mark.parametrize(
    ("recipe", "words", "text"),
    [
        ("chains", ["--network.kappa", "1.2"], "`kappa` < 1 is what makes IGNN well-posed"),
        ("chains", ["--network.kappa", "1.0"], "which every solver finds; got 1.0"),
        ("chains", ["--network.kappa", "None"], "to give that up, say `unguaranteed`"),
        ("chains", ["--network.kappa", "-0.5"], "so it is above 0; got -0.5"),
        ("computers_eignn", ["--network.gamma", "1.0"], "`gamma` < 1"),
        ("computers_mignn", ["--network.kappa", "1.5"], "`kappa` ≤ 1"),
    ],
    ids=str,
)
def test_what_gives_up_the_guarantee_is_refused(
    recipe: str, words: list[str], text: str, tmp_path: Path
) -> None:
    said = cdeq("train", recipe, "--folder", tmp_path / "run", *words)
    assert said.code == 2
    assert text in " ".join(said.err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kappa", ["1.2", "None"])
def test_the_guarantee_can_be_given_up_by_saying_so(kappa: str, tmp_path: Path) -> None:
    words = ("--network.kappa", kappa, "--network.unguaranteed")
    assert small("train", tmp_path / "run", *words).code == 0
    spec = json.loads((tmp_path / "run/teacher/config.json").read_text())["spec"]
    assert (spec["kappa"], spec["unguaranteed"]) == (None if kappa == "None" else 1.2, True)
