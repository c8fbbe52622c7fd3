"""From an edge list to the matrix that graph models propagate with."""

from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdeq.models.graph.sparse import SparseMatrix, compressed

Normalisation: TypeAlias = Literal["symmetric", "row"]
"""How A is scaled: D^-½ (A + I) D^-½, or D⁻¹ (A + I)."""


def normalised(
    edges: Int[Tensor, "2 e"],
    nodes: int,
    *,
    normalisation: Normalisation = "symmetric",
    undirected: bool = True,
    dtype: torch.dtype = torch.float32,
) -> SparseMatrix:
    r"""The adjacency matrix of a graph with self-loops, normalised.

    .. math:: \tilde D^{-1/2} (A + I) \tilde D^{-1/2} \quad \text{or} \quad
        \tilde D^{-1} (A + I) , \qquad \tilde D = \mathrm{diag}((A + I) \mathbf 1)

    Both have non-negative entries and the Perron-Frobenius eigenvalue 1, whatever the graph:
    :math:`\tilde D^{1/2} \mathbf 1` and **1** are positive eigenvectors. Repeated edges count
    once, and a self-loop that is there already is not doubled. An isolated node keeps itself.

    Arguments:
        edges: Source and target of each edge, in 0 … nodes - 1.
        nodes: How many nodes there are.
        normalisation: Which of the two.
        undirected: Whether each edge also counts the other way.
        dtype: Of the entries.

    Raises:
        ValueError: When an edge leads out of the graph.

    Example:
        >>> A = normalised(torch.tensor([[0], [1]]), nodes=3)
        >>> A @ torch.eye(3)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    require_edges(edges, nodes)
    keys = _keys(edges, nodes, undirected=undirected)
    rows = torch.div(keys, nodes, rounding_mode="floor")
    columns = keys.remainder_(nodes)
    degree = torch.bincount(rows, minlength=nodes)
    starts = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    scale, shape = degree.to(dtype), (nodes, nodes)
    if normalisation == "symmetric":
        values, back = scale[rows].mul_(scale[columns]).rsqrt_(), None
    else:
        values, back = scale.reciprocal()[rows], scale.reciprocal()[columns]
    if not undirected:
        return SparseMatrix.of(rows, columns, values, shape=shape)
    matrix = compressed(starts, columns, values, shape)
    # Aᵀ has its entries where A has them, so the two share their places
    return SparseMatrix(matrix, None if back is None else compressed(starts, columns, back, shape))


def _keys(edges: Tensor, nodes: int, *, undirected: bool) -> Tensor:
    """target · nodes + source of every entry in rising order, each once: one number an entry is
    sorted many times as fast as a pair, and what arrives at a node stands in the node's row."""
    loops = torch.arange(nodes, device=edges.device) * (nodes + 1)
    ways = [edges[1] * nodes + edges[0], loops]
    if undirected:
        ways.append(edges[0] * nodes + edges[1])
    return _distinct(torch.cat(ways))


def _distinct(keys: Tensor) -> Tensor:
    """Each once, in rising order; on a CPU by sorting in place, where `unique` makes copies."""
    if keys.device.type != "cpu":
        return keys.unique()
    found = keys.numpy()
    found.sort()
    first = np.ones(len(found), dtype=bool)
    np.not_equal(found[1:], found[:-1], out=first[1:])
    return keys if first.all() else torch.from_numpy(found[first])


def require_edges(edges: Int[Tensor, "2 e"], nodes: int) -> None:
    """Refuse an edge list that leads out of the graph.

    Raises:
        ValueError: Says where the first such edge leads.
    """
    if edges.ndim != 2 or len(edges) != 2 or edges.dtype is not torch.long:
        raise ValueError(
            "an edge list is a (2, edges) tensor of int64, sources above targets; got "
            f"{tuple(edges.shape)} of {edges.dtype}."
        )
    outside = ((edges < 0) | (edges >= nodes)).any(0)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        source, target = edges[:, first].tolist()
        raise ValueError(
            f"edges join nodes 0 … {nodes - 1}; got {int(outside.sum())} that do not, the first "
            f"from {source} to {target} at position {first}."
        )


@torch.no_grad()
def perron_eigenvalue(matrix: SparseMatrix, *, steps: int = 100) -> float:
    r"""The Perron-Frobenius eigenvalue of a non-negative matrix, from above.

    By Collatz and Wielandt, :math:`\lambda_\text{pf} \le \max_i (A v)_i / v_i` for every positive
    v; v is improved by power iteration on A + I, which has the same eigenvectors and no second
    eigenvalue of the same size.

    Arguments:
        matrix: A ≥ 0, square.
        steps: Products to spend; the bound holds after any number of them.

    Raises:
        ValueError: When an entry is negative, for which there is no such theorem.

    Example:
        >>> ring = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> round(perron_eigenvalue(normalised(ring, nodes=3)), 4)
        1.0
    """
    if bool((matrix.matrix.values() < 0).any()):
        raise ValueError("the Perron-Frobenius eigenvalue is that of a matrix without negatives.")
    v = torch.ones(len(matrix.matrix), 1, dtype=torch.float64, device=matrix.matrix.device)
    wide = SparseMatrix(matrix.matrix.double(), None)
    bound = torch.inf
    for _ in range(steps):
        product = wide @ v
        bound = min(bound, float((product / v).max()))
        v = product + v
        v = v / v.max()
        v = v.clamp_min(1e-12)  # stays positive, which is all that the bound needs
    return bound


def rows_within(weight: Float[Tensor, "o i"], radius: float) -> Float[Tensor, "o i"]:
    r"""Each row's nearest point in the ℓ₁ ball, so that :math:`\|W\|_\infty \le` radius.

    With |w| sorted in falling order, :math:`\theta = \max_j \tfrac1j \big( \sum_{i \le j} |w_i| -
    r \big)` is what every entry is shortened by, at most to zero, where a row is too long; rows
    within the ball stay as they are. Differentiable almost everywhere.

    References:
        | Efficient Projections onto the ℓ1-Ball for Learning in High Dimensions (Duchi et al.,
        2008)
        | https://doi.org/10.1145/1390156.1390191

    Arguments:
        weight: W.
        radius: r > 0.

    Example:
        >>> rows_within(torch.tensor([[3.0, 1.0], [0.2, -0.3]]), 1.0)
        tensor([[ 1.0000,  0.0000],
                [ 0.2000, -0.3000]])
    """
    size = weight.abs()
    # seen from the largest entry: rounding would lose r next to a huge one
    below = size - size.detach().amax(1, keepdim=True)
    falling = below.sort(dim=1, descending=True).values
    counts = torch.arange(1, weight.shape[1] + 1, device=weight.device)
    theta = ((falling.cumsum(1) - radius) / counts).amax(1, keepdim=True)
    shortened = weight.sign() * (below - theta).clamp_min(0.0)
    return torch.where(size.sum(1, keepdim=True) <= radius, weight, shortened)
