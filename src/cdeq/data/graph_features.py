"""Node features as they are cheapest to multiply, and bags of words as shares."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cdeq.models.graph.sparse import SparseMatrix

SPARSE_BELOW = 0.1
"""The share of non-zero entries under which a sparse product is the faster one."""


def lean(features: Float[Tensor, "n p"]) -> Float[Tensor, "n p"] | SparseMatrix:
    """The features, sparse where fewer than a tenth of them are not zero.

    Example:
        >>> lean(torch.eye(20)).entries
        20
        >>> lean(torch.eye(5)).shape
        torch.Size([5, 5])
    """
    # a NaN is not zero, so it stays and is found later
    if int(features.count_nonzero()) >= SPARSE_BELOW * features.numel():
        return features
    rows, columns = features.nonzero(as_tuple=True)
    shape = (features.shape[0], features.shape[1])
    return SparseMatrix.of(rows, columns, features[rows, columns], shape=shape)


def lean_of(
    rows: Int[Tensor, " e"],
    columns: Int[Tensor, " e"],
    values: Float[Tensor, " e"],
    *,
    shape: tuple[int, int],
) -> Float[Tensor, "n p"] | SparseMatrix:
    """Features from their entries, sparse where those are fewer than a tenth of all.

    Example:
        >>> diagonal = torch.arange(20)
        >>> lean_of(diagonal, diagonal, torch.ones(20), shape=(20, 20)).entries
        20
        >>> lean_of(diagonal[:2], diagonal[:2], torch.ones(2), shape=(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    if len(values) < SPARSE_BELOW * shape[0] * shape[1]:
        return SparseMatrix.of(rows, columns, values, shape=shape)
    return torch.zeros(shape).index_put_((rows, columns), values, accumulate=True)


def rows_as_shares(
    features: Float[Tensor, "n p"] | SparseMatrix,
) -> Float[Tensor, "n p"] | SparseMatrix:
    r"""Each row divided by its size, :math:`x_i / \|x_i\|_1`; empty rows stay empty.

    Example:
        >>> rows_as_shares(torch.tensor([[3.0, 1.0], [0.0, 0.0]]))
        tensor([[0.7500, 0.2500],
                [0.0000, 0.0000]])
    """
    if isinstance(features, Tensor):
        return torch.nn.functional.normalize(features, p=1.0, dim=1)
    crow, columns, values = features.parts()
    rows = torch.repeat_interleave(torch.arange(features.shape[0]), crow.diff())
    size = torch.zeros(features.shape[0]).index_add_(0, rows, values.abs())
    shape = (features.shape[0], features.shape[1])
    return SparseMatrix.of(rows, columns, values / size[rows].clamp_min(1e-12), shape=shape)
