"""Graphs of any size whose degrees follow a power law, to see how things scale."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 2**22
"""Edges that are drawn at once."""
DENSEST = 0.1
"""The share of all pairs above which drawing at random meets too many edges again."""


def power_law(
    nodes: int, edges: int, *, exponent: float = 2.5, seed: int = 0
) -> Int[Tensor, "2 e"]:
    r"""A random graph where both ends of each edge are drawn by expected degrees.

    .. math:: w_i \propto (i + i_0)^{-1 / (\gamma - 1)} , \qquad
        P(\text{degree} > d) \sim d^{-(\gamma - 1)}

    As Chung and Lu have it, with i_0 such that the largest expected degree is about
    :math:`\sqrt{2 e}`, above which some pairs would have to be joined more than once. Pairs that
    are drawn again, and nodes joined to themselves, are drawn anew, so the count is exact. Nodes
    are numbered at random: sorted by degree they would be kinder to caches than real graphs are.

    Memory is that of the edges and half as much again: 62 million edges of 2.4 million nodes take
    less than 2 GiB, and less than a minute on one core.

    References:
        | Connected Components in Random Graphs with Given Expected Degree Sequences (Chung & Lu,
        2002)
        | https://doi.org/10.1007/PL00012580

    Arguments:
        nodes: n ≥ 2.
        edges: e, undirected, at most a tenth of all pairs.
        exponent: γ > 2.
        seed: Decides everything.

    Returns:
        Each edge once, from its lower node to its higher one, in rising order.

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> graph = power_law(1000, 5000)
        >>> graph.shape, bool((graph[0] < graph[1]).all())
        (torch.Size([2, 5000]), True)
    """
    if not exponent > 2.0:
        raise ValueError(f"`exponent` is above 2, or the mean degree is none; got {exponent}.")
    if nodes < 2 or not 1 <= edges <= max(1, DENSEST * nodes * (nodes - 1) / 2):
        raise ValueError(
            "edges are drawn at random, so they are between 1 and a tenth of all pairs of nodes; "
            f"got {edges} for {nodes} nodes."
        )
    generator = np.random.default_rng(seed)
    number = generator.permutation(nodes)
    keys = np.empty(edges, np.int64)
    found = 0
    while found < edges:
        for start in range(found, edges, CHUNK):
            stop = min(start + CHUNK, edges)
            ranks = _ranks((2, stop - start), nodes, edges, exponent, generator)
            keys[start:stop] = _keys(number[ranks], nodes)
        found = _distinct(keys, nodes)
    ends = np.empty((2, edges), np.int64)
    np.divmod(keys, nodes, out=(ends[0], ends[1]))
    return torch.from_numpy(ends)


def _ranks(
    shape: tuple[int, int], nodes: int, edges: int, exponent: float, generator: np.random.Generator
) -> np.ndarray:
    """Ranks with probabilities ∫ (x + i_0)^-a dx over [i, i + 1): the integral's inverse."""
    rest = 1.0 - 1.0 / (exponent - 1.0)
    largest = (2.0 * edges) ** 0.5
    offset = (2.0 * edges * rest / (nodes**rest * largest)) ** (1.0 / (1.0 - rest))
    low, high = offset**rest, (nodes + offset) ** rest
    ranks = (low + (high - low) * generator.random(shape)) ** (1.0 / rest) - offset
    return ranks.astype(np.int64).clip(0, nodes - 1)


def _keys(ends: np.ndarray, nodes: int) -> np.ndarray:
    """One number an edge: lower · n + higher."""
    return ends.min(0) * nodes + ends.max(0)


def _distinct(keys: np.ndarray, nodes: int) -> int:
    """Sort, and move each edge between two nodes to the front once; says how many there are."""
    keys.sort()
    kept = keys % (nodes + 1) != 0  # i · n + i, and no other key, is a multiple of n + 1
    kept[1:] &= keys[1:] != keys[:-1]
    edges = keys[kept]
    keys[: len(edges)] = edges
    return len(edges)


def random_features(nodes: int, width: int, *, seed: int = 0) -> Float[Tensor, "n p"]:
    """White noise, one row a node.

    Example:
        >>> random_features(3, 2).shape
        torch.Size([3, 2])
    """
    return torch.randn(nodes, width, generator=torch.Generator().manual_seed(seed))
