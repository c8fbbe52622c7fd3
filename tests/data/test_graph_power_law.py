"""Generated graphs: exactly as many edges as asked for, and a tail that no Poisson law has."""

import math

import pytest
import torch

from cdeq.data import power_law as module
from cdeq.data.power_law import power_law, random_features


@pytest.mark.parametrize(
    ("nodes", "edges"), [(2, 1), (30, 43), (100, 495), (1000, 20_000), (20_000, 100_000)]
)
@pytest.mark.parametrize("exponent", [2.1, 2.5, 4.0])
@pytest.mark.parametrize("chunk", [64, 2**22])
def test_edges_are_as_many_as_asked_for_and_join_two_nodes_once(
    nodes: int, edges: int, exponent: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", max(chunk, edges // 50))
    graph = power_law(nodes, edges, exponent=exponent)
    assert graph.dtype is torch.long and graph.shape == (2, edges)
    assert 0 <= int(graph.min()) <= int(graph.max()) < nodes
    assert bool((graph[0] < graph[1]).all())
    assert len((graph[0] * nodes + graph[1]).unique()) == edges


def test_the_seed_decides_and_nothing_else() -> None:
    torch.manual_seed(0)
    first, again, other = (power_law(500, 2000, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def survival(exponent: float) -> torch.Tensor:
    """The share of nodes with at least so many edges, by degree."""
    graph = power_law(100_000, 1_000_000, exponent=exponent)
    counts = graph.flatten().bincount(minlength=100_000).bincount().double()
    return counts.flip(0).cumsum(0).flip(0) / 100_000


def test_degrees_fall_as_the_power_law_says() -> None:
    """P(degree ≥ d) ~ d^-(γ - 1) between the mean degree, 20, and the largest, 1,400."""
    for exponent in (2.3, 2.5, 3.0):
        tail = survival(exponent)
        slope = math.log(tail[200] / tail[40]) / math.log(200 / 40)
        assert slope == pytest.approx(-(exponent - 1), abs=0.2)


def test_the_tail_is_no_poisson_law() -> None:
    """Of a Poisson law with the mean 20, less than one node in 10^30 has 200 edges."""
    tail = survival(2.5)
    assert float(tail[200]) > 1e-3
    assert len(tail) == pytest.approx(2_000_000**0.5, rel=0.2)


def test_hubs_are_anywhere() -> None:
    graph = power_law(10_000, 50_000)
    hubs = graph.flatten().bincount(minlength=10_000).topk(100).indices.double()
    assert float(hubs.mean()) == pytest.approx(5000, abs=5 * 10_000 / 12**0.5 / 10)


@pytest.mark.parametrize(
    ("nodes", "edges", "exponent", "text"),
    [
        (100, 496, 2.5, "a tenth of all pairs of nodes; got 496 for 100"),
        (100, 0, 2.5, "got 0 for 100"),
        (1, 1, 2.5, "got 1 for 1"),
        (100, 10, 2.0, "`exponent` is above 2, .* got 2.0"),
        (100, 10, math.nan, "`exponent` is above 2, .* got nan"),
    ],
)
def test_impossible_graphs_are_refused(nodes: int, edges: int, exponent: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        power_law(nodes, edges, exponent=exponent)


def test_features_are_white_noise_by_seed() -> None:
    first, again, other = (random_features(5000, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.testing.assert_close(first.t().cov(), torch.eye(4), atol=0.1, rtol=0)
