"""How each sample ended: what the numbers of a solution say about it."""

import pytest
import torch
from problems import each_problem, each_solver

from cdeq import Solution, SolveError, Status, solve

WORST = (Status.NONFINITE, Status.MAX_STEPS, Status.CONVERGED)


@each_problem
@each_solver
@pytest.mark.parametrize("tol", (None, 1e-3, 1e-10))
def test_a_samples_status_is_what_was_measured(solver, make, tol, dtype, device) -> None:
    problem = make(torch.float64, device)
    run = solve(problem, problem.start, solver, max_steps=15, tol=tol, batched=problem.batched)
    assert len(run.statuses) == run.errors.shape[1]
    for i, status in enumerate(run.statuses):
        finite = bool(run.errors[:, i].isfinite().all())
        done = tol is not None and bool(run.errors[:, i].min() <= tol)
        expected = Status.CONVERGED if done else Status.MAX_STEPS
        assert status is (expected if finite else Status.NONFINITE)
    assert run.status is min(run.statuses, key=WORST.index)


def test_the_three_outcomes_side_by_side(device) -> None:
    slope = torch.tensor([[0.1], [0.99], [torch.nan], [0.0]], device=device)
    run = solve(lambda z: slope * torch.cos(z) + 1, torch.ones(4, 1, device=device), max_steps=3)
    steps = run.statuses
    assert steps == (Status.MAX_STEPS, Status.MAX_STEPS, Status.NONFINITE, Status.MAX_STEPS)
    run = solve(
        lambda z: slope * torch.cos(z) + 1, torch.zeros(4, 1, device=device), max_steps=3, tol=1e-5
    )
    ends = (Status.MAX_STEPS, Status.MAX_STEPS, Status.NONFINITE, Status.CONVERGED)
    assert run.statuses == ends


@pytest.mark.parametrize(
    ("errors", "converged", "expected"),
    [
        ([[0.5, 0.5], [0.1, 0.5]], [True, False], (Status.CONVERGED, Status.MAX_STEPS)),
        ([[0.5, 0.5], [0.1, 0.0]], [True, True], (Status.CONVERGED, Status.CONVERGED)),
        ([[0.5, torch.inf], [0.1, 0.1]], [True, False], (Status.CONVERGED, Status.NONFINITE)),
        ([[torch.nan, 1.0]], [False, False], (Status.NONFINITE, Status.MAX_STEPS)),
        ([[]], [], ()),
    ],
)
def test_statuses_by_hand(errors, converged, expected) -> None:
    table, done = torch.tensor(errors), torch.tensor(converged, dtype=torch.bool)
    solution = Solution(torch.zeros(len(done), 1), table, torch.ones(len(done)), done)
    assert solution.statuses == expected
    assert solution.status is min([*expected, Status.CONVERGED], key=WORST.index)


def test_an_unbatched_state_has_one_status(device) -> None:
    run = solve(torch.cos, torch.zeros((), device=device), max_steps=50, tol=1e-4, batched=False)
    assert run.statuses == (Status.CONVERGED,)
    short = solve(torch.cos, torch.zeros((), device=device), max_steps=2, tol=1e-4, batched=False)
    assert short.statuses == (Status.MAX_STEPS,)
    with pytest.raises(SolveError, match="0 of 1 samples converged"):
        short.check()
