"""What a training loop needs to know of what it trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from cdeq.data.indexed import Indices
from cdeq.models.base import Batch

Losses: TypeAlias = Mapping[str, Tensor]
"""The terms of a loss by name, and the whole as `loss`."""


class Objective(nn.Module, ABC):
    """A module whose forward pass is a loss.

    Its trainable parameters are what is optimised, and its state is what a checkpoint holds. All
    randomness comes from the generator, so a step is a pure function of weights, batch and seed.
    """

    @abstractmethod
    def forward(self, batch: Batch, indices: Indices, generator: torch.Generator) -> Losses:
        """The terms of the loss; `loss` is the one to minimise, the others are logged."""

    def after_step(self) -> None:
        """Called after each update of the parameters, for running averages."""


class Sealed(nn.Module):
    """The objective, called with a closure: the precision of what it sees the engine narrows.

    Arguments:
        objective: What is trained.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, inputs: Callable[[], tuple[Batch, Indices, torch.Generator]]) -> Losses:
        """The losses, under mixed precision without memory of what was narrowed before."""
        # torch < 2.10 gives no gradient to a weight that a solve without gradients narrowed first
        remembers = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            return self.objective(*inputs())
        finally:
            torch.set_autocast_cache_enabled(remembers)
