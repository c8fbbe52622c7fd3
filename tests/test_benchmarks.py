"""Benchmarks run, here at the size of toys, and what they have written keeps its promises."""

import json
import os
from collections.abc import Callable
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch
from problems import seeded

from cdeq.data.power_law import power_law
from cdeq.models.graph.adjacency import normalised
from cdeq.report.canvas import save
from cdeq.report.quoting import renew

ROOT = Path(__file__).parent.parent
GRAPHS = ((300, 2000), (900, 6000))
BUDGETS = (1, 2, 8)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports one of the benchmarks, which are scripts beside the package."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module


@pytest.fixture
def graph_scale(load, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With everything in this process, which is many times as fast."""
    module = load("graph_scale")
    monkeypatch.setattr(module, "alone", lambda function, *given: function(*given))
    return module


def test_what_is_timed_is_one_product(load) -> None:
    adjacency = normalised(power_law(300, 2000), 300)
    dense = seeded(300, 5, seed=1, dtype=torch.float32)
    expected = adjacency.matrix.to_dense() @ dense
    for way in load("sparse_product").products(adjacency, dense).values():
        torch.testing.assert_close(torch.as_tensor(way()), expected)


def test_sparse_products_are_quoted_as_ratios(load, tmp_path: Path) -> None:
    benchmark, threads = load("sparse_product"), sorted({1, torch.get_num_threads()})
    contents = benchmark.measure(300, 2000, (4, 80), 2, lambda text: None)
    names = [f"sparse_product_{width}_threads_{n}" for n in threads for width in (4, 80)]
    assert list(contents["ratios"]) == list(contents["milliseconds"]) == names
    for name, times in contents["milliseconds"].items():
        ours = times.pop(benchmark.OURS)
        assert len(times) == 5
        expected = ours / min(times.values())
        assert contents["ratios"][name] == pytest.approx(expected, rel=0.2)  # of rounded times
    (tmp_path / "ratios.json").write_text(json.dumps(contents))
    quoted = renew("<!-- ratios ratios.json -->\n<!-- end -->", tmp_path)
    assert all(f"| {meaning} |" in quoted for meaning in contents["meaning"].values())


def test_scale_has_a_row_for_each_size_method_and_budget(graph_scale, tmp_path: Path) -> None:
    contents = graph_scale.measure(GRAPHS, BUDGETS, 1, lambda text: None)
    for row, (nodes, edges) in zip(contents["evaluations"], GRAPHS, strict=True):
        assert (row["nodes"], row["edges"], row["entries"]) == (nodes, edges, 2 * edges + nodes)
        assert row["microseconds_per_entry"] > 0.0
    rows = contents["inference"]
    wanted = product((nodes for nodes, _ in GRAPHS), graph_scale.METHODS, BUDGETS)
    assert [(row["nodes"], row["method"], row["nfe"]) for row in rows] == list(wanted)
    for row in rows:
        assert 0.0 < row["live_gib"] < row["loaded_gib"] <= row["peak_gib"]
    picture = tmp_path / "scale.png"
    save(picture, lambda: graph_scale.draw(contents))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", ("picard", "student-picard"))
def test_live_memory_is_linear_in_nodes_and_stays_as_it_is(
    graph_scale, method: str, tmp_path: Path
) -> None:
    states = []
    for nodes, edges in GRAPHS:
        graph_scale.generate(tmp_path, nodes, edges)
        states += [graph_scale.inference(tmp_path, method, k)["live_states"] for k in (2, 3, 20)]
    assert states == pytest.approx([states[-1]] * len(states), rel=0.05)


def test_another_process_is_another_one(load) -> None:
    alone = load("alone")
    assert alone.alone(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        alone.alone(divmod, 1, 0)


def test_sizes_span_four_decades_and_are_sparse(graph_scale) -> None:
    graphs = graph_scale.sizes(1.0)
    assert graphs[-1] == (2_449_029, 61_859_140)
    assert graphs[-1][1] / graphs[0][1] == pytest.approx(1e4, rel=1e-3)
    assert all(edges <= 0.05 * nodes * (nodes - 1) for nodes, edges in graphs)
    assert graph_scale.sizes(0.01) == graphs[:3]


@pytest.mark.parametrize("width", (32, 64, 128))
def test_our_product_is_within_its_limit_of_the_fastest(width: int) -> None:
    ratios = json.loads((ROOT / "results/sparse-product.json").read_text())["ratios"]
    assert ratios[f"sparse_product_{width}_threads_2"] <= 1.15


def test_the_largest_graph_stays_below_its_limit() -> None:
    contents = json.loads((ROOT / "results/graph-scale.json").read_text())
    rows = [row for row in contents["inference"] if row["nodes"] == 2_449_029]
    assert {row["nfe"] for row in rows} == {1, 2, 10}
    assert max(row["peak_gib"] for row in rows) < contents["limit_gib"] == 20
