"""What training hands from batch to batch where samples go on."""

from typing import Protocol

import torch
from torch import Tensor, nn

from cdeq.models.base import Batch, Memory


class Recalling(Protocol):
    """A model that a batch may be told to."""

    def recall(self, batch: Batch, memory: Memory) -> Batch: ...


class Carry(nn.Module):
    """The memory of the batch before, which is part of a checkpoint, so that resuming is exact.

    Where the model's samples stand alone, nothing is ever left and nothing recalled.

    Example:
        >>> carry = Carry()
        >>> carry.leave(torch.ones(2, 3))
        >>> other = Carry()
        >>> _ = other.load_state_dict(carry.state_dict())
        >>> torch.equal(other.memory, torch.ones(2, 3))
        True
    """

    memory: Tensor | None
    here: Tensor
    """Goes wherever the module goes, which has no other tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = None
        self.register_buffer("here", torch.zeros(()), persistent=False)

    def recall(self, model: Recalling, batch: Batch) -> Batch:
        """The batch with what the one before left."""
        return model.recall(batch, self.memory)

    def leave(self, memory: Memory) -> None:
        """Keep what a batch leaves, where it leaves something."""
        self.memory = memory

    def get_extra_state(self) -> Tensor:
        """The memory, empty where there is none."""
        return torch.empty(0) if self.memory is None else self.memory

    def set_extra_state(self, state: Tensor) -> None:
        """Take the memory of a checkpoint, to where the module is."""
        self.memory = state.to(self.here.device) if state.numel() else None
