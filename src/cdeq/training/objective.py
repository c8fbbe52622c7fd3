"""What a training loop needs to know of what it trains."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cdeq.data.indexed import Indices
from cdeq.models.base import Batch


class Objective(nn.Module, ABC):
    """A module whose forward pass is a loss.

    Its trainable parameters are what is optimised, and its state is what a checkpoint holds. All
    randomness comes from the generator, so a step is a pure function of weights, batch and seed.
    """

    @abstractmethod
    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """The terms of the loss by name; `loss` is the one to minimise, the others are logged."""

    def after_step(self) -> None:
        """Called after each update of the parameters, for running averages."""
