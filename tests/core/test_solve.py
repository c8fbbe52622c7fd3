"""The run: trajectories, tolerances, outcomes, and what is refused."""

from itertools import islice

import pytest
import torch
from problems import (
    BATCHED,
    Counted,
    contraction,
    cosine,
    coupled,
    each_problem,
    each_solver,
    propagation,
    seeded,
    tanh,
)
from torch import Tensor

from cdeq import (
    Anderson,
    Picard,
    SolveError,
    Solver,
    Status,
    absolute,
    iterate,
    relative_error,
    residual_norm,
    solve,
)
from cdeq.core.state import Layout, like, tensors
from cdeq.typing import State


def equal(a: State, b: State) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def copied(state: State) -> State:
    return like(state, tuple(part.clone() for part in tensors(state)))


@each_problem
@each_solver
@pytest.mark.parametrize("tol", (None, 1e-4))
def test_the_trajectory_is_what_happened(solver, make, tol, dtype, device) -> None:
    problem = make(dtype, device)
    options = {"tol": tol, "batched": problem.batched}
    plain = solve(problem, problem.start, solver, max_steps=9, **options)
    z0 = problem.start
    recorded = solve(problem, z0, solver, max_steps=9, record=True, **options)
    steps = islice(iterate(problem, problem.start, solver, **options), 9)
    seen = [copied(point.z) for point in steps]  # before anything can overwrite it
    assert plain.trajectory is None
    assert len(recorded.trajectory) == recorded.nfe + 1 == len(seen) + 1
    assert recorded.trajectory[0] is z0
    assert recorded.trajectory[-1] is recorded.z
    assert equal(plain.z, recorded.z)
    assert torch.equal(plain.errors, recorded.errors)
    assert all(map(equal, recorded.trajectory[1:], seen))


@each_problem
@each_solver
def test_an_error_is_the_residual_at_its_point(solver, make, dtype, device) -> None:
    problem = make(dtype, device)
    run = solve(problem, problem.start, solver, max_steps=8, record=True, batched=problem.batched)
    measured = [residual_norm(problem, z, batched=problem.batched) for z in run.trajectory[:-1]]
    torch.testing.assert_close(run.errors, torch.stack(measured), rtol=1e-6, atol=1e-13)


@each_problem
@each_solver
def test_the_best_iterate_is_the_smallest_residual_seen(solver, make, dtype, device) -> None:
    problem = make(dtype, device)
    options = {"max_steps": 12, "batched": problem.batched}
    run = solve(problem, problem.start, solver, record=True, **options)
    best = solve(problem, problem.start, solver, best=True, **options)
    layout = Layout.of(run.z, batched=problem.batched)
    states = torch.stack([layout.pack(z) for z in run.trajectory[:-1]])
    chosen = run.errors.argmin(0)
    assert torch.equal(layout.pack(best.z), states[chosen, torch.arange(layout.samples)])
    assert torch.equal(best.errors, run.errors)


def test_the_best_iterate_of_a_run_that_breaks_down_is_from_before(device) -> None:
    def f(z: Tensor) -> Tensor:
        return torch.where(z > 2.5, torch.nan, z + 1)

    z0 = torch.tensor([[0.0], [9.0]], device=device)
    best = solve(f, z0, Picard(), max_steps=6, best=True, norm=absolute)
    assert best.status is Status.NONFINITE
    assert best.z[0].isfinite().all()
    assert torch.equal(best.z[1], z0[1])


@pytest.mark.parametrize("make", BATCHED)
@each_solver
def test_finished_samples_stay_where_they_were_measured(solver, make, device) -> None:
    problem, tol = make(torch.float64, device), 1e-3
    f = Counted(problem)
    run = solve(f, problem.start, solver, max_steps=60, tol=tol, record=True)
    layout = Layout.of(run.z)
    states = torch.stack([layout.pack(z) for z in run.trajectory])
    remeasured = residual_norm(problem, run.z)
    assert f.calls == run.nfe == run.steps.max()
    for i in range(layout.samples):
        needed, done = int(run.steps[i]), bool(run.converged[i])
        assert done == bool(remeasured[i] <= tol) == bool(run.errors[needed - 1, i] <= tol)
        assert (run.errors[: needed - 1, i] > tol).all()
        frozen = states[needed - 1 :, i]
        assert not done or torch.equal(frozen, frozen[:1].expand_as(frozen))


@pytest.mark.parametrize("make", (cosine, contraction, tanh, coupled))
def test_a_tolerance_changes_no_number_before_it_is_met(make, device) -> None:
    problem = make(torch.float64, device)
    with_tol = solve(problem, problem.start, max_steps=40, tol=1e-6, record=True)
    without = solve(problem, problem.start, max_steps=40, record=True)
    first = int(with_tol.steps.min())
    assert all(map(equal, with_tol.trajectory[:first], without.trajectory[:first]))
    assert with_tol.status is Status.CONVERGED


def test_a_start_at_the_solution_costs_one_evaluation(device) -> None:
    z0 = torch.ones(2, 3, device=device)
    f = Counted(lambda z: 0.5 * z + 0.5)
    run = solve(f, z0, max_steps=20, tol=1e-6, record=True)
    assert f.calls == run.nfe == 1
    assert run.steps.tolist() == [1, 1]
    assert run.status is Status.CONVERGED
    assert equal(run.z, z0)
    assert len(run.trajectory) == 2


@each_solver
def test_a_pair_of_tensors_is_their_concatenation(solver, dtype, device) -> None:
    problem = coupled(dtype, device)
    layout = Layout.of(problem.start)
    pair = solve(problem, problem.start, solver, max_steps=9)
    joined = solve(layout.lift(problem), layout.pack(problem.start), solver, max_steps=9)
    assert torch.equal(layout.pack(pair.z), joined.z)
    assert torch.equal(pair.errors, joined.errors)


@each_solver
def test_an_unbatched_state_is_a_batch_of_one(solver, dtype, device) -> None:
    problem = propagation(dtype, device)
    graph = solve(problem, problem.start, solver, max_steps=9, tol=1e-4, batched=False)
    batch = solve(
        lambda z: problem(z[0])[None], problem.start[None], solver, max_steps=9, tol=1e-4
    )
    assert torch.equal(graph.z, batch.z[0])
    assert torch.equal(graph.errors, batch.errors)
    assert graph.converged.shape == (1,)


def test_the_three_outcomes(device) -> None:
    z0 = torch.zeros(2, 1, device=device)
    converged = solve(torch.cos, z0, max_steps=30, tol=1e-5)
    assert converged.status is Status.CONVERGED
    assert converged.check() is converged
    short = solve(torch.cos, z0, max_steps=2, tol=1e-5)
    assert short.status is Status.MAX_STEPS
    with pytest.raises(SolveError, match=r"0 of 2 samples converged: .*raise `max_steps`"):
        short.check()
    half = torch.tensor([[1.0], [torch.nan]], device=device)
    broken = solve(lambda z: torch.cos(z) * half, z0, max_steps=30, tol=1e-5)
    assert broken.status is Status.NONFINITE
    assert broken.converged.tolist() == [True, False]
    assert broken.finite.tolist() == [True, False]
    with pytest.raises(SolveError, match=r"1 of 2 samples converged: .*check x and z0 for NaN"):
        broken.check()


def test_without_a_tolerance_nothing_is_said_to_converge(device) -> None:
    run = solve(torch.cos, torch.zeros(2, 1, device=device), max_steps=50)
    assert run.status is Status.MAX_STEPS
    assert run.steps.tolist() == [50, 50]
    assert not run.converged.any()


@each_solver
@pytest.mark.parametrize("growth", (1.5, 2.4, 30.0))
def test_divergence_is_never_called_convergence(solver, growth, device) -> None:
    """Not even where the norm of the value overflows before that of the residual."""
    start = torch.ones(2, 3, device=device)
    run = solve(lambda z: growth * z * z.abs(), start, solver, max_steps=120, tol=1e-4)
    assert (
        not run.converged.any()
        or residual_norm(lambda z: growth * z * z.abs(), run.z).max() <= 1e-4
    )


@pytest.mark.parametrize("growth", (1.1, 1.5, 2.4))
def test_picard_on_an_expansion_ends_as_not_finite(growth, device) -> None:
    run = solve(
        lambda z: growth * z + 1,
        torch.zeros(2, 3, device=device),
        Picard(),
        max_steps=1000,
        tol=1e-4,
    )
    assert run.status is Status.NONFINITE
    assert not run.converged.any()
    assert run.nfe < 1000
    assert run.z.isfinite().all()


def test_a_finished_sample_is_not_woken_up_again(device) -> None:
    """Not even by a map whose later answers differ."""
    late = torch.tensor([[0.0], [1.0]], device=device)
    moves = [torch.ones_like(late), late, *[torch.ones_like(late)] * 5]
    run = solve(
        lambda z: z + moves.pop(0),
        torch.zeros(2, 1, device=device),
        Picard(),
        max_steps=6,
        tol=1e-3,
        norm=absolute,
    )
    assert run.z.flatten().tolist() == [1.0, 6.0]
    assert run.steps.tolist() == [2, 6]
    assert run.converged.tolist() == [True, False]


def test_a_nan_in_x_is_an_outcome_of_its_sample_alone(device) -> None:
    x = seeded(3, 4, seed=80, dtype=torch.float64, device=device)
    clean = solve(lambda z: torch.tanh(0.5 * z + x), torch.zeros_like(x), max_steps=40, tol=1e-8)
    spoilt = x.clone()
    spoilt[1, 2] = torch.nan
    run = solve(
        lambda z: torch.tanh(0.5 * z + spoilt), torch.zeros_like(x), max_steps=40, tol=1e-8
    )
    assert run.converged.tolist() == [True, False, True]
    assert run.steps[1] == 1
    assert torch.equal(run.z[[0, 2]], clean.z[[0, 2]])


def test_an_empty_batch_is_solved_at_once(device) -> None:
    run = solve(torch.cos, torch.zeros(0, 3, device=device), max_steps=5, tol=1e-4, record=True)
    assert run.z.shape == (0, 3)
    assert run.errors.shape == (1, 0)
    assert run.check() is run


def test_another_norm_decides(device) -> None:
    z0 = torch.zeros(1, 2, device=device)

    def f(z: Tensor) -> Tensor:
        return 0.5 * z + 500

    loose = solve(f, z0, Picard(), max_steps=99, tol=1e-3)
    tight = solve(f, z0, Picard(), max_steps=99, tol=1e-3, norm=absolute)
    assert tight.nfe > loose.nfe
    assert (f(tight.z) - tight.z).norm() <= 1e-3 < (f(loose.z) - loose.z).norm()


def test_the_mode_in_which_it_is_consumed_decides_about_gradients(device) -> None:
    x = torch.ones(1, 2, device=device, requires_grad=True)
    run = iterate(lambda z: torch.tanh(0.5 * z + x), torch.zeros(1, 2, device=device), Anderson())
    with torch.no_grad():
        assert not next(run).z.requires_grad
    assert next(run).z.requires_grad
    assert torch.is_grad_enabled()


def test_relative_error_is_that_of_the_packed_state(device) -> None:
    problem = coupled(torch.float64, device)
    off = like(problem.solution, tuple(1.01 * part for part in problem.solution))
    expected = torch.full((3,), 0.01, dtype=torch.float64, device=device)
    torch.testing.assert_close(relative_error(off, problem.solution), expected)


@each_solver
def test_mixed_precision_narrows_the_map_and_not_the_state(solver, device) -> None:
    """A map whose last operation is a matrix product returns bfloat16 under autocast."""
    x = seeded(3, 4, seed=81, dtype=torch.float32, device=device)
    weight = 0.2 * seeded(4, 4, seed=82, dtype=torch.float32, device=device)

    def f(z: Tensor) -> Tensor:
        return (torch.tanh(z) + x) @ weight

    exact = solve(f, torch.zeros_like(x), max_steps=40).z
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert f(x).dtype == torch.bfloat16
        run = solve(f, torch.zeros_like(x), solver, max_steps=40, record=True)
    assert {z.dtype for z in run.trajectory} == {torch.float32}
    torch.testing.assert_close(run.z, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("max_steps", (0, -1, 2.5, True, None, "3"))
def test_a_budget_is_a_whole_number_of_evaluations(max_steps) -> None:
    f = Counted(torch.cos)
    with pytest.raises(
        ValueError, match=r"`max_steps` is the number of evaluations.*at least 1; got"
    ):
        solve(f, torch.zeros(1, 1), max_steps=max_steps)
    assert f.calls == 0


@pytest.mark.parametrize("tol", (0.0, -1e-3, float("nan")))
def test_a_tolerance_is_positive(tol) -> None:
    with pytest.raises(ValueError, match=r"`tol` is a positive residual norm.*got"):
        solve(torch.cos, torch.zeros(1, 1), max_steps=3, tol=tol)


@pytest.mark.parametrize(
    ("state_dtype", "below"),
    [(torch.float32, 1e-8), (torch.float64, 1e-17), (torch.bfloat16, 1e-3)],
)
def test_a_tolerance_below_the_precision_is_refused(state_dtype, below) -> None:
    z0 = torch.zeros(1, 1, dtype=state_dtype)
    with pytest.raises(ValueError, match=f"{state_dtype} resolves down to .*wider dtype"):
        solve(torch.cos, z0, max_steps=3, tol=below)
    assert solve(torch.cos, z0, max_steps=3, tol=below, norm=absolute).nfe <= 3


@each_solver
@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda z: z[:, :1], "shape it was given"),
        (lambda z: z.double(), "cast inside f"),
        (lambda z: z.to("meta"), "device it was given"),
        (lambda z: (z, z), "shape it was given"),
    ],
)
def test_a_map_that_changes_the_form_is_refused(solver: Solver, f, message) -> None:
    with pytest.raises(ValueError, match=message):
        solve(f, torch.zeros(2, 3), solver, max_steps=3)


def test_a_state_without_samples_asks_for_batched_false() -> None:
    with pytest.raises(ValueError, match="batched=False"):
        solve(torch.cos, torch.tensor(0.0), max_steps=3)
    assert (
        solve(torch.cos, torch.tensor(0.0), max_steps=30, batched=False, tol=1e-5).check().nfe < 30
    )
