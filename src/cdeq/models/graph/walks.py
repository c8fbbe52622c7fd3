"""Random walks, and what is left of them when the nodes' names are taken away."""

import torch
from jaxtyping import Int
from torch import Tensor

from cdeq.models.graph.sparse import SparseMatrix

# of the generator SplitMix64, as signed numbers
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIXERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)

Walks = Int[Tensor, "s m l"]


def random_walks(
    adjacency: SparseMatrix, starts: Int[Tensor, " s"], *, patterns: int, steps: int, seed: int
) -> Walks:
    r"""Several walks from each node, every step to a neighbour drawn evenly.

    .. math:: w_0 = v , \qquad w_{t+1} \sim \mathcal U\{ j \neq w_t : A_{w_t j} \neq 0 \}

    A node without neighbours stays where it is. What is drawn is a function of seed, node, pattern
    and step, so a node's walks do not depend on which other nodes are asked about.

    Arguments:
        adjacency: A with all self-loops, as `normalised` makes it; its values do not matter.
        starts: Where the walks start.
        patterns: Walks from each node.
        steps: Steps of each; a walk has one more node than steps.
        seed: Decides all draws, at least 0.

    Example:
        >>> from cdeq.models.graph.adjacency import normalised
        >>> pair = normalised(torch.tensor([[0], [1]]), nodes=3)
        >>> random_walks(pair, torch.tensor([0, 2]), patterns=1, steps=3, seed=0)
        tensor([[[0, 1, 0, 1]],
                [[2, 2, 2, 2]]])
    """
    crow, columns, _ = adjacency.parts()
    numbers = torch.arange(patterns, device=starts.device)
    key = _mixed(starts[:, None] + seed * GOLDEN % 2**62) + numbers
    nodes = [starts[:, None].expand(-1, patterns)]
    for step in range(1, steps + 1):
        draw = _shifted(_mixed(key + GOLDEN * step % 2**62), 1)
        nodes.append(_neighbour(crow, columns, nodes[-1], draw))
    return torch.stack(nodes, -1)


def _neighbour(crow: Tensor, columns: Tensor, nodes: Tensor, draw: Tensor) -> Tensor:
    """A node of the row other than the node itself: where the draw hits that, the row's last."""
    first, last = crow[nodes], crow[nodes + 1] - 1
    drawn = columns[first + draw % (last - first).clamp_min(1)]
    return torch.where(drawn == nodes, columns[last], drawn)


def _mixed(number: Tensor) -> Tensor:
    """A one-to-one map of 64-bit integers that looks random; products wrap around."""
    number = (number ^ _shifted(number, 30)) * MIXERS[0]
    number = (number ^ _shifted(number, 27)) * MIXERS[1]
    return number ^ _shifted(number, 31)


def _shifted(number: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in, whatever the sign."""
    return (number >> bits) & (2 ** (64 - bits) - 1)


def anonymous(walks: Int[Tensor, "*batch l"]) -> Int[Tensor, "*batch l"]:
    """Where in a walk each of its nodes was first met: the same whatever the nodes are called.

    Example:
        >>> anonymous(torch.tensor([[7, 3, 7, 9, 3]]))
        tensor([[0, 1, 0, 3, 1]])
    """
    same = walks.unsqueeze(-1) == walks.unsqueeze(-2)
    return same.to(torch.int8).argmax(-1)
