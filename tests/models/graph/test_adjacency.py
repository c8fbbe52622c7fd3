"""From edges to matrices: by the formula, with the promised eigenvalue, or not at all."""

import pytest
import torch
from models.graph.zoo import adjacency_of, each_graph, edges_of, sparse
from problems import seeded
from torch import Tensor

from cdeq.models.graph.adjacency import normalised, perron_eigenvalue, rows_within
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.models.graph.spectrum import spectrum

each_normalisation = pytest.mark.parametrize("normalisation", ("symmetric", "row"))
each_direction = pytest.mark.parametrize("undirected", (True, False))


def counted_once(graph: str, undirected: bool) -> Tensor:
    """A + I of zeros and ones, an edge in the row of the node where it arrives."""
    edges, nodes = edges_of(graph)
    dense = torch.eye(nodes, dtype=torch.float64)
    for source, target in edges.T.tolist():
        dense[target, source] = 1.0
        if undirected:
            dense[source, target] = 1.0
    return dense


@each_graph
@each_normalisation
@each_direction
def test_it_is_the_formula(graph, normalisation, undirected) -> None:
    loops = counted_once(graph, undirected)
    degree = loops.sum(1, keepdim=True)
    expected = loops / degree if normalisation == "row" else loops / (degree * degree.T).sqrt()
    found = adjacency_of(graph, normalisation=normalisation, undirected=undirected)
    torch.testing.assert_close(found.matrix.to_dense(), expected)
    torch.testing.assert_close(found.t().matrix.to_dense(), expected.T)
    assert found.entries == int(loops.sum())


@each_graph
@each_normalisation
@each_direction
def test_its_perron_eigenvalue_is_one(graph, normalisation, undirected) -> None:
    found = adjacency_of(graph, normalisation=normalisation, undirected=undirected)
    largest = torch.linalg.eigvals(found.matrix.to_dense()).abs().max()
    assert float(largest) == pytest.approx(1.0, abs=1e-6)  # a defective one is less exact
    assert perron_eigenvalue(found) == pytest.approx(1.0, abs=0.03)
    positive = found.matrix.to_dense().diagonal().rsqrt().unsqueeze(1)
    positive = positive if normalisation == "symmetric" else torch.ones_like(positive)
    torch.testing.assert_close(found @ positive, positive)


@each_graph
def test_the_symmetric_one_is_symmetric_of_norm_one(graph) -> None:
    found = adjacency_of(graph)
    assert found.symmetric and found.transposed is None
    dense = found.matrix.to_dense()
    assert torch.equal(dense, dense.T)
    assert float(torch.linalg.matrix_norm(dense, 2)) == pytest.approx(1.0, abs=1e-12)
    assert float(spectrum(found).values.max()) == pytest.approx(1.0, abs=1e-12)


def test_a_row_normalised_one_of_unequal_degrees_is_not_symmetric() -> None:
    assert not adjacency_of("star", normalisation="row").symmetric
    assert adjacency_of("ring", normalisation="row").symmetric


@each_graph
def test_the_order_of_edges_and_their_repetition_do_not_matter(graph) -> None:
    edges, nodes = edges_of(graph)
    shuffled = torch.cat([edges.flip(1), edges.flip(0), torch.arange(nodes).expand(2, -1)], dim=1)
    for one, other in zip(
        normalised(edges, nodes).parts(), normalised(shuffled, nodes).parts(), strict=True
    ):
        assert torch.equal(one, other)


def test_edges_may_be_anywhere(device, dtype) -> None:
    edges, nodes = edges_of("odd", device)
    found = normalised(edges, nodes, dtype=dtype)
    assert (found.matrix.device.type, found.matrix.dtype) == (device.type, dtype)
    expected = adjacency_of("odd").matrix.to_dense().to(device, dtype)
    torch.testing.assert_close(found.matrix.to_dense(), expected)


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ([[0, 1, 9], [1, 3, 0]], "nodes 0 … 2; got 2 that do not, the first from 1 to 3 at posi"),
        ([[0, -1], [1, 0]], "got 1 that do not, the first from -1 to 0 at position 1"),
        ([[0, 1]], r"\(2, edges\) tensor of int64, .*; got \(1, 2\) of torch.int64"),
        ([0, 1], r"sources above targets; got \(2,\)"),
        ([[0.0], [1.0]], r"got \(2, 1\) of torch.float32"),
    ],
)
def test_edges_that_lead_nowhere_are_refused(edges: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        normalised(torch.tensor(edges), nodes=3)


def nonnegative(seed: int) -> Tensor:
    return seeded(6, 6, seed=seed, dtype=torch.float64).abs()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", (1, 2, 5, 100))
def test_the_perron_bound_is_one(seed: int, steps: int) -> None:
    dense = nonnegative(seed)
    true = float(torch.linalg.eigvals(dense).abs().max())
    bound = perron_eigenvalue(sparse(dense), steps=steps)
    assert bound >= true * (1 - 1e-12)
    assert bound <= float(dense.sum(1).max()) * (1 + 1e-12)  # that of the first product


@pytest.mark.parametrize("seed", range(5))
def test_the_perron_bound_is_tight(seed: int) -> None:
    dense = nonnegative(seed)
    true = float(torch.linalg.eigvals(dense).abs().max())
    assert perron_eigenvalue(sparse(dense)) == pytest.approx(true, rel=1e-9)


@pytest.mark.parametrize(
    ("dense", "true"),
    [
        (torch.eye(4).roll(1, 0), 1.0),  # eigenvalues all over the circle
        (torch.diag(torch.tensor([0.1, 0.7, 2.5])), 2.5),  # in pieces
        (torch.tensor([[0.0, 4.0], [1.0, 0.0]]), 2.0),  # two of the same size
        (torch.tensor([[1e-3]]), 1e-3),
    ],
    ids=("cycle", "apart", "bipartite", "tiny"),
)
def test_the_perron_eigenvalue_of_what_power_iteration_finds_hard(dense, true) -> None:
    assert perron_eigenvalue(sparse(dense)) == pytest.approx(true, rel=1e-6)


def test_the_perron_bound_holds_where_it_is_never_reached() -> None:
    """A nilpotent matrix, whose eigenvalue is 0."""
    bounds = [perron_eigenvalue(sparse(torch.ones(3, 3).triu(1)), steps=k) for k in (1, 10, 1000)]
    assert bounds == sorted(bounds, reverse=True)
    assert 0.0 <= bounds[-1] < 0.01


def test_a_negative_entry_has_no_perron_eigenvalue() -> None:
    dense = torch.tensor([[1.0, -1e-9], [0.0, 1.0]])
    with pytest.raises(ValueError, match="a matrix without negatives"):
        perron_eigenvalue(sparse(dense))


def by_bisection(row: Tensor, radius: float) -> Tensor:
    """The same projection by search for the threshold at which the row is short enough."""
    if float(row.abs().sum()) <= radius:
        return row
    low, high = 0.0, float(row.abs().max())
    for _ in range(100):
        middle = (low + high) / 2
        too_long = float((row.abs() - middle).clamp_min(0).sum()) > radius
        low, high = (middle, high) if too_long else (low, middle)
    return row.sign() * (row.abs() - high).clamp_min(0)


ROWS = {
    "random": seeded(6, 5, seed=3, dtype=torch.float64),
    "huge": 1e6 * seeded(6, 5, seed=4, dtype=torch.float64),
    "within": 1e-3 * seeded(6, 5, seed=5, dtype=torch.float64),
    "ties": torch.tensor([[1.0, -1.0, 1.0], [0.0, 2.0, 2.0], [0.0, 0.0, 0.0]]).double(),
    "narrow": seeded(6, 1, seed=6, dtype=torch.float64),
}
each_rows = pytest.mark.parametrize("rows", ROWS.values(), ids=list(ROWS))
each_radius = pytest.mark.parametrize("radius", (0.05, 0.95, 3.0))


@each_rows
@each_radius
def test_the_projection_is_what_bisection_finds(rows: Tensor, radius: float) -> None:
    expected = torch.stack([by_bisection(row, radius) for row in rows])
    torch.testing.assert_close(rows_within(rows, radius), expected, rtol=1e-9, atol=1e-9)


@each_rows
@each_radius
def test_no_point_of_the_ball_is_nearer(rows: Tensor, radius: float) -> None:
    """⟨w - p, q - p⟩ ≤ 0 at every corner q of the ball characterises p."""
    p = rows_within(rows, radius)
    assert float(p.abs().sum(1).max()) <= radius * (1 + 1e-12)
    gap = radius * (rows - p).abs().amax(1) - ((rows - p) * p).sum(1)
    assert float((gap / rows.abs().amax(1).clamp_min(1.0)).max()) <= 1e-12
    torch.testing.assert_close(rows_within(p, radius), p)


def test_rows_within_the_ball_stay_to_the_last_bit() -> None:
    rows = ROWS["within"]
    assert torch.equal(rows_within(rows, 1.0), rows)


@pytest.mark.parametrize("size", (1e-3, 1.0, 1e4, 1e8, 1e30))
def test_rounding_does_not_leave_the_ball(size: float) -> None:
    rows = size * seeded(50, 64, seed=8, dtype=torch.float32)
    lengths = rows_within(rows, 0.95).double().abs().sum(1)
    assert float(lengths.max()) <= 0.95 * (1 + 1e-5)
    if size >= 1.0:
        assert float(lengths.min()) >= 0.95 * (1 - 1e-5)


@pytest.mark.parametrize("name", ("random", "huge", "within"))
def test_the_projection_differentiates(name: str) -> None:
    rows = ROWS[name].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: rows_within(rows, 0.95), rows)


def test_a_large_graph_is_not_decomposed() -> None:
    with pytest.raises(ValueError, match=r"up to 4000 nodes, .*; got 4001 nodes; iterate"):
        spectrum(normalised(torch.zeros(2, 0, dtype=torch.long), nodes=4001))


def test_a_matrix_that_is_not_symmetric_is_not_decomposed() -> None:
    matrix = SparseMatrix.of(torch.tensor([0]), torch.tensor([1]), torch.ones(1), shape=(2, 2))
    with pytest.raises(ValueError, match=r"has to be symmetric here, .* got another of shape \(2"):
        spectrum(matrix)
