"""Training on labels alone: what every baseline without an equilibrium needs."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cdeq.data.indexed import Indices
from cdeq.models.base import Batch, Memory
from cdeq.training.carry import Carry
from cdeq.training.objective import Objective
from cdeq.training.teacher import Augment
from cdeq.typing import PerSample


class Supervised(Protocol):
    """A module that knows how wrong it is."""

    def losses(self, batch: Batch) -> PerSample:
        """The loss of each sample that is asked about."""
        ...


class SupervisedObjective(Objective):
    """A model in training: the mean of its losses.

    Arguments:
        model: A module with `losses`.
        augment: A random change of each batch.

    Raises:
        TypeError: When the model is no module, so that its parameters would not be found.

    Example:
        >>> from typing import NamedTuple
        >>> class Points(NamedTuple):
        ...     x: Tensor
        ...     y: Tensor
        >>> class Line(nn.Linear):
        ...     def losses(self, batch):
        ...         return (self(batch.x) - batch.y).square().mean(1)
        >>> points = Points(torch.rand(4, 2), torch.rand(4, 1))
        >>> objective = SupervisedObjective(Line(2, 1))
        >>> objective(points, torch.arange(4), torch.Generator())["loss"].shape
        torch.Size([])
    """

    model: Any

    def __init__(self, model: Supervised, augment: Augment | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(
                "a model in training is a `torch.nn.Module`, whose parameters an optimiser finds; "
                f"got a {type(model).__name__}."
            )
        self.model, self.augment = model, augment

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        if self.augment is not None:
            batch = self.augment(batch, generator)
        return {"loss": self.model.losses(batch).mean()}


class Remembering(Supervised, Protocol):
    """A module whose samples go on from one another."""

    def recall(self, batch: Batch, memory: Memory) -> Batch:
        """The batch that goes on where a memory was left; as it is where there is None."""
        ...

    def judged(self, batch: Batch) -> tuple[PerSample, Memory]:
        """What `losses` gives, and what the next batch of the same samples is told."""
        ...


class StreamObjective(Objective):
    """A model in training that is told what it left behind in the batch before.

    Arguments:
        model: A module with `judged` and `recall`.
    """

    model: Any

    def __init__(self, model: Remembering) -> None:
        super().__init__()
        self.model, self.carry = model, Carry()

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        losses, memory = self.model.judged(self.carry.recall(self.model, batch))
        self.carry.leave(memory)
        return {"loss": losses.mean()}
