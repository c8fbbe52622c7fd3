"""Anderson acceleration: its optimality, its memory, its cost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from problems import (
    BATCHED,
    Linear,
    Problem,
    contraction,
    each_dtype,
    each_problem,
    rotation,
    seeded,
    stiff,
    tanh,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cdeq import DEQ, Anderson, Implicit, Picard, solve
from cdeq.core.solvers import AndersonState
from cdeq.core.state import Layout, tensors
from cdeq.typing import Flat


def states(problem: Problem, solver: Anderson | Picard, steps: int) -> Tensor:
    run = solve(problem, problem.start, solver, max_steps=steps, record=True)
    layout = Layout.of(problem.start)
    return torch.stack([layout.pack(z) for z in run.trajectory])


def textbook(problem: Problem, z: Tensor, steps: int, window: int, mixing: float) -> Tensor:
    """One sample at a time, by least squares on differences (Walker & Ni, Eq. 2.1 and on)."""
    points, residuals = [z], [problem(z) - z]
    for _ in range(steps):
        d_points = [points[-1] - old for old in points[-1 - window : -1]]
        d_residuals = [residuals[-1] - old for old in residuals[-1 - window : -1]]
        z = points[-1] + mixing * residuals[-1]
        if d_points:
            base = torch.stack(d_residuals, dim=2)
            gamma = torch.linalg.lstsq(base, residuals[-1].unsqueeze(2)).solution
            z = z - ((torch.stack(d_points, dim=2) + mixing * base) @ gamma).squeeze(2)
        points.append(z)
        residuals.append(problem(z) - z)
    return torch.stack(points)


@pytest.mark.parametrize("window", (1, 2, 5))
@pytest.mark.parametrize("mixing", (1.0, 0.6))
@pytest.mark.parametrize("make", (contraction, rotation, tanh))
def test_it_is_the_textbook_method(make, window, mixing, device) -> None:
    """Until one of the routes has converged and only rounding is left."""
    problem = make(torch.float64, device)
    steps = 2 if make is rotation else 4
    ours = states(problem, Anderson(window=window, mixing=mixing), steps)
    theirs = textbook(problem, problem.start, steps, window, mixing)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@each_dtype
@pytest.mark.parametrize("make", BATCHED[:5])
@pytest.mark.parametrize("mixing", (1.0, 0.4))
def test_an_empty_window_is_picard(make, mixing, dtype, device) -> None:
    problem = make(dtype, device)
    ours = states(problem, Anderson(window=0, mixing=mixing), 15)
    assert torch.equal(ours, states(problem, Picard(damping=mixing), 15))


@pytest.mark.parametrize(
    ("make", "accuracy"), [(contraction, 1e-7), (rotation, 1e-14), (stiff, 1e-3)]
)
@pytest.mark.parametrize("more", (0, 3))
def test_a_linear_problem_of_dimension_d_takes_d_plus_one_steps(
    make, accuracy, more, device
) -> None:
    """As far as a Gram matrix resolves the last direction; one step later that is gone too."""
    problem = make(torch.float64, device)
    d = problem.start.shape[1]
    z = states(problem, Anderson(window=d + more), d + 2)
    assert problem.miss(z[d + 1]).max() < accuracy
    assert problem.miss(z[d + 2]).max() < 1e-13


def test_a_rotation_that_picard_cannot_solve(device) -> None:
    problem = rotation(torch.float64, device)
    assert problem.miss(states(problem, Picard(), 3)[-1]).min() > 1.0
    assert problem.miss(states(problem, Anderson(window=2), 3)[-1]).max() < 1e-14


def run_steps(f, z: Flat, solver: Anderson, steps: int) -> tuple[list[Tensor], AndersonState]:
    """The residuals f(z_k) - z_k seen on the way, and the memory after the last step."""
    state, residuals = solver.init(z), []
    for _ in range(steps):
        step = solver.step(f, z, state)
        residuals.append(step.residual.clone())
        z, state = step.z, step.state
    return residuals, state


@each_dtype
@pytest.mark.parametrize("steps", (1, 2, 3, 4, 5, 9))
def test_the_incremental_gram_is_that_of_the_last_residuals(dtype, steps, device) -> None:
    problem = tanh(dtype, device)
    residuals, state = run_steps(problem, problem.start, Anderson(window=2), steps)
    slots = [k % 3 for k in range(steps)][-3:]
    last = torch.stack(residuals[-3:], dim=1)
    kept = state.residuals[:, slots]
    gram = state.gram[:, slots][:, :, slots]
    assert state.k == steps
    assert torch.equal(kept, last)
    torch.testing.assert_close(gram, last.double() @ last.double().mT, rtol=1e-5, atol=1e-13)
    assert torch.equal(gram, gram.mT)


@pytest.mark.parametrize("window", (0, 1, 4))
def test_a_step_costs_one_row_of_products_and_one_mix(window) -> None:
    b, d = 3, 7
    solver, z = Anderson(window=window), torch.zeros(b, d)
    state = solver.init(z)
    for k in range(8):
        with FlopCounterMode(display=False) as counter:
            step = solver.step(torch.cos, z, state)
        rows = min(k, window) + 1
        assert counter.get_total_flops() == 2 * b * d * rows + 2 * b * d * rows
        z, state = step.z, step.state


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_half_precision_is_multiplied_and_kept_in_single(dtype, device) -> None:
    problem = contraction(dtype, device)
    residuals, state = run_steps(problem, problem.start, Anderson(window=3), 4)
    assert {state.residuals.dtype, state.images.dtype} == {torch.float32}
    rows = torch.stack(residuals, dim=1).double()
    torch.testing.assert_close(state.gram.double(), rows @ rows.mT, rtol=1e-6, atol=1e-9)


@each_dtype
def test_residuals_that_shrink_by_many_decades_in_one_window(dtype, device) -> None:
    """A nilpotent map: each residual is a thousandth of the one before."""
    matrix = torch.diag(torch.full((4,), 1e-3, dtype=dtype, device=device), 1)
    problem = Linear(matrix, seeded(2, 5, seed=60, dtype=dtype, device=device))
    errors = solve(problem, problem.start, Anderson(window=5), max_steps=6).errors
    assert (errors[1:] < 0.01 * errors[:-1].clamp_min(100 * torch.finfo(dtype).eps)).all()


def test_a_ridge_never_stops_convergence(device) -> None:
    problem = contraction(torch.float64, device)
    plain, ridged = (states(problem, Anderson(ridge=r), 40) for r in (0.0, 1e-2))
    assert problem.miss(ridged[-1]).max() < 1e-9
    assert not torch.allclose(plain[3], ridged[3])


def test_products_that_overflow_leave_picard_steps_and_their_gradients(device) -> None:
    """Residuals of 1e25 are numbers in float32, their squares are not."""
    scale = torch.tensor(0.5, device=device, requires_grad=True)
    z = solve(lambda z: scale * z + 1e25, torch.zeros(1, 2, device=device), max_steps=3).z
    slope = torch.autograd.grad(z.sum(), scale)[0]
    torch.testing.assert_close(z / 1e25, torch.full_like(z, 1.75))
    torch.testing.assert_close(slope.item() / 1e25, 2 * 2.0)


def test_gradients_stay_finite_where_a_sample_has_converged_exactly(device) -> None:
    """Sample 0 starts at its fixed point: its Gram matrix is zero, its six steps are Picard's."""
    z0 = torch.tensor([[1.0, 1.0], [0.0, 3.0]], device=device)
    scale = torch.tensor(0.5, device=device, requires_grad=True)
    z = solve(lambda z: scale * z + 0.5, z0, Anderson(window=2), max_steps=6).z
    z.sum().backward()
    expected = 2 * sum(0.5**i for i in range(6)) + 2 * 2.0
    torch.testing.assert_close(scale.grad.item(), expected, rtol=1e-4, atol=0.0)


# Memory that nothing was written to yet


@contextmanager
def garbage() -> Iterator[None]:
    """Memory that is not initialised holds NaN, as torch fills it where it has to be exact."""
    torch.use_deterministic_algorithms(True)
    try:
        assert bool(torch.ones(3).new_empty(3).isnan().all())
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def both(run: Callable[[], tuple[Tensor, ...]]) -> None:
    """The same bits whatever the memory held before, and numbers all of them."""
    clean = run()
    with garbage():
        spoilt = run()
    for one, other in zip(clean, spoilt, strict=True):
        assert torch.equal(one, other)
        assert bool(other.isfinite().all())


@each_problem
@pytest.mark.parametrize("window", (0, 1, 5))
def test_no_row_is_read_before_it_is_written(make, window: int, device) -> None:
    """In a window that is not full yet, just full, and written over twice."""
    problem = make(torch.float64, device)
    solver = Anderson(window=window, mixing=0.9)

    def run() -> tuple[Tensor, ...]:
        found = solve(
            problem, problem.start, solver, max_steps=8, record=True, batched=problem.batched
        )
        return (*(part for z in found.trajectory for part in tensors(z)), found.errors)

    both(run)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32), ids=str)
def test_nor_in_any_other_precision(dtype: torch.dtype, device) -> None:
    problem = contraction(dtype, device)
    both(lambda: tuple(states(problem, Anderson(window=3), 7)))


@pytest.mark.parametrize("window", (0, 2, 5))
@pytest.mark.parametrize("steps", (1, 2, 7))
def test_no_gradient_comes_from_it(window: int, steps: int, device) -> None:
    """Of a solve that is unrolled, whose window autograd keeps in copies."""
    problem = tanh(torch.float64, device)

    def run() -> tuple[Tensor, ...]:
        weight, start = (part.clone().requires_grad_() for part in (problem.weight, problem.start))
        learned = replace(problem, weight=weight)
        z = solve(learned, start, Anderson(window=window), max_steps=steps).z
        z.square().sum().backward()
        return z.detach(), weight.grad, start.grad

    both(run)


def test_nor_in_the_backward_solve(device) -> None:
    problem = tanh(torch.float64, device)

    class Layer(torch.nn.Linear):
        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return torch.tanh(super().forward(z) + x)

    def run() -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        layer = Layer(6, 6).double().to(device)
        deq = DEQ(layer, solver=Anderson(), adjoint=Implicit(max_steps=6), max_steps=6)
        z = deq(problem.solution, problem.start).z
        z.square().sum().backward()
        return z.detach(), *(parameter.grad for parameter in layer.parameters())

    both(run)


def test_a_switch_from_untracked_to_tracked_steps_keeps_to_what_was_written(device) -> None:
    """A window that is written in place first and copied afterwards."""
    problem = contraction(torch.float64, device)

    def run() -> tuple[Tensor, ...]:
        solver, z = Anderson(window=4), problem.start
        state = solver.init(z)
        with torch.no_grad():
            for _ in range(2):
                step = solver.step(problem, z, state)
                z, state = step.z, step.state
        scale = torch.ones((), dtype=torch.float64, device=device, requires_grad=True)
        step = solver.step(lambda z: scale * problem(z), z, state)
        step.z.sum().backward()
        return step.z.detach(), scale.grad

    both(run)
