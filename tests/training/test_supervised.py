"""Training on labels: the objective, mini-batches of one graph, and the baselines' recipes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from training.toys import CPU, Killed, die, same, stopped_at

from cdeq.data.indexed import Indices
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.convolutional import GCNSpec
from cdeq.models.graph.gpm import GPMSpec
from cdeq.plain import from_plain, to_plain
from cdeq.recipes.graph_explicit import EXPLICIT, ExplicitRecipe, SomeNodes
from cdeq.training.engine import fit
from cdeq.training.objective import Objective
from cdeq.training.plan import Plan
from cdeq.training.supervised import SupervisedObjective


class Graph:
    """A ring of twelve nodes, all of them labelled: one sample."""

    def __init__(self) -> None:
        ring = torch.stack([torch.arange(12), (torch.arange(12) + 1) % 12])
        draw = torch.Generator().manual_seed(0)
        nodes = torch.randperm(12, generator=draw)
        self.batch = GraphBatch(
            torch.randn(12, 3, generator=draw), normalised(ring, 12), torch.arange(12) % 2, nodes
        )

    def __len__(self) -> int:
        return 1

    def take(self, indices: Indices) -> GraphBatch:
        return self.batch


class Points(NamedTuple):
    x: Tensor
    y: Tensor


class Line(nn.Linear):
    def losses(self, batch: Points) -> Tensor:
        return (self(batch.x) - batch.y).square().mean(1)


POINTS = Points(*torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).split([3, 1], 1))


def loss_of(objective: Objective, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    losses: Mapping[str, Tensor] = objective(POINTS, torch.arange(5), generator)
    assert [*losses] == ["loss"]
    return losses["loss"]


def test_the_loss_is_the_mean_of_the_models() -> None:
    line = Line(3, 1)
    assert torch.equal(loss_of(SupervisedObjective(line)), line.losses(POINTS).mean())
    assert [*SupervisedObjective(line).parameters()] == [*line.parameters()]


def test_batches_are_changed_by_the_steps_generator() -> None:
    line = Line(3, 1)

    def noisy(batch: Points, generator: torch.Generator) -> Points:
        return batch._replace(x=batch.x + torch.randn(batch.x.shape, generator=generator))

    objective = SupervisedObjective(line, noisy)
    expected = line.losses(noisy(POINTS, torch.Generator().manual_seed(4))).mean()
    assert torch.equal(loss_of(objective, seed=4), expected)
    assert not torch.equal(loss_of(objective, seed=5), expected)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a `torch\.nn\.Module`.*got a Graph"):
        SupervisedObjective(cast(Line, Graph()))


@pytest.mark.parametrize("count", [1, 5, 12, 40])
def test_some_nodes_are_drawn_without_repeating(count: int) -> None:
    batch, seen = Graph().batch, set[int]()
    for seed in range(60):
        drawn = SomeNodes(count)(batch, torch.Generator().manual_seed(seed))
        assert len(drawn.nodes.unique()) == len(drawn.nodes) == min(count, 12)
        seen |= {*drawn.nodes.tolist()}
        assert drawn._replace(nodes=batch.nodes) == batch  # by identity: nothing was copied
    assert seen == set(range(12))
    again = SomeNodes(count)(batch, torch.Generator().manual_seed(59))
    assert torch.equal(again.nodes, drawn.nodes)


def test_nodes_that_were_not_asked_about_are_never_drawn() -> None:
    batch = Graph().batch._replace(nodes=torch.tensor([3, 8, 9]))
    drawn = [SomeNodes(2)(batch, torch.Generator().manual_seed(s)).nodes for s in range(20)]
    assert {*torch.cat(drawn).tolist()} == {3, 8, 9}


PLAN = Plan(steps=6, batch_size=1, learning_rate=0.02, warmup=2, checkpoint_every=2)
SMALL: dict[str, Callable[[], ExplicitRecipe]] = {
    "gcn": lambda: ExplicitRecipe(network=GCNSpec(hidden=4), plan=PLAN),
    "gpm": lambda: ExplicitRecipe(
        network=GPMSpec(hidden=4, steps=3, patterns=2), plan=PLAN, nodes=5
    ),
}


def fresh(name: str) -> SupervisedObjective:
    torch.manual_seed(0)
    recipe = SMALL[name]()
    return recipe.objective(recipe.build(inputs=3, classes=2))


def train(objective: Objective, folder: Path) -> Objective:
    fit(objective, Graph(), PLAN, folder, seed=1, identity="a" * 64, label="", hardware=CPU)
    return objective


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_training_ends_the_same(name: str, tmp_path: Path) -> None:
    """Dropout, walks and mini-batches all follow from the seed and the step."""
    whole = train(fresh(name), tmp_path / "whole")
    assert not same(whole, fresh(name))
    with pytest.raises(Killed):
        train(stopped_at(fresh(name), 5, die), tmp_path / "parts")
    assert same(train(fresh(name), tmp_path / "parts"), whole)


@pytest.mark.parametrize("name", EXPLICIT)
def test_recipes_are_settings_that_build_and_read(name: str, tmp_path: Path) -> None:
    recipe = EXPLICIT[name]()
    assert from_plain(ExplicitRecipe, to_plain(recipe)) == recipe
    model = recipe.build(inputs=7, classes=3)
    assert (model.spec.inputs, model.spec.classes) == (7, 3)
    model.save_pretrained(tmp_path)
    read = recipe.read(tmp_path)
    assert type(read) is type(model) and same(read, model)


def test_a_recipe_decides_how_many_nodes_an_update_sees() -> None:
    assert fresh("gcn").augment is None
    assert fresh("gpm").augment == SomeNodes(5)


def test_a_recipe_for_other_data_is_refused() -> None:
    recipe = ExplicitRecipe(network=GCNSpec(inputs=5), plan=PLAN)
    assert recipe.build(inputs=5, classes=2).spec.classes == 2
    with pytest.raises(ValueError, match="the data have 4 inputs; got a network for 5"):
        recipe.build(inputs=4, classes=2)


@pytest.mark.parametrize(
    "settings",
    [lambda: SomeNodes(0), lambda: ExplicitRecipe(network=GCNSpec(), plan=PLAN, nodes=0)],
)
def test_mini_batches_of_nothing_are_refused(settings: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="is a count of at least 1; got 0"):
        settings()
