"""Gradients at the equilibrium: independent routes to the same numbers, at the promised price."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from problems import Counted, Linear, contraction, coupled, jacobians, propagation, seeded, tanh
from torch import Tensor, nn

from cdeq import (
    DEQ,
    Adjoint,
    Anderson,
    Broyden,
    Implicit,
    JacobianFree,
    Phantom,
    Picard,
    Solution,
    Status,
    solve,
)
from cdeq.core.state import Layout, detach, tensors
from cdeq.typing import State

BACKWARD = {"picard": Picard(), "anderson": Anderson(), "broyden": Broyden()}
each_backward = pytest.mark.parametrize("solver", BACKWARD.values(), ids=list(BACKWARD))


class Metered(torch.autograd.Function):
    """The identity that counts how often a gradient passes."""

    @staticmethod
    def forward(ctx, z: Tensor, passes: list[int]) -> Tensor:
        ctx.passes = passes
        return z.view_as(z)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        ctx.passes[0] += 1
        return grad, None


def trainable(problem: Linear) -> Linear:
    return Linear(problem.matrix.clone().requires_grad_(), problem.offset.clone().requires_grad_())


def gradients(adjoint: Adjoint, problem: Linear, z: Tensor, loss: Tensor) -> list[Tensor]:
    """Of ⟨loss, z⟩ with respect to A and b."""
    problem = trainable(problem)
    (adjoint.attach(problem, z) * loss).sum().backward()
    return [problem.matrix.grad, problem.offset.grad]


@pytest.fixture
def linear(device) -> Linear:
    return contraction(torch.float64, device)


@pytest.fixture
def cotangent(linear) -> Tensor:
    return seeded(*linear.offset.shape, seed=90, dtype=torch.float64, device=linear.offset.device)


@each_backward
def test_the_implicit_gradient_is_the_closed_form_and_the_long_unrolled_one(
    solver, linear, cotangent
) -> None:
    adjoint = Implicit(solver=solver, max_steps=150, tol=1e-12)
    z = linear.solution
    implicit = gradients(adjoint, linear, z, cotangent)
    eye = torch.eye(len(linear.matrix)).to(z)
    u = torch.linalg.solve(eye - linear.matrix.T, cotangent.T).T
    unrolled = trainable(linear)
    (solve(unrolled, linear.start, Picard(), max_steps=200).z * cotangent).sum().backward()
    closed = [u.T @ z, u]
    for ours, exact, long in zip(
        implicit, closed, (unrolled.matrix.grad, unrolled.offset.grad), strict=True
    ):
        torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(long, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("budget", (1, 2, 5))
def test_picard_sums_one_neumann_term_more_than_its_budget(budget, linear, cotangent) -> None:
    adjoint = Implicit(solver=Picard(), max_steps=budget, tol=None)
    _, offset = gradients(adjoint, linear, linear.solution, cotangent)
    powers = [torch.linalg.matrix_power(linear.matrix, i) for i in range(budget + 1)]
    torch.testing.assert_close(offset, cotangent @ sum(powers))


@each_backward
@pytest.mark.parametrize("budget", (1, 3, 10))
def test_the_backward_budget_is_spent_to_the_last_product(
    solver, budget, linear, cotangent
) -> None:
    """One more pass than products: it carries the answer on into the parameters."""
    passes, seen = [0], []
    adjoint = Implicit(solver=solver, max_steps=budget, tol=None, on_backward=seen.append)
    offset = linear.offset.clone().requires_grad_()
    f = Counted(lambda z: Metered.apply(z, passes) @ linear.matrix.T + offset)
    z = adjoint.attach(f, linear.solution)
    assert (f.calls, passes) == (1, [0])
    z.backward(cotangent)
    assert (f.calls, passes) == (1, [budget + 1])
    (solution,) = seen
    assert isinstance(solution, Solution)
    assert solution.nfe == budget
    assert torch.equal(solution.z, offset.grad)


@pytest.mark.parametrize("make", (tanh, coupled))
def test_a_backward_tolerance_stops_early_and_is_kept(make, device) -> None:
    problem, seen = make(torch.float64, device), []
    adjoint = Implicit(max_steps=100, tol=1e-9, on_backward=seen.append)
    shift = torch.zeros((), dtype=torch.float64, device=device, requires_grad=True)
    z = adjoint.attach(lambda z: _shifted(problem, shift, z), problem.solution)
    sum(part.sum() for part in tensors(z)).backward()
    assert seen[0].status is Status.CONVERGED
    assert 1 < seen[0].nfe < 40


def _shifted(problem, shift: Tensor, z: State) -> State:
    value = problem(z)
    return tuple(part + shift for part in value) if isinstance(value, tuple) else value + shift


@pytest.mark.parametrize("make", (tanh, coupled, propagation))
def test_every_form_of_state_has_the_gradient_of_its_dense_jacobian(make, device) -> None:
    """d z*/d shift = (I - J)⁻¹ 1."""
    problem = make(torch.float64, device)
    layout = Layout.of(problem.solution, batched=problem.batched)
    shift = torch.zeros((), dtype=torch.float64, device=device, requires_grad=True)
    z = Implicit(tol=1e-12, max_steps=80).attach(
        lambda z: _shifted(problem, shift, z), problem.solution, batched=problem.batched
    )
    sum(part.sum() for part in tensors(z)).backward()
    dense = jacobians(problem, problem.solution, batched=problem.batched)
    eye = torch.eye(dense.shape[1]).to(dense)
    exact = torch.linalg.solve(eye - dense, torch.ones_like(dense[:, :, :1])).sum()
    torch.testing.assert_close(shift.grad, exact, rtol=1e-8, atol=0.0)
    for part, value in zip(tensors(z), tensors(problem(problem.solution)), strict=True):
        assert torch.equal(part, value)
    assert layout.pack(z).requires_grad


@each_backward
def test_the_whole_layer_passes_gradcheck(solver) -> None:
    class Layer(nn.Module):
        def forward(self, z: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
            weight, shift = x
            return torch.tanh(z @ weight.T + shift)

    adjoint = Implicit(solver=solver, max_steps=60, tol=1e-13)
    layer = DEQ(Layer(), adjoint=adjoint, max_steps=60, tol=1e-13)
    weight = 0.4 * seeded(3, 3, seed=91, dtype=torch.float64)
    shift = seeded(2, 3, seed=92, dtype=torch.float64)
    start = torch.zeros(2, 3, dtype=torch.float64)
    inputs = [weight.requires_grad_(), shift.requires_grad_()]
    assert torch.autograd.gradcheck(lambda w, s: layer((w, s), start).z, inputs)


@each_backward
def test_implicit_gradients_under_mixed_precision(solver, device) -> None:
    x = seeded(3, 4, seed=95, dtype=torch.float32, device=device)
    weight = (0.2 * seeded(4, 4, seed=96, dtype=torch.float32, device=device)).requires_grad_()
    z, slopes = torch.zeros_like(x), []
    for enabled in (False, True):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            adjoint = Implicit(solver=solver, tol=None, max_steps=20)
            attached = adjoint.attach(lambda z: (torch.tanh(z) + x) @ weight, z)
        slopes.append(torch.autograd.grad(attached.sum(), weight)[0])
    assert slopes[1].dtype == torch.float32
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0.05, atol=0.05)


def test_jacobian_free_is_one_undamped_phantom_step(linear, cotangent) -> None:
    free = gradients(JacobianFree(), linear, linear.start + 1, cotangent)
    phantom = gradients(Phantom(steps=1, damping=1.0), linear, linear.start + 1, cotangent)
    assert all(map(torch.equal, free, phantom))
    torch.testing.assert_close(free[1], cotangent)


@pytest.mark.parametrize(("steps", "damping"), [(1, 0.5), (3, 0.5), (5, 0.8), (4, 1.0)])
def test_phantom_is_a_truncated_damped_series(steps, damping, linear, cotangent) -> None:
    _, offset = gradients(
        Phantom(steps=steps, damping=damping), linear, linear.solution, cotangent
    )
    step = (1 - damping) * torch.eye(5).to(linear.matrix) + damping * linear.matrix
    series = damping * sum(torch.linalg.matrix_power(step, i) for i in range(steps))
    torch.testing.assert_close(offset, cotangent @ series)


@pytest.mark.parametrize("steps", (1, 4))
def test_an_adjoint_costs_what_it_says(steps, linear) -> None:
    for adjoint, price in ((Implicit(), 1), (JacobianFree(), 1), (Phantom(steps=steps), steps)):
        f = Counted(trainable(linear))
        adjoint.attach(f, linear.start)
        assert f.calls == price


@pytest.mark.parametrize("adjoint", (Implicit(), JacobianFree(), Phantom()), ids=str)
def test_no_gradient_flows_into_the_solvers_answer(adjoint, device) -> None:
    problem = coupled(torch.float64, device)
    shift = torch.zeros((), dtype=torch.float64, device=device, requires_grad=True)
    z = tuple(part.clone().requires_grad_() for part in problem.solution)
    attached = adjoint.attach(lambda z: _shifted(problem, shift, z), z)
    sum(part.sum() for part in attached).backward()
    assert shift.grad > 0
    assert [part.grad for part in z] == [None, None]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the garbage collector."""
    gc.disable()
    yield
    gc.enable()


class Box:
    """Something autograd keeps for a backward pass, made visible."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("adjoint", (Implicit(), JacobianFree(), Phantom()), ids=str)
@pytest.mark.parametrize("backward", (True, False))
def test_nothing_outlives_its_use(adjoint, backward, linear, uncollected) -> None:
    """Freed by counting references, without waiting for the collector; also if never used."""
    kept: list[weakref.ref[Box]] = []

    def pack(tensor: Tensor) -> Box:
        box = Box(tensor.detach())
        kept.append(weakref.ref(box))
        return box

    problem = trainable(linear)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        z = adjoint.attach(lambda z: torch.tanh(problem(z)), linear.start)
    assert any(box() is not None for box in kept)
    if backward:
        z.sum().backward()
    else:
        del z
    assert [box() for box in kept if box() is not None] == []


def test_a_second_backward_needs_the_graph_to_be_kept(linear) -> None:
    problem = trainable(linear)
    z = Implicit().attach(lambda z: torch.tanh(problem(z)), linear.start)
    z.sum().backward(retain_graph=True)
    first = problem.offset.grad.clone()
    z.sum().backward()
    torch.testing.assert_close(problem.offset.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        z.sum().backward()


def test_misuse_is_refused_before_anything_is_solved(device) -> None:
    for max_steps in (0, True):
        with pytest.raises(ValueError, match="`max_steps`"):
            Implicit(max_steps=max_steps)
    with pytest.raises(ValueError, match="`steps`"):
        Phantom(steps=0)
    with pytest.raises(ValueError, match="`damping`"):
        Phantom(damping=0.0)
    with pytest.raises(ValueError, match="resolves down to"):
        Implicit(tol=1e-9).attach(torch.cos, torch.zeros(1, 1, device=device))
    with pytest.raises(ValueError, match="shape it was given"):
        Implicit().attach(lambda z: z[:, :1], torch.zeros(2, 3, device=device))


def test_a_backward_that_diverges_is_reported_not_raised(device) -> None:
    seen: list[Solution] = []
    scale = torch.tensor(3.0, device=device, requires_grad=True)
    z = Implicit(solver=Picard(), max_steps=200, on_backward=seen.append).attach(
        lambda z: scale * z + 1, torch.full((1, 1), -0.5, device=device)
    )
    z.sum().backward()
    assert seen[0].status is Status.NONFINITE


def test_detach_leaves_the_numbers(device) -> None:
    problem = coupled(torch.float64, device)
    state = tuple(part.clone().requires_grad_() for part in problem.solution)
    assert all(map(torch.equal, detach(state), state))
