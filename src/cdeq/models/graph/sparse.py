"""Sparse matrices as data: a product that is fast on this kind of hardware, and differentiable."""

import warnings
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import Self

NARROW = 40
"""Columns below which the plain product is used on a CPU: at 16 it takes two thirds of the time of
the other one, and at 32 it still is the faster one (`benchmarks/sparse_product.py`)."""


class SparseMatrix(NamedTuple):
    r"""A constant sparse matrix A, and its transpose for gradients.

    `A @ Y` is differentiable in Y as often as needed, :math:`\bar Y = A^\top \bar Z`; the entries
    of A are data, not parameters.

    Both are in compressed sparse rows with 64-bit indices, and a CPU multiplies them by
    `torch.sparse.mm` with a reduction: for 64 columns it takes four fifths of the time of the
    plain operator and of SciPy (`benchmarks/sparse_product.py`). The plain operator is the faster
    one where Y has few columns.

    Example:
        >>> rows, columns = torch.tensor([0, 1]), torch.tensor([1, 1])
        >>> A = SparseMatrix.of(rows, columns, torch.tensor([2.0, 3.0]), shape=(2, 2))
        >>> A @ torch.eye(2)
        tensor([[0., 2.],
                [0., 3.]])
    """

    matrix: Tensor
    """A in compressed sparse rows."""
    transposed: Tensor | None
    """Aᵀ in compressed sparse rows; None where A is symmetric."""

    @classmethod
    def of(
        cls,
        rows: Int[Tensor, " e"],
        columns: Int[Tensor, " e"],
        values: Float[Tensor, " e"],
        *,
        shape: tuple[int, int],
        symmetric: bool = False,
    ) -> Self:
        """The matrix with these entries; entries at the same place are added.

        Arguments:
            rows: Where each entry stands.
            columns: Where each entry stands.
            values: The entries.
            shape: Rows and columns of the matrix.
            symmetric: Whether A = Aᵀ, which is believed, and saves a copy.
        """
        matrix = _compressed(rows, columns, values, shape)
        if symmetric:
            return cls(matrix, None)
        return cls(matrix, _compressed(columns, rows, values, (shape[1], shape[0])))

    @property
    def shape(self) -> torch.Size:
        """Rows and columns."""
        return self.matrix.shape

    @property
    def symmetric(self) -> bool:
        """Whether A = Aᵀ: as it was said, or, where both are stored, as their entries show."""
        if self.transposed is None:
            return True
        pairs = zip(self.parts(), self.t().parts(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    @property
    def entries(self) -> int:
        """How many are stored."""
        return self.matrix.values().numel()

    def t(self) -> "SparseMatrix":
        """The transpose; nothing is copied."""
        return self if self.transposed is None else SparseMatrix(self.transposed, self.matrix)

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Dense tensors that say everything, for fingerprints: row starts, columns, values."""
        return self.matrix.crow_indices(), self.matrix.col_indices(), self.matrix.values()

    def dropped(self, share: float) -> "SparseMatrix":
        """A copy without a random share of the entries, the others scaled by 1 / (1 - share)."""
        values = torch.nn.functional.dropout(self.matrix.values(), share)
        crow, columns, _ = self.parts()
        rows = torch.repeat_interleave(
            torch.arange(len(crow) - 1, device=crow.device), crow.diff()
        )
        kept = values != 0
        places = rows[kept], columns[kept]
        return SparseMatrix.of(*places, values[kept], shape=(self.shape[0], self.shape[1]))

    def __matmul__(self, dense: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        back = self.matrix if self.transposed is None else self.transposed
        return _Product.apply(dense, self.matrix, back)  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    """A Y, whose backward pass is another such product, so it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:  # noqa: ANN401
        ctx.matrices = (matrix, transposed)
        return _multiply(matrix, dense)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ANN401
        matrix, transposed = ctx.matrices
        return _Product.apply(grads[0], transposed, matrix), None, None


def _multiply(matrix: Tensor, dense: Tensor) -> Tensor:
    # numbers of half precision have no plain product there
    wide = dense.shape[1] >= NARROW or dense.dtype.itemsize < 4
    if matrix.device.type == "cpu" and wide:
        return torch.sparse.mm(matrix, dense.contiguous(), "sum")
    return matrix @ dense


def compressed(
    starts: Int[Tensor, " n+1"],
    columns: Int[Tensor, " e"],
    values: Float[Tensor, " e"],
    shape: tuple[int, int],
) -> Tensor:
    """A matrix in compressed sparse rows from its parts; nothing is copied or checked."""
    with warnings.catch_warnings():
        # torch says once that compressed sparse rows may still change
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def _compressed(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    places = torch.stack([rows, columns])
    with warnings.catch_warnings():
        # torch says once that compressed sparse rows may still change
        warnings.simplefilter("ignore", UserWarning)
        coordinates = torch.sparse_coo_tensor(places, values, shape, check_invariants=True)
        return coordinates.coalesce().to_sparse_csr()
