"""What a task is scored by."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cdeq.models.base import Batch
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.imaging.batch import DeblurBatch
from cdeq.models.vision.batch import ImageBatch
from cdeq.typing import PerSample

NINETY_FIVE = 1.96
"""Standard deviations that 95 % of normal numbers are within."""

Score: TypeAlias = Callable[[Tensor, Batch], PerSample]
"""A number a sample, given a model's output and the batch."""


class Judging(Protocol):
    """A model that knows how wrong an output is."""

    def loss(self, output: Tensor, batch: Batch) -> PerSample: ...


@dataclass(frozen=True)
class Metric:
    """A score that averages over samples.

    Arguments:
        name: As in result files.
        score: The score of each sample, given the model's output and the batch; None takes the
            model's own loss.
        finish: Applied to the average (the exponential, for perplexity).
        higher: Whether a higher score is better.
        same: Which of two outputs' answers are the same, a sample; None where answers are no
            choices.
    """

    name: str
    score: Score | None
    finish: Callable[[Tensor], Tensor] = torch.nn.Identity()
    higher: bool = True
    same: Callable[[Tensor, Tensor], Bool[Tensor, " b"]] | None = None

    def of(self, model: Judging) -> Score:
        """The score of each sample of this model's."""
        return model.loss if self.score is None else self.score

    def summarised(self, values: Tensor, *, interval: bool) -> Iterator[tuple[str, float]]:
        r"""The score of all samples by its name and, where it is wanted, half the width of its
        95 % interval, :math:`1.96 \, \sigma / \sqrt n`.

        Arguments:
            values: The score of each sample.
            interval: For samples that are independent of one another, and scores that are their
                mean.

        Example:
            >>> dict(ACCURACY.summarised(torch.tensor([1.0, 0.0, 1.0, 1.0]), interval=True))
            {'accuracy': 0.75, 'interval_accuracy': 0.424...}
        """
        values = values.double()
        yield self.name, float(self.finish(values.mean()))
        if interval:
            spread = values.std(unbiased=False) / len(values) ** 0.5
            yield f"interval_{self.name}", NINETY_FIVE * float(spread)

    def upward(self, value: float) -> float:
        """A number that is higher where the score is better."""
        return value if self.higher else -value


def correct(output: Tensor, batch: ImageBatch) -> PerSample:
    """1 where the largest logit is the label's, 0 elsewhere; 0 where a logit is no number.

    Example:
        >>> logits = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
        >>> correct(logits, ImageBatch(torch.zeros(2, 1, 1, 1), torch.tensor([1, 1])))
        tensor([1., 0.])
    """
    right = output.argmax(1) == batch.label
    return (right & ~output.isnan().any(1)).to(output.dtype)


def same_class(output: Tensor, other: Tensor) -> Bool[Tensor, " b"]:
    """Where the largest logit of both is the same class's.

    Example:
        >>> same_class(torch.tensor([[0.1, 0.9]]), torch.tensor([[3.0, 4.0]]))
        tensor([True])
    """
    return output.argmax(1) == other.argmax(1)


def among_five(output: Tensor, batch: ImageBatch) -> PerSample:
    """1 where the label's logit is among the five largest, 0 elsewhere.

    Example:
        >>> logits = torch.arange(6.0).expand(2, 6)
        >>> among_five(logits, ImageBatch(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])))
        tensor([0., 1.])
    """
    likeliest = output.topk(min(5, output.shape[1]), dim=1).indices
    among = (likeliest == batch.label.unsqueeze(1)).any(1)
    return (among & ~output.isnan().any(1)).to(output.dtype)


ACCURACY = Metric("accuracy", correct, same=same_class)
TOP5_ACCURACY = Metric("accuracy_top5", among_five)


def correct_nodes(output: Tensor, batch: GraphBatch) -> Float[Tensor, " s"]:
    """1 for each node asked about whose largest logit is its label's, 0 for the others.

    Example:
        >>> from cdeq.models.graph.adjacency import normalised
        >>> pair = normalised(torch.tensor([[0], [1]]), nodes=2)
        >>> batch = GraphBatch(torch.eye(2), pair, torch.tensor([-1, 0]), torch.tensor([1]))
        >>> correct_nodes(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), batch)
        tensor([1.])
    """
    nodes = batch.nodes
    right = output[nodes].argmax(1) == batch.label[nodes]
    return (right & ~output[nodes].isnan().any(1)).to(output.dtype)


NODE_ACCURACY = Metric("accuracy", correct_nodes, same=same_class)


def psnr(output: Tensor, batch: DeblurBatch) -> PerSample:
    r"""The peak signal-to-noise ratio of each image in dB, at peak 1.

    .. math:: -10 \log_{10} \, \mathrm{mean} \, (\text{output} - \text{sharp})^2

    Example:
        >>> sharp = torch.zeros(2, 1, 4, 4)
        >>> output = torch.stack([sharp[0] + 0.1, sharp[1] - 0.01])
        >>> psnr(output, DeblurBatch(sharp, sharp))
        tensor([20., 40.])
    """
    error = (output - batch.sharp).double().square().flatten(1).mean(1)
    return (-10 * error.log10()).to(output.dtype)


PSNR = Metric("psnr", psnr)
PERPLEXITY = Metric("perplexity", None, torch.exp, higher=False)
"""The exponential of the mean loss of a token; samples have equally many."""
