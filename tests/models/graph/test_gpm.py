"""Random walks by brute force, and what GPM makes of them computed pattern by pattern."""

from itertools import pairwise
from math import sqrt

import pytest
import torch
from models.graph.zoo import SMALL, adjacency_of, batch_of, each_graph, edges_of
from problems import seeded
from torch import Tensor

from cdeq.models.graph import gpm
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.convolutional import GCN, GCNSpec
from cdeq.models.graph.gpm import GPM, GPMSpec
from cdeq.models.graph.walks import anonymous, random_walks

ODD = batch_of("odd")


def neighbours_of(graph: str, *, undirected: bool = True) -> list[set[int]]:
    """From the edge list: where a walk may go on, against the edges."""
    edges, nodes = edges_of(graph)
    found = [set[int]() for _ in range(nodes)]
    for source, target in edges.T.tolist():
        found[target].add(source)
        if undirected:
            found[source].add(target)
    return [around - {node} for node, around in enumerate(found)]


@each_graph
@pytest.mark.parametrize("undirected", [True, False], ids=["both-ways", "one-way"])
def test_walks_follow_edges_and_go_everywhere(graph: str, undirected: bool) -> None:
    adjacency = adjacency_of(graph, undirected=undirected)
    around = neighbours_of(graph, undirected=undirected)
    starts = torch.arange(adjacency.shape[0]).flip(0)
    walks = random_walks(adjacency, starts, patterns=64, steps=5, seed=1)
    assert walks.shape == (len(starts), 64, 6)
    assert torch.equal(walks[..., 0], starts[:, None].expand(-1, 64))
    seen = [set[int]() for _ in around]
    for walk in walks.flatten(0, 1).tolist():
        for here, there in pairwise(walk):
            seen[here].add(there)
    assert seen == [nodes or {node} for node, nodes in enumerate(around)]


def test_every_neighbour_is_as_likely() -> None:
    adjacency, around, count = adjacency_of("odd"), neighbours_of("odd"), 20_000
    walks = random_walks(adjacency, torch.arange(9), patterns=count, steps=3, seed=2)
    for walk in walks:
        for here, there in zip(walk.T[:-1], walk.T[1:], strict=True):
            for node in here.unique().tolist():
                left = there[here == node]
                chance = 1 / max(len(around[node]), 1)
                allowed = 5 * sqrt(chance * (1 - chance) / len(left))
                for other in around[node] or {node}:
                    assert abs(float((left == other).double().mean()) - chance) <= allowed


def test_steps_of_a_walk_and_walks_of_a_node_are_independent() -> None:
    """On a full graph of three nodes, a walk is a sequence of fair coins."""
    triangle = normalised(torch.tensor([[0, 1, 2], [1, 2, 0]]), nodes=3)
    for seed in range(3):
        walks = random_walks(triangle, torch.arange(3), patterns=4096, steps=4, seed=seed)
        coins = ((walks.diff(dim=-1) % 3) - 1).permute(0, 2, 1).flatten(0, 1).double() * 2 - 1
        assert float((coins @ coins.T / 4096 - torch.eye(12)).abs().max()) < 5 / 64
        again = (coins[:, 1:] * coins[:, :-1]).mean(1)
        assert float(again.abs().max()) < 5 / 64


def test_a_nodes_walks_are_its_own() -> None:
    adjacency, nodes = adjacency_of("odd"), torch.arange(9)
    walks = random_walks(adjacency, nodes, patterns=20, steps=6, seed=3)
    some = torch.tensor([7, 2, 2])
    asked = random_walks(adjacency, some, patterns=20, steps=6, seed=3)
    assert torch.equal(asked, walks[some])
    fewer = random_walks(adjacency, nodes, patterns=5, steps=4, seed=3)
    assert torch.equal(fewer, walks[:, :5, :5])
    assert not torch.equal(random_walks(adjacency, nodes, patterns=20, steps=6, seed=4), walks)


def test_anonymous_walks_know_what_returns_and_nothing_else() -> None:
    walks = torch.randint(6, (50, 3, 8), generator=torch.Generator().manual_seed(0))
    names = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    found = anonymous(walks)
    assert torch.equal(anonymous(names[walks]), found)
    assert torch.equal(anonymous(found), found)
    assert torch.equal(
        found.unsqueeze(-1) == found.unsqueeze(-2), walks.unsqueeze(-1) == walks.unsqueeze(-2)
    )


def model_of(*, steps: int = 4) -> GPM:
    torch.manual_seed(0)
    return GPM(GPMSpec(**SMALL, heads=2, steps=steps, patterns=6)).double().eval()


def by_pattern(model: GPM, features: Tensor, walks: Tensor) -> Tensor:
    """One pattern at a time, then the nodes' patterns, one node at a time."""
    answers = []
    for node in walks:
        patterns = []
        for walk in node.tolist():
            met = torch.stack([model.projection(features[i]) for i in reversed(walk)])
            first = torch.zeros(len(walk), len(walk), dtype=met.dtype)
            for place, i in enumerate(walk):
                first[place, walk.index(i)] = 1.0
            patterns.append(model.path(met[None])[0][0, -1] + model.shape(first[None])[0][0, -1])
        q = model.pattern(torch.stack(patterns)[None])[0]
        weights = model.weigh(q)[:, 0].softmax(0)
        answers.append(model.head(weights @ q))
    return torch.stack(answers)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_answers_are_what_each_pattern_says() -> None:
    model = model_of()
    walks = random_walks(ODD.adjacency, ODD.nodes, patterns=16, steps=4, seed=0)
    close(model.encoded(ODD.features, walks), by_pattern(model, ODD.features, walks))
    close(model.answers(ODD), by_pattern(model, ODD.features, walks))


@torch.no_grad()
def test_names_of_nodes_and_order_of_patterns_do_not_matter() -> None:
    model = model_of()
    walks = random_walks(ODD.adjacency, ODD.nodes, patterns=16, steps=4, seed=0)
    names = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    features = torch.empty_like(ODD.features)
    features[names] = ODD.features
    close(model.encoded(features, names[walks].flip(1)), model.encoded(ODD.features, walks))


@torch.no_grad()
def test_evaluation_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    whole = model(ODD)
    for positions in (1, 16 * 5 * 2):
        monkeypatch.setattr(gpm, "POSITIONS", positions)
        close(model(ODD), whole)


@torch.no_grad()
def test_training_draws_new_walks_from_torchs_seed() -> None:
    model = GPM(GPMSpec(**SMALL, dropout=0.0)).double().train()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.losses(ODD))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])


def test_gpm_tells_triangles_from_a_ring_where_gcn_cannot() -> None:
    """All nodes look alike to message passing: two neighbours each, and the same features."""
    triangle = torch.tensor([[0, 1, 2], [1, 2, 0]])
    ring = torch.stack([torch.arange(12), (torch.arange(12) + 1) % 12])
    edges = torch.cat([triangle + 3 * i for i in range(4)] + [ring + 12], dim=1)
    label = (torch.arange(24) >= 12).long()
    batch = GraphBatch(torch.ones(24, 1), normalised(edges, 24), label, torch.arange(24))
    torch.manual_seed(0)
    model = GPM(GPMSpec(inputs=1, hidden=8, classes=2, steps=5, patterns=8))
    adam = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(60):
        adam.zero_grad()
        model.losses(batch).mean().backward()
        adam.step()
    with torch.no_grad():
        assert torch.equal(model.eval()(batch).argmax(1), label)
        alike = GCN(GCNSpec(inputs=1, hidden=8, classes=2)).eval()(batch)
        torch.testing.assert_close(alike, alike[:1].expand(24, -1))


def test_features_of_unvisited_nodes_do_not_matter() -> None:
    """The node without edges sees itself alone."""
    model, alone = model_of(), ODD._replace(nodes=torch.tensor([8]))
    moved = seeded(9, 5, seed=7, dtype=torch.float64)
    moved[8] = ODD.features[8]
    with torch.no_grad():
        close(model.answers(alone._replace(features=moved)), model.answers(alone))
