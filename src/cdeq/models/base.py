"""The one seam between domains and everything else."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.cell import bind
from cdeq.core.deq import DEQ
from cdeq.core.tree import take_samples
from cdeq.errors import CDEQError
from cdeq.pretrained import Pretrained
from cdeq.typing import Context, Map, PerSample, State

Batch: TypeAlias = Any
"""What a domain's data loader yields; only the domain's own model looks inside."""

Memory: TypeAlias = Any
"""What one batch leaves to the next where samples go on, as the segments of a text do."""


class EquilibriumModel(Pretrained, ABC):
    r"""A network whose middle is an equilibrium.

    .. math:: x = \text{encode}(\text{batch}), \quad z^* = f(z^*, x), \quad
        y = \text{decode}(z^*, x)

    Training, distillation and evaluation know a model by these methods alone. A subclass is built
    from its `Spec` and sets `spec` and `deq` in its constructor.
    """

    deq: DEQ
    headless: bool = False
    """Whether the state itself is the answer, so that there is no task head to listen to."""

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

    def initializer(self) -> nn.Module:
        """A fresh small network that guesses z* from x alone, called as `initializer(z_0, x)`.

        Raises:
            CDEQError: When the model offers none.
        """
        raise CDEQError(f"a {type(self).__name__} offers no initializer; distil without one.")

    def neighbours(self) -> Callable[[Context], Map]:
        """A function that gives, for a context, the linear map which averages any numbers of
        each position over its neighbours, called as `neighbours(x)(numbers)`.

        Raises:
            CDEQError: When the model's positions have no neighbours.
        """
        raise CDEQError(
            f"the positions of a {type(self).__name__} have no neighbours, as a graph's nodes "
            "have; distil without smoothing."
        )

    def divergence(self, output: Tensor, target: Tensor) -> PerSample:
        r"""How far an answer is from the one that is wanted, a sample; no labels.

        .. math:: \mathrm{KL}\big( \mathrm{softmax}(\text{target}) \,\|\,
            \mathrm{softmax}(\text{output}) \big)

        over the last dimension, averaged over those between the first and it. A model whose answer
        is no logits overrides it.
        """
        wanted, given = target.log_softmax(-1), output.log_softmax(-1)
        each = F.kl_div(given, wanted, log_target=True, reduction="none").sum(-1)
        return each.reshape(len(each), -1).mean(1)

    def comparison(self, target: Tensor) -> Callable[[Tensor], PerSample]:
        """The divergence of any answers from the same one. A model for which much of it depends on
        that one alone overrides this, and computes it once."""
        return partial(self.divergence, target=target)

    def select(self, x: Context, rows: Int[Tensor, " n"], samples: int) -> Context:
        """The context of some of its samples.

        Takes the rows of every tensor in x whose first dimension is `samples`; a model whose
        contexts are something else overrides it.

        Arguments:
            x: The context of a batch.
            rows: Which samples.
            samples: How many the batch has.
        """
        return take_samples(x, rows, samples)

    def remember(self, z: State, x: Context) -> Memory:
        """What the batch that goes on from here is told of this one, without gradients; None where
        samples stand alone."""
        return None

    def recall(self, batch: Batch, memory: Memory) -> Batch:
        """The batch that goes on where a memory was left; as it is where there is None.

        Raises:
            TypeError: When samples of this model stand alone.
        """
        if memory is not None:
            raise TypeError(
                f"the samples of a {type(self).__name__} stand alone, so none goes on where "
                "another was left; got a memory; leave it out."
            )
        return batch

    def bind(self, x: Context) -> Map:
        """The map z ↦ f(z, x)."""
        return bind(self.deq.cell, x)

    def forward(self, batch: Batch) -> Tensor:
        """The converged answer."""
        x = self.encode(batch)
        return self.decode(self.deq(x, self.initial(x)).z, x)
