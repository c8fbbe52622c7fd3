"""The ledger of live bytes: exact on computations that can be counted by hand."""

from collections.abc import Callable

import pytest
import torch

from cdeq import Anderson, ExponentialSchedule, refine, solve
from cdeq.core.cell import bind
from cdeq.evaluation.memory import peak_bytes
from cdeq.evaluation.workloads import TransformerWorkload, seeded_tokens

N, BYTES = 1000, 4000


def chain() -> None:
    """Each value is dropped when the next one is there: two at a time."""
    x = torch.zeros(N)
    for _ in range(10):
        x = x + 1


def hoard() -> list[torch.Tensor]:
    return [torch.zeros(N) for _ in range(10)]


def views() -> torch.Tensor:
    x = torch.zeros(N)
    return x.view(10, 100).T[3:7][:, ::2] + 0.0  # 4 × 5 numbers, and x


def in_place() -> torch.Tensor:
    x = torch.zeros(N)
    for _ in range(10):
        x.add_(1)
    return x


def two_waves() -> None:
    hoard()
    torch.zeros(3 * N)


def by_slice() -> torch.Tensor:
    """A small view keeps all of its storage alive."""
    kept = torch.zeros(N)[:1]
    other = torch.zeros(N)
    return torch.cat([kept, other[:1]])


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (chain, 2 * BYTES),
        (hoard, 10 * BYTES),
        (views, BYTES + 80),
        (in_place, BYTES),
        (two_waves, 10 * BYTES),
        (by_slice, 2 * BYTES + 8),
        (nothing, 0),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_peaks_by_hand(run: Callable[[], object], expected: int) -> None:
    assert peak_bytes(run) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int8])
def test_bytes_are_those_of_the_dtype(dtype: torch.dtype) -> None:
    assert peak_bytes(lambda: torch.zeros(N, dtype=dtype)) == N * dtype.itemsize


def compressed(values: torch.Tensor) -> torch.Tensor:
    starts, columns = torch.arange(N + 1), torch.arange(N)
    return torch.sparse_csr_tensor(starts, columns, values, (N, N), check_invariants=False)


def coordinates(values: torch.Tensor) -> torch.Tensor:
    places = torch.zeros(2, N, dtype=torch.int64)
    return torch.sparse_coo_tensor(places, values, (N, N), check_invariants=False)


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state")
@pytest.mark.parametrize(
    ("make", "indices"), [(compressed, 8 * (2 * N + 1)), (coordinates, 8 * 2 * N)]
)
def test_a_sparse_matrix_is_as_large_as_its_parts(make, indices: int) -> None:
    """Which may be others' too; where they are gone, so is it."""
    values = torch.ones(N)
    assert peak_bytes(lambda: make(torch.ones(N))) == BYTES + indices
    assert peak_bytes(lambda: make(values), (values,)) == BYTES + indices

    def one_after_the_other() -> None:
        for _ in range(5):
            make(values)

    assert peak_bytes(one_after_the_other) == BYTES + indices
    assert peak_bytes(lambda: [make(values), make(values)]) == BYTES + 2 * indices


def test_what_was_there_before_counts_when_it_is_named() -> None:
    held = torch.zeros(N)
    assert peak_bytes(lambda: held + 1) == BYTES
    assert peak_bytes(lambda: held + 1, (held,)) == 2 * BYTES
    assert peak_bytes(lambda: held + 1, (held, held.view(10, 100), held[:1])) == 2 * BYTES
    assert peak_bytes(lambda: held.add_(1), (held,)) == BYTES


def test_counting_changes_nothing_and_repeats() -> None:
    torch.manual_seed(0)
    seen: list[torch.Tensor] = []
    first = peak_bytes(lambda: seen.append(torch.randn(N).cumsum(0)))
    torch.manual_seed(0)
    assert torch.equal(seen[0], torch.randn(N).cumsum(0))
    assert first == peak_bytes(lambda: torch.randn(N).cumsum(0)) == 2 * BYTES


@torch.no_grad()
def test_a_student_remembers_one_step_and_a_solver_its_window() -> None:
    cell, x = TransformerWorkload(16, 2, 4).eval(), seeded_tokens(2, 64, 16)
    f, z0, student = bind(cell, x), torch.zeros_like(x), cell.student()

    def inference(steps: int) -> int:
        times = ExponentialSchedule().times(steps)
        return peak_bytes(lambda: [None for _ in refine(student, x, z0, times)])

    def solving(window: int) -> int:
        return peak_bytes(lambda: solve(f, z0, Anderson(window=window), max_steps=12))

    assert inference(40) - inference(3) <= 37 * 4, "the times themselves"
    state = z0.numel() * 4
    grown = solving(8) - solving(4)
    assert 2 * 4 * state <= grown <= 2.5 * 4 * state, "a value and a residual a slot"
