"""A small network that guesses each node's state from its own features."""

from jaxtyping import Float
from torch import Tensor, nn

from cdeq.models.graph.base import project
from cdeq.models.graph.batch import GraphContext


class NodeInitializer(nn.Module):
    r"""A guess that sees no edge, so it costs no sparse product with the adjacency.

    .. math:: Z = \mathrm{ReLU}\big( \mathrm{ReLU}(X W_1^\top + b_1) \, W_2^\top + b_2 \big)

    It guesses no negative entry: it is for states that have none, as IGNN's.

    References:
        | IGNN-Solver: A Graph Neural Solver for Implicit Graph Neural Networks (Lin et al., 2024)
        | https://arxiv.org/abs/2410.08524

    Arguments:
        inputs: Features of a node.
        hidden: Features of its state.
        width: The width of the layer between.

    Example:
        >>> import torch
        >>> from cdeq.models.graph.adjacency import normalised
        >>> x = GraphContext(torch.rand(4, 5), normalised(torch.tensor([[0], [1]]), nodes=4))
        >>> NodeInitializer(5, 3)(torch.zeros(4, 3), x).shape
        torch.Size([4, 3])
    """

    def __init__(self, inputs: int, hidden: int, width: int = 32) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(inputs, width), nn.Linear(width, hidden)

    def forward(self, z: Tensor, x: GraphContext) -> Float[Tensor, "n h"]:
        return self.outward(project(x.features, self.inward).relu()).relu()
