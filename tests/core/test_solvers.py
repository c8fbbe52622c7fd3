"""Laws that every solver keeps, on every problem, in every precision."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from problems import (
    BATCHED,
    CONTRACTIONS,
    SOLVERS,
    Counted,
    Problem,
    Tanh,
    contraction,
    cosine,
    coupled,
    each_dtype,
    each_problem,
    each_solver,
    rotation,
    rows,
    seeded,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cdeq import RK4, Anderson, Broyden, Euler, Picard, Solver, solve
from cdeq.core.solvers import RungeKutta
from cdeq.core.state import Layout, like, tensors
from cdeq.typing import Map, State

each_batched = pytest.mark.parametrize("make", BATCHED)
each_seeker = pytest.mark.parametrize(
    "solver", [solver for name, solver in SOLVERS.items() if name != "rk4"], ids=str
)  # RK4 follows the flow instead of hurrying to its end
PLAIN = (Picard(), Picard(damping=0.5), Euler(size=0.5))
each_kind = pytest.mark.parametrize(
    "solver",
    (Picard(), Anderson(), Anderson(window=2, mixing=0.5), Broyden(memory=4), RK4()),
    ids=str,
)
each_tol = pytest.mark.parametrize("tol", (None, 1e-3))


def path(
    f: Map,
    z0: State,
    solver: Solver,
    steps: int,
    *,
    tol: float | None = None,
    batched: bool = True,
) -> Tensor:
    """The packed states of a run, `(k, b, d)`."""
    run = solve(f, z0, solver, max_steps=steps, tol=tol, record=True, batched=batched)
    layout = Layout.of(z0, batched=batched)
    return torch.stack([layout.pack(z) for z in run.trajectory])


def misses(problem: Problem, solver: Solver, steps: int) -> Tensor:
    """The distance to the solution after each step, `(k, b)`."""
    layout = Layout.of(problem.start, batched=problem.batched)
    states = path(problem, problem.start, solver, steps, batched=problem.batched)
    return torch.stack([problem.miss(layout.unpack(z)) for z in states])


def first_damping(solver: Solver) -> float:
    """The β of a solver's first step."""
    if isinstance(solver, RungeKutta):
        weights = (*solver.tableau.stages, solver.tableau.weights)[0]
        return solver.size * weights[0]
    if isinstance(solver, Picard):
        return solver.damping
    return solver.mixing if isinstance(solver, Anderson) else 1.0


@each_problem
@each_solver
def test_the_budget_is_spent_to_the_last_evaluation(solver, make, dtype, device) -> None:
    problem = make(dtype, device)
    for budget in (1, 2, 3, 7, 20):
        f = Counted(problem)
        solution = solve(f, problem.start, solver, max_steps=budget, batched=problem.batched)
        assert f.calls == solution.nfe == budget
        assert all(part.dtype == dtype for part in tensors(solution.z))


@each_dtype
@each_problem
@each_solver
def test_the_first_step_is_a_damped_picard_step(solver, make, dtype, device) -> None:
    problem = make(dtype, device)
    z0 = problem.start
    z1 = solve(problem, z0, solver, max_steps=1, batched=problem.batched).z
    for before, value, after in zip(*map(tensors, (z0, problem(z0), z1)), strict=True):
        damped = before + first_damping(solver) * (value - before)
        torch.testing.assert_close(after, damped)


@each_dtype
@pytest.mark.parametrize("make", CONTRACTIONS)
@each_seeker
def test_the_known_solution_is_found(solver, make, dtype, device) -> None:
    problem = make(dtype, device)
    accelerated = solver not in (*PLAIN, Anderson(window=0))
    steps = 80 if accelerated else 250
    solution = solve(problem, problem.start, solver, max_steps=steps, batched=problem.batched)
    assert problem.miss(solution.z).max() < 20 * torch.finfo(dtype).eps ** 0.75


@each_dtype
@each_problem
@pytest.mark.parametrize("solver", (Anderson(), Broyden()), ids=str)
def test_acceleration_needs_no_contraction_and_keeps_what_it_found(
    solver, make, dtype, device
) -> None:
    """Past convergence, and past any memory, only rounding noise is left to extrapolate."""
    late = misses(make(dtype, device), solver, 120)[100:]
    assert late.max() < 20 * torch.finfo(dtype).eps ** 0.5


@pytest.mark.parametrize("make", CONTRACTIONS)
def test_picards_error_falls_by_the_spectral_radius(make, device) -> None:
    problem = make(torch.float64, device)
    error = misses(problem, Picard(), 60)
    last = int((error > 1e-12).all(1).sum()) - 1
    half = last // 2
    slope = (error[last].log() - error[half].log()) / (last - half)
    torch.testing.assert_close(slope, problem.radius.log(), rtol=0.0, atol=0.02)


def test_picard_spirals_out_where_the_radius_is_above_one(device) -> None:
    problem = rotation(torch.float64, device)
    error = misses(problem, Picard(), 40)
    torch.testing.assert_close(error[40] / error[20], problem.radius**20)


@each_dtype
@pytest.mark.parametrize("make", CONTRACTIONS)
@each_solver
def test_precisions_agree(solver, make, dtype, device) -> None:
    problem, exact = make(dtype, device), make(torch.float64, device)
    coarse = path(problem, problem.start, solver, 2, batched=problem.batched)
    fine = path(exact, exact.start, solver, 2, batched=problem.batched)
    torch.testing.assert_close(coarse.double(), fine, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", (cosine, contraction, coupled))
@each_seeker
def test_bfloat16_converges_to_its_own_accuracy(solver, make, device) -> None:
    problem = make(torch.bfloat16, device)
    assert misses(problem, solver, 100)[80:].max() < 8 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("make", (cosine, coupled))
@each_solver
def test_autocast_reaches_f_alone(solver, make, device) -> None:
    """No map here is one that autocast narrows: a change would be the solver's own."""
    problem = make(torch.float32, device)
    plain = path(problem, problem.start, solver, 10)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(path(problem, problem.start, solver, 10), plain)


def with_first(problem: Problem, change: Callable[[Tensor], Tensor]) -> Map:
    """The problem, with sample 0 under another map."""

    def f(z: State) -> State:
        pairs = zip(tensors(z), tensors(problem(z)), strict=True)
        return like(z, tuple(torch.cat([change(old[:1]), new[1:]]) for old, new in pairs))

    return f


MATES = {
    "nan": lambda z: torch.full_like(z, torch.nan),
    "inf": lambda z: torch.full_like(z, torch.inf),
    "late nan": lambda z: torch.where(z > 2, torch.nan, z + 1),
    "divergence": lambda z: 1e4 * z + 1,
    "another": lambda z: 0.1 - 0.3 * z,
}


@each_batched
@each_kind
@each_tol
def test_a_sample_never_changes_its_mates(solver, make, tol, device) -> None:
    problem = make(torch.float32, device)
    usual = path(problem, problem.start, solver, 12, tol=tol)
    for change in MATES.values():
        spoilt = path(with_first(problem, change), problem.start, solver, 12, tol=tol)
        shared = min(len(usual), len(spoilt))
        assert torch.equal(spoilt[:shared, 1:], usual[:shared, 1:])
        assert not torch.equal(spoilt[:shared, 0], usual[:shared, 0])


@each_batched
@each_solver
@each_tol
def test_a_sample_alone_is_the_sample_in_a_batch(solver, make, tol, device) -> None:
    problem = make(torch.float64, device)
    start = problem.start
    together = solve(problem, start, solver, max_steps=12, tol=tol)

    def third(z: State) -> State:
        pairs = zip(tensors(start), tensors(z), strict=True)
        return rows(problem(like(z, tuple(torch.cat([s[:2], p]) for s, p in pairs))), slice(2, 3))

    single = solve(third, rows(start, slice(2, 3)), solver, max_steps=12, tol=tol)
    for alone, part in zip(tensors(single.z), tensors(rows(together.z, slice(2, 3))), strict=True):
        torch.testing.assert_close(alone, part, rtol=1e-6, atol=1e-9)
    assert single.steps.tolist() == together.steps[2:].tolist()
    assert single.converged.tolist() == together.converged[2:].tolist()


DEGENERATE = {
    "constant": lambda z: torch.ones_like(z),
    "zero": lambda z: 0 * z,
    "identity": lambda z: z.clone(),
    "translation": lambda z: z + 1,
    "reflection": lambda z: 1 - z,
    "halving": lambda z: 0.5 * z + 0.5,
    "wall": lambda z: (z + 1).clamp(max=3),
    "stairs": lambda z: torch.floor(0.5 * z) + 1,
    "switch": lambda z: torch.where(z > 0.5, torch.zeros_like(z), torch.ones_like(z)),
    "shrinking": lambda z: 1e-4 * z,
}


@each_solver
@each_tol
def test_degenerate_runs_stay_finite(solver, dtype, tol, device) -> None:
    """Starting at the fixed point, hitting it exactly, repeating states and residuals, or none."""
    z0 = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, -3.0]], dtype=dtype, device=device)
    for f in DEGENERATE.values():
        solution = solve(f, z0, solver, max_steps=30, tol=tol, record=True)
        assert solution.errors.isfinite().all()
        assert all(z.isfinite().all() for z in solution.trajectory)


@each_dtype
@each_solver
def test_an_exact_fixed_point_is_never_left(solver, dtype, device) -> None:
    z0 = torch.ones(2, 3, dtype=dtype, device=device)
    states = path(DEGENERATE["halving"], z0, solver, 30)
    assert torch.equal(states, torch.ones_like(states))


@each_solver
def test_a_fixed_budget_never_waits_for_the_device(solver) -> None:
    """Fake tensors have no numbers: whoever looks at one fails."""
    with FakeTensorMode():
        solution = solve(torch.cos, torch.zeros(2, 3), solver, max_steps=8, record=True, best=True)
    assert solution.nfe == 8


@each_solver
def test_unrolled_gradients_are_those_of_finite_differences(solver) -> None:
    def run(weight: Tensor, solution: Tensor, z0: Tensor) -> Tensor:
        return solve(Tanh(weight, solution), z0, solver, max_steps=4).z

    weight = 0.5 * seeded(3, 3, seed=50, dtype=torch.float64)
    solution = torch.tanh(seeded(2, 3, seed=51, dtype=torch.float64))
    z0 = seeded(2, 3, seed=52, dtype=torch.float64)
    assert torch.autograd.gradcheck(run, [v.requires_grad_() for v in (weight, solution, z0)])


@each_dtype
@each_solver
def test_gradients_change_no_number(solver, dtype, device) -> None:
    weight = 0.5 * seeded(3, 3, seed=50, dtype=dtype, device=device)
    problem = Tanh(weight, torch.tanh(seeded(2, 3, seed=51, dtype=dtype, device=device)))
    plain = path(problem, problem.start, solver, 12)
    weight.requires_grad_()
    tracked = path(problem, problem.start, solver, 12)
    assert tracked.requires_grad
    torch.testing.assert_close(tracked, plain, rtol=0.0, atol=1e3 * torch.finfo(dtype).eps)


@each_solver
def test_gradients_pass_a_map_that_has_none(solver, device) -> None:
    """A value without a graph meets residuals with one."""
    z0 = torch.zeros(1, 2, dtype=torch.float64, device=device, requires_grad=True)
    one = torch.ones_like(z0)
    assert torch.autograd.gradcheck(lambda z: solve(lambda _: one, z, solver, max_steps=6).z, z0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Picard(damping=0.0), "damping"),
        (lambda: Picard(damping=1.5), "damping"),
        (lambda: Picard(damping=float("nan")), "damping"),
        (lambda: Anderson(window=-1), "window"),
        (lambda: Anderson(mixing=0.0), "mixing"),
        (lambda: Anderson(mixing=2.0), "mixing"),
        (lambda: Anderson(ridge=-1e-9), "ridge"),
        (lambda: Anderson(ridge=float("nan")), "ridge"),
        (lambda: Broyden(memory=0), "memory"),
        (lambda: Euler(size=0.0), "size"),
        (lambda: RK4(size=-1.0), "size"),
        (lambda: RK4(size=float("nan")), "size"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(build, message) -> None:
    with pytest.raises(ValueError, match=f"`{message}`.*got"):
        build()


@each_solver
def test_solvers_are_values(solver) -> None:
    assert replace(solver) == solver
    assert hash(replace(solver)) == hash(solver)
    for name in vars(solver):
        with pytest.raises(FrozenInstanceError):
            setattr(solver, name, 1)
