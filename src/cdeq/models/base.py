"""The one seam between domains and everything else."""

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

from torch import Tensor, nn

from cdeq.core.deq import DEQ
from cdeq.typing import Context, Map, PerSample, State

Batch: TypeAlias = Any
"""What a domain's data loader yields; only the domain's own model looks inside."""


class EquilibriumModel(nn.Module, ABC):
    r"""A network whose middle is an equilibrium.

    .. math:: x = \text{encode}(\text{batch}), \qquad z^* = f(z^*, x), \qquad y = \text{decode}(z^*, x)

    Training, distillation and evaluation know a model by these methods alone. A subclass sets `deq` in
    its constructor.
    """

    deq: DEQ

    @abstractmethod
    def encode(self, batch: Batch) -> Context:
        """The context x of a batch."""

    @abstractmethod
    def initial(self, x: Context) -> State:
        """The initial state z_0 for a context; the paper's is zero."""

    @abstractmethod
    def decode(self, z: State, x: Context) -> Tensor:
        """The task head: the output that belongs to a state."""

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> PerSample:
        """The task loss of each sample."""

    @abstractmethod
    def readout(self) -> nn.Module:
        """A fresh readout for this model's state, the identity in the state (Eq. 8)."""

    def bind(self, x: Context) -> Map:
        """The map z ↦ f(z, x)."""
        return lambda z: self.deq.cell(z, x)

    def forward(self, batch: Batch) -> Tensor:
        """The converged answer."""
        x = self.encode(batch)
        return self.decode(self.deq(x, self.initial(x)).z, x)
