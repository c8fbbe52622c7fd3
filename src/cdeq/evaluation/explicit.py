"""Scores of networks without an equilibrium."""

import torch

from cdeq.data.indexed import IndexedData
from cdeq.evaluation.metrics import Metric
from cdeq.evaluation.sweep import Measurement, batches
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.explicit import ExplicitModel


@torch.no_grad()
def score_explicit(
    name: str, model: ExplicitModel, data: IndexedData, metric: Metric
) -> Measurement:
    """Score an explicit network on the nodes that are asked about.

    Arguments:
        name: What it is called in the results.
        model: The network.
        data: What to score on.
        metric: The task's score.
    """
    model.eval()
    scores = [
        metric.of(model)(_placed(model, batch), batch) for batch in batches(data, 1, model.device)
    ]
    return Measurement(name, None, metric.name, float(metric.finish(torch.cat(scores).mean())))


def _placed(model: ExplicitModel, batch: GraphBatch) -> torch.Tensor:
    """The answers where the scores look for them, one row a node of the graph."""
    answers = model.answers(batch)
    everywhere = answers.new_zeros(batch.adjacency.shape[0], answers.shape[1])
    everywhere[batch.nodes] = answers
    return everywhere
