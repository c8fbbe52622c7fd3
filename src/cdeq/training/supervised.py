"""Training on labels alone: what every baseline without an equilibrium needs."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cdeq.data.indexed import Indices
from cdeq.models.base import Batch
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
