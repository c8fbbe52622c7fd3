"""Scores of classifiers: right is right, and what is no number is wrong."""

import pytest
import torch

from cdeq.evaluation.metrics import among_five, correct, correct_nodes
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.vision.batch import ImageBatch


def images(label: torch.Tensor) -> ImageBatch:
    return ImageBatch(torch.zeros(len(label), 1, 1, 1), label)


def nodes(label: torch.Tensor) -> GraphBatch:
    path = normalised(
        torch.stack([torch.arange(len(label)), torch.arange(len(label))]), len(label)
    )
    everywhere = torch.arange(len(label))
    return GraphBatch(torch.eye(len(label)), path, label, everywhere)


SCORES = [(correct, images), (among_five, images), (correct_nodes, nodes)]


@pytest.mark.parametrize(("score", "batch"), SCORES)
def test_an_answer_that_is_no_number_is_wrong(score, batch) -> None:
    """Also where one logit alone is none, and wherever the label is."""
    logits = torch.eye(4)
    assert score(logits, batch(torch.arange(4))).tolist() == [1.0] * 4
    for place in range(4):
        spoilt = logits.clone()
        spoilt[:, place] = float("nan")
        assert score(spoilt, batch(torch.arange(4))).tolist() == [0.0] * 4


@pytest.mark.parametrize("classes", [2, 5, 6, 40])
def test_the_likeliest_is_among_the_five_likeliest(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(200, classes, generator=generator)
    batch = images(torch.randint(0, classes, (200,), generator=generator))
    first, five = correct(logits, batch), among_five(logits, batch)
    assert bool((first <= five).all())
    rank = (logits > logits.gather(1, batch.label.unsqueeze(1))).sum(1)
    assert torch.equal(first, (rank == 0).float())
    assert torch.equal(five, (rank < 5).float())
