"""Scores of networks without an equilibrium."""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from cdeq.data.indexed import IndexedData, OrderedData, to_device
from cdeq.evaluation.metrics import Metric
from cdeq.evaluation.sweep import Measurement, batches
from cdeq.models.base import Batch
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.language.explicit import ExplicitLanguageModel
from cdeq.models.vision.explicit import ExplicitImageModel
from cdeq.typing import PerSample

AnyExplicit: TypeAlias = ExplicitModel | ExplicitLanguageModel | ExplicitImageModel
"""A network of finitely many layers, of any domain."""

IMAGES = 256
"""Images that are answered at once."""


@torch.no_grad()
def score_explicit(
    name: str, model: AnyExplicit, data: IndexedData, metric: Metric
) -> Measurement:
    """Score an explicit network on all that is asked about.

    Arguments:
        name: What it is called in the results.
        model: The network.
        data: What to score on, in the form that the network takes.
        metric: The task's score.
    """
    scores = explicit_scores(model, data, metric)
    ((kind, value),) = metric.summarised(scores, interval=False)
    return Measurement(name, None, kind, value)


@torch.no_grad()
def explicit_scores(model: AnyExplicit, data: IndexedData, metric: Metric) -> PerSample:
    """The score of every sample by itself."""
    model.eval()
    score = metric.of(model)
    return torch.cat([score(output, batch) for output, batch in _answers(model, data)])


@torch.no_grad()
def typical_batch(model: AnyExplicit, data: IndexedData, size: int) -> Batch:
    """A batch of so many samples to answer; where they go on from one another, each told of what
    the one before it left, as almost all are.

    Arguments:
        model: The network.
        data: Where the samples are from, in the form that the network takes.
        size: How many, at most as many as there are.
    """
    if not isinstance(model, ExplicitLanguageModel) or not isinstance(data, OrderedData):
        return next(batches(data, size, model.device))
    before = torch.arange(size)
    here = (before + data.streams) % len(data)
    first, then = (to_device(data.take(indices), model.device) for indices in (before, here))
    return model.recall(then, model.run(first).memory)


def _answers(model: AnyExplicit, data: IndexedData) -> Iterator[tuple[Tensor, Batch]]:
    if isinstance(model, ExplicitLanguageModel):
        return _of_text(model, data)
    return _of_nodes(model, data) if isinstance(model, ExplicitModel) else _of_images(model, data)


def _of_images(model: ExplicitImageModel, data: IndexedData) -> Iterator[tuple[Tensor, Batch]]:
    """Batch after batch."""
    for batch in batches(data, IMAGES, model.device):
        yield model(batch), batch


def _of_text(model: ExplicitLanguageModel, data: IndexedData) -> Iterator[tuple[Tensor, Batch]]:
    """Segment after segment, each told of what the one before left."""
    memory = None
    for batch in batches(data, len(data), model.device):
        hidden, memory, _ = model.run(model.recall(batch, memory))
        yield hidden, batch


def _of_nodes(model: ExplicitModel, data: IndexedData) -> Iterator[tuple[Tensor, Batch]]:
    """Graph after graph."""
    for batch in batches(data, 1, model.device):
        yield _placed(model, batch), batch


def _placed(model: ExplicitModel, batch: GraphBatch) -> Tensor:
    """The answers where the scores look for them, one row a node of the graph."""
    answers = model.answers(batch)
    everywhere = answers.new_zeros(batch.adjacency.shape[0], answers.shape[1])
    everywhere[batch.nodes] = answers
    return everywhere
