"""Dense eigendecompositions of small graphs: answers in closed form, to check solvers by."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cdeq.models.graph.sparse import SparseMatrix

DENSE_NODES = 4000
"""The largest graph that is decomposed: n² numbers of memory, n³ of work."""


class Spectrum(NamedTuple):
    """A = Q diag(λ) Qᵀ."""

    values: Float[Tensor, " n"]
    vectors: Float[Tensor, "n n"]


@torch.no_grad()
def spectrum(adjacency: SparseMatrix) -> Spectrum:
    """Eigenvalues and orthonormal eigenvectors of the adjacency matrix of a small graph.

    Raises:
        ValueError: When the matrix is not symmetric, or has more than `DENSE_NODES` rows.

    Example:
        >>> rows, columns = torch.tensor([0, 1]), torch.tensor([1, 0])
        >>> edge = SparseMatrix.of(rows, columns, torch.ones(2), shape=(2, 2), symmetric=True)
        >>> spectrum(edge).values
        tensor([-1.,  1.])
    """
    require_symmetric(adjacency)
    nodes = adjacency.shape[0]
    if nodes > DENSE_NODES:
        raise ValueError(
            f"a dense eigendecomposition is for graphs of up to {DENSE_NODES} nodes, since it "
            f"takes n² numbers and n³ steps; got {nodes} nodes; iterate instead."
        )
    return Spectrum(*torch.linalg.eigh(adjacency.matrix.to_dense()))


def require_symmetric(adjacency: SparseMatrix) -> None:
    """Refuse an adjacency matrix that is not its own transpose.

    Raises:
        ValueError: Says how to get one that is.
    """
    if not adjacency.symmetric:
        raise ValueError(
            "the adjacency matrix has to be symmetric here, so that its 2-norm is its largest "
            f"eigenvalue, 1; got another of shape {tuple(adjacency.shape)}; build it by "
            "`normalised` with the symmetric normalisation and undirected edges."
        )
