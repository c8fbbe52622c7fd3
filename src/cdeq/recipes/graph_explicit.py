"""Recipes of the explicit graph baselines: a network, how it is trained, and on how many nodes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.convolutional import GAT, GCN, GCNII, GATSpec, GCNIISpec, GCNSpec
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.graph.gpm import GPM, GPMSpec
from cdeq.recipes.explicit import ExplicitSettings
from cdeq.training.plan import Plan, require_count
from cdeq.training.supervised import SupervisedObjective
from cdeq.training.teacher import Augment

GraphExplicitSpec: TypeAlias = GCNSpec | GATSpec | GCNIISpec | GPMSpec
"""The settings of one of the explicit networks."""


@dataclass(frozen=True)
class SomeNodes:
    """Asks about fewer of a batch's nodes, drawn anew each time: a mini-batch of one graph.

    Arguments:
        count: How many, at least 1; where there are fewer, all.

    Raises:
        ValueError: When the count is below 1.
    """

    count: int

    def __post_init__(self) -> None:
        require_count("count", self.count)

    def __call__(self, batch: GraphBatch, generator: torch.Generator) -> GraphBatch:
        """The batch with some of its nodes, each at most once."""
        drawn = torch.randperm(len(batch.nodes), generator=generator)[: self.count]
        return batch._replace(nodes=batch.nodes[drawn.to(batch.nodes.device)])


@dataclass(frozen=True, kw_only=True)
class ExplicitRecipe(ExplicitSettings[ExplicitModel]):
    """All settings of one explicit baseline on a graph.

    Arguments:
        network: Its settings; sizes that are None are taken from the data.
        plan: How it is trained; a graph is one sample, so a step is an epoch unless `nodes` says
            otherwise.
        nodes: Labelled nodes an update; None takes all of them.

    Raises:
        ValueError: When `nodes` is below 1.
    """

    networks = (GCN, GAT, GCNII, GPM)

    network: GraphExplicitSpec
    nodes: int | None = None

    def __post_init__(self) -> None:
        if self.nodes is not None:
            require_count("nodes", self.nodes)

    def build(self, *, inputs: int, classes: int) -> ExplicitModel:
        """A fresh network; its weights depend on torch's global seed.

        Arguments:
            inputs: Features of a node in the data.
            classes: Classes in the data.

        Raises:
            ValueError: When the network's own sizes are others.

        Example:
            >>> type(gpm().build(inputs=5, classes=3)).__name__
            'GPM'
        """
        for name, found in (("inputs", inputs), ("classes", classes)):
            if getattr(self.network, name) not in (None, found):
                raise ValueError(
                    f"the data have {found} {name}; got a network for "
                    f"{getattr(self.network, name)}; leave it None."
                )
        spec = replace(self.network, inputs=inputs, classes=classes)
        return self.kind(spec)  # type: ignore[call-arg] - a subclass takes its specification

    def objective(
        self, model: ExplicitModel, augment: Augment | None = None
    ) -> SupervisedObjective:
        """The network in training, on batches that are changed at random."""
        return SupervisedObjective(model, augment if self.nodes is None else SomeNodes(self.nodes))


def gcn() -> ExplicitRecipe:
    """OGB's example for ogbn-arxiv: three layers of 256 features."""
    plan = Plan(steps=500, batch_size=1, learning_rate=1e-2, warmup=0, validate_every=10)
    return ExplicitRecipe(network=GCNSpec(), plan=plan)


def gat() -> ExplicitRecipe:
    """Three layers of 64 features in four heads, which two cores can pay for."""
    plan = Plan(steps=300, batch_size=1, learning_rate=1e-2, warmup=20, validate_every=10)
    return ExplicitRecipe(network=GATSpec(), plan=plan)


def gcnii() -> ExplicitRecipe:
    """The entry on OGB's leaderboard: sixteen layers of 256 features; for an accelerator."""
    plan = Plan(steps=1000, batch_size=1, learning_rate=1e-3, warmup=20, validate_every=10)
    return ExplicitRecipe(network=GCNIISpec(), plan=plan)


def gpm() -> ExplicitRecipe:
    """Sixteen walks of eight steps from each of a thousand nodes an update."""
    plan = Plan(steps=2000, batch_size=1, learning_rate=2e-3, warmup=100, validate_every=200)
    return ExplicitRecipe(network=GPMSpec(), plan=plan, nodes=1024)


EXPLICIT: dict[str, Callable[[], ExplicitRecipe]] = {
    function.__name__: function for function in (gcn, gat, gcnii, gpm)
}
"""The rows of the table by name, each with its paper's settings where a processor allows."""
