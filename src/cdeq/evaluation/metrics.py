"""What a task is scored by."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cdeq.models.base import Batch
from cdeq.models.vision.batch import ImageBatch
from cdeq.typing import PerSample


@dataclass(frozen=True)
class Metric:
    """A score that averages over samples.

    Arguments:
        name: As in result files.
        score: The score of each sample, given the model's output and the batch.
        finish: Applied to the average (the exponential, for perplexity).
    """

    name: str
    score: Callable[[Tensor, Batch], PerSample]
    finish: Callable[[Tensor], Tensor] = torch.nn.Identity()


def correct(output: Tensor, batch: ImageBatch) -> PerSample:
    """1 where the largest logit is the label's, 0 elsewhere.

    Example:
        >>> logits = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
        >>> correct(logits, ImageBatch(torch.zeros(2, 1, 1, 1), torch.tensor([1, 1])))
        tensor([1., 0.])
    """
    return (output.argmax(1) == batch.label).to(output.dtype)


ACCURACY = Metric("accuracy", correct)
