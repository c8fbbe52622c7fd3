"""What the explicit baselines share: answers about some nodes, losses, and a folder to live in."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cdeq.models.graph.batch import GraphBatch
from cdeq.pretrained import Pretrained
from cdeq.typing import PerSample


class ExplicitModel(Pretrained, ABC):
    r"""A node classifier of finitely many layers: no equilibrium, no solver.

    A subclass is built from its `Spec`, sets `spec`, and says how it answers; everything else
    follows from that. In evaluation mode

    .. math:: \text{answers} = \text{forward}[\text{nodes}] , \qquad
        \text{losses} = \text{loss}(\text{forward}, \text{batch}) ,

    but a model that looks at one node at a time is spared all the others on the left.
    """

    @abstractmethod
    def answers(self, batch: GraphBatch) -> Float[Tensor, "s c"]:
        """The logits of `batch.nodes`, in their order; labels are not looked at."""

    @property
    @abstractmethod
    def products(self) -> float:
        """Sparse products with a matrix of the adjacency's pattern that one forward pass costs."""

    def losses(self, batch: GraphBatch) -> PerSample:
        """The cross-entropy of each node that is asked about, which is what training minimises."""
        return F.cross_entropy(self.answers(batch), batch.label[batch.nodes], reduction="none")

    def forward(self, batch: GraphBatch) -> Float[Tensor, "n c"]:
        """The logits of every node, asked about or not."""
        everywhere = torch.arange(batch.adjacency.shape[0], device=self.device)
        return self.answers(batch._replace(nodes=everywhere))

    def loss(self, output: Tensor, batch: GraphBatch) -> PerSample:
        """The cross-entropy of each node that is asked about, given the logits of every node."""
        nodes = batch.nodes
        return F.cross_entropy(output[nodes], batch.label[nodes], reduction="none")
