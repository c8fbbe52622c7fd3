"""PyTorch Geometric's convolutions with this library's sparse products under them.

Formulas, parameters and initial weights are the package's. Only how messages are summed is ours:
the package gathers one message an edge, which on a graph of millions of edges is most of the time
and nearly all of the memory.
"""

import warnings
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cdeq.errors import CDEQError
from cdeq.models.graph.base import project
from cdeq.models.graph.sparse import SparseMatrix


class Convolutions(NamedTuple):
    """Subclasses of the package's layers."""

    gcn: type[Any]
    """`GCNConv`, called with features and a `SparseMatrix`."""
    gat: type[Any]
    """`GATConv`, called with features and a torch matrix in compressed sparse rows."""
    gcnii: type[Any]
    """`GCN2Conv`, called with features, first features and a `SparseMatrix`."""


@cache
def convolutions() -> Convolutions:
    """The layers, which need PyTorch Geometric.

    Raises:
        CDEQError: When it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # loading it warns of a compiler in torch that nothing here uses
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch_geometric.nn import GATConv, GCN2Conv, GCNConv
    except ImportError as error:
        raise CDEQError(
            "GCN, GAT and GCNII are built from PyTorch Geometric's layers, which are not "
            f"installed ({error}); install cdeq[graph]."
        ) from error

    class SparseGCNConv(GCNConv):
        def propagate(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, edge_index: SparseMatrix, *, x: Tensor, edge_weight: None
        ) -> Tensor:
            return edge_index @ x

    class SparseGCN2Conv(GCN2Conv):
        def propagate(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, edge_index: SparseMatrix, *, x: Tensor, edge_weight: None
        ) -> Tensor:
            return edge_index @ x

    class SparseGATConv(GATConv):
        def propagate(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, edge_index: Tensor, *, x: tuple[Tensor, Tensor], alpha: Tensor, size: None
        ) -> Tensor:
            return attended(alpha, x[0], edge_index)

    return Convolutions(SparseGCNConv, SparseGATConv, SparseGCN2Conv)


class Projected(nn.Module):
    """A convolution that begins with a linear map, which here takes sparse features as well.

    Arguments:
        convolution: A layer of the package; its `lin` is taken out.
    """

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.projection = cast(nn.Linear, convolution.lin)
        convolution.lin = nn.Identity()
        self.convolution = convolution

    def forward(
        self, features: Tensor | SparseMatrix, adjacency: SparseMatrix | Tensor
    ) -> Float[Tensor, "n d"]:
        return self.convolution(project(features, self.projection), adjacency)


def attended(
    weights: Float[Tensor, "e h"], values: Float[Tensor, "n h d"], pattern: Tensor
) -> Float[Tensor, "n h d"]:
    r"""The weighted sum of the neighbours' values, one sparse product a head.

    .. math:: y_{ih} = \sum_j a_{ijh} \, v_{jh}

    Differentiable in both, and nothing is ever made that has a row of values an edge.

    Arguments:
        weights: a, one row for each entry of the pattern, in its order.
        values: v.
        pattern: Which j are neighbours of i: a matrix in compressed sparse rows, whose own values
            do not matter.

    Example:
        >>> ring = SparseMatrix.of(
        ...     torch.tensor([0, 1]), torch.tensor([1, 0]), torch.ones(2), shape=(2, 2)
        ... )
        >>> weights, values = torch.tensor([[2.0], [3.0]]), torch.tensor([[[5.0]], [[7.0]]])
        >>> attended(weights, values, ring.matrix).flatten()
        tensor([14., 15.])
    """
    crow, columns = pattern.crow_indices(), pattern.col_indices()
    return _Attended.apply(weights, values, crow, columns)  # type: ignore[return-value]


class _Attended(torch.autograd.Function):
    """Forward a product with each head's matrix; backward one with its transpose, and the inner
    products of gradients and values where the pattern has an entry."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, *pattern: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(weights, values, *pattern)
        return _by_head(weights, values, *pattern)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides names
        ctx: Any,  # noqa: ANN401
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        weights, values, crow, columns = ctx.saved_tensors
        to_weights = to_values = None
        if ctx.needs_input_grad[0]:
            heads = zip(grads[0].unbind(1), values.unbind(1), strict=True)
            to_weights = torch.stack([_inner(g, v, crow, columns) for g, v in heads], 1)
        if ctx.needs_input_grad[1]:
            order, *transposed = _transposed(crow, columns)
            to_values = _by_head(weights[order], grads[0], *transposed)
        return to_weights, to_values, None, None


def _by_head(weights: Tensor, values: Tensor, crow: Tensor, columns: Tensor) -> Tensor:
    heads = zip(weights.t().contiguous(), values.unbind(1), strict=True)
    products = [SparseMatrix(_matrix(crow, columns, w), None) @ v for w, v in heads]
    return torch.stack(products, 1)


def _inner(left: Tensor, right: Tensor, crow: Tensor, columns: Tensor) -> Tensor:
    """⟨left_i, right_j⟩ for each entry (i, j) of the pattern."""
    zeros = _matrix(crow, columns, left.new_zeros(len(columns)))
    return torch.sparse.sampled_addmm(zeros, left.contiguous(), right.t()).values()


def _transposed(
    crow: Int[Tensor, " r"], columns: Int[Tensor, " e"]
) -> tuple[Int[Tensor, " e"], Int[Tensor, " r"], Int[Tensor, " e"]]:
    """Where each entry of the transposed pattern stands in the pattern; its rows and columns."""
    nodes, order = len(crow) - 1, columns.argsort(stable=True)
    rows = torch.arange(nodes, device=crow.device).repeat_interleave(crow.diff())
    counts = columns.bincount(minlength=nodes)
    return order, torch.cat([crow[:1], counts.cumsum(0)]), rows[order]


def _matrix(crow: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    nodes = len(crow) - 1
    with warnings.catch_warnings():
        # torch says once that compressed sparse rows may still change
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(crow, columns, values, (nodes, nodes))
