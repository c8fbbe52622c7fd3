"""Sparse products: those of the dense matrix, to any order of derivative."""

import pytest
import torch
from models.graph.zoo import sparse
from problems import seeded
from torch import Tensor

from cdeq.models.graph.sparse import SparseMatrix


def holey(rows: int, columns: int, *, share: float = 0.4, seed: int = 0) -> Tensor:
    """A matrix of zeros for the most part."""
    values = seeded(rows, columns, seed=seed, dtype=torch.float64)
    return values * (seeded(rows, columns, seed=seed + 1, dtype=torch.float64) > share)


def even(size: int) -> Tensor:
    return holey(size, size) + holey(size, size).T


each_shape = pytest.mark.parametrize(
    ("rows", "columns", "width"), [(4, 4, 3), (5, 2, 1), (2, 7, 4), (1, 1, 1), (3, 6, 40)]
)


@each_shape
def test_the_product_is_that_of_the_dense_matrix(rows, columns, width, device, dtype) -> None:
    dense = holey(rows, columns).to(device, dtype)
    y = seeded(columns, width, seed=5, dtype=dtype, device=device)
    torch.testing.assert_close(sparse(dense) @ y, dense @ y)


@each_shape
def test_the_transposed_product_too(rows, columns, width, device, dtype) -> None:
    dense = holey(rows, columns).to(device, dtype)
    y = seeded(rows, width, seed=5, dtype=dtype, device=device)
    matrix = sparse(dense)
    torch.testing.assert_close(matrix.t() @ y, dense.T @ y)
    assert matrix.t().shape == (columns, rows)
    assert matrix.t().t() is not None and matrix.t().t().matrix is matrix.matrix  # no copy


def test_rows_without_entries_and_matrices_without_any_give_zeros() -> None:
    dense = holey(4, 3)
    dense[1] = 0.0
    y = seeded(3, 2, seed=5, dtype=torch.float64)
    assert torch.equal((sparse(dense) @ y)[1], torch.zeros(2, dtype=torch.float64))
    assert torch.equal(sparse(0 * dense) @ y, torch.zeros(4, 2, dtype=torch.float64))


def test_what_is_multiplied_may_be_a_view() -> None:
    dense, wide = holey(4, 6), seeded(5, 12, seed=5, dtype=torch.float64)
    for view in (wide.T[::2], wide[:1].expand(6, 12), wide[:, 3:9].T):
        torch.testing.assert_close(sparse(dense) @ view, dense @ view)


@each_shape
def test_derivatives_of_first_and_second_order(rows, columns, width) -> None:
    matrix = sparse(holey(rows, columns))
    y = seeded(columns, width, seed=5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: matrix @ y, y)
    # linear in y, so only a function around it has a second derivative
    assert torch.autograd.gradgradcheck(lambda y: (matrix @ y).sin(), y)


def test_derivatives_of_a_matrix_that_is_said_to_be_symmetric() -> None:
    dense = even(5)
    rows, columns = dense.nonzero(as_tuple=True)
    values = dense[rows, columns]
    matrix = SparseMatrix.of(rows, columns, values, shape=(5, 5), symmetric=True)
    y = seeded(5, 2, seed=5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: (matrix @ y).tanh(), y)
    assert matrix.t() is matrix


def test_differentiating_twice_is_the_dense_answer() -> None:
    """The gradient's gradient, as a Jacobian penalty asks for it."""
    dense = holey(4, 4)

    def twice(product) -> Tensor:
        y = seeded(4, 2, seed=5, dtype=torch.float64).requires_grad_()
        (first,) = torch.autograd.grad(product(y).tanh().sum(), y, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), y)
        return second

    matrix = sparse(dense)
    torch.testing.assert_close(twice(lambda y: matrix @ y), twice(lambda y: dense @ y))


def test_entries_at_one_place_are_added() -> None:
    places = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])
    matrix = SparseMatrix.of(*places, torch.tensor([1.0, 2.0, 4.0]), shape=(2, 2))
    assert torch.equal(matrix.matrix.to_dense(), torch.tensor([[0.0, 5.0], [2.0, 0.0]]))
    assert matrix.entries == 2


def test_an_entry_outside_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size is inconsistent with indices"):
        SparseMatrix.of(torch.tensor([0]), torch.tensor([2]), torch.ones(1), shape=(2, 2))


def test_the_parts_say_everything() -> None:
    dense = holey(5, 3)
    crow, columns, values = sparse(dense).parts()
    again = torch.zeros_like(dense)
    for row in range(5):
        span = slice(int(crow[row]), int(crow[row + 1]))
        again[row, columns[span]] = values[span]
    assert torch.equal(again, dense)


@pytest.mark.parametrize(
    ("dense", "expected"),
    [
        (even(5), True),
        (torch.eye(3), True),
        (torch.zeros(3, 3), True),
        (torch.zeros(3, 2), False),
        (even(5).tril(), False),
        (even(5) + torch.eye(5, dtype=torch.float64).roll(1, 0) * 1e-9, False),
    ],
    ids=("even", "unit", "zero", "not square", "triangle", "nearly"),
)
def test_symmetry_is_seen(dense: Tensor, expected: bool) -> None:
    assert sparse(dense).symmetric is expected
    assert sparse(dense.T).symmetric is expected


@pytest.mark.parametrize("symmetric", (False, True))
def test_dropping_keeps_the_rest_scaled_up(symmetric: bool, device) -> None:
    dense = torch.ones(40, 40, dtype=torch.float64, device=device)
    rows, columns = dense.nonzero(as_tuple=True)
    matrix = SparseMatrix.of(
        rows, columns, dense[rows, columns], shape=(40, 40), symmetric=symmetric
    )
    dropped = matrix.dropped(0.75)
    left = dropped.matrix.to_dense()
    assert torch.equal(left.unique(), torch.tensor([0.0, 4.0], dtype=left.dtype, device=device))
    assert dropped.entries == int((left != 0).sum())
    assert 0.2 < dropped.entries / 1600 < 0.3
    torch.testing.assert_close(dropped.t().matrix.to_dense(), left.T)  # no longer symmetric
    assert torch.equal(matrix.matrix.to_dense(), dense)


def test_dropping_keeps_entries_at_their_places() -> None:
    dense = holey(6, 9)
    left = sparse(dense).dropped(0.5).matrix.to_dense()
    assert torch.equal(left[left != 0], 2 * dense[left != 0])
