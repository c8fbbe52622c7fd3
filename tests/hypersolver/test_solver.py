"""A learned solver: exact at birth, one evaluation a step, and nothing kept but its window."""

import pytest
import torch
from consistency.toys import TIMES, as_model, equal, run
from hypersolver.learners import (
    Guess,
    each_scope,
    each_window,
    learned,
    memories,
)
from problems import Counted, Taught, each_teacher, seeded, vector_teacher
from torch import Tensor, nn

from cdeq import Picard, certify, refine, relative_error, solve
from cdeq.core.state import detach, like, tensors
from cdeq.core.tree import map_tensors
from cdeq.hypersolver.scope import PerPosition, Scope
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.models.function import FunctionModel
from cdeq.typing import Context, State

# What a step is


@each_teacher
@each_scope
@each_window
def test_untrained_it_is_picard_to_the_last_bit(make, scope, window, device) -> None:
    taught = make(torch.float64, device)
    student = HyperDEQ.from_teacher(taught, window=window, scope=scope)
    z = taught.start
    for state in run(student, taught, 6):
        z = taught.f(z)
        assert equal(state, z)


@each_teacher
@each_scope
@each_window
def test_a_step_is_the_weighted_sum_of_relaxed_images(make, scope, window, device) -> None:
    """Per position, from the memory alone."""
    taught = make(torch.float64, device)
    student = learned(taught, window=window, scope=scope)
    form = student.compression
    for k, (z, memory) in enumerate(memories(student, taught, 6)):
        alpha, beta = memory.mixing
        assert alpha.shape == (len(beta), min(k, window) + 1)
        torch.testing.assert_close(alpha.sum(1), torch.ones_like(beta))
        expected = torch.zeros_like(flat(z, form))
        for i, (point, value) in enumerate(zip(*memory[:2], strict=True)):
            relaxed = beta[:, None] * flat(value, form) + (1 - beta[:, None]) * flat(point, form)
            expected += alpha[:, i, None] * relaxed
        torch.testing.assert_close(flat(z, form), expected)


def flat(state: State, form) -> Tensor:
    """One row a unit."""
    last = [part.movedim(form.axis, -1) for part in tensors(state)]
    if isinstance(form.scope, PerPosition):
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in last], dim=1)
    samples = len(last[0]) if form.batched else 1
    return torch.cat([part.reshape(samples, -1) for part in last], dim=1)


@each_teacher
@each_scope
def test_the_memory_tells_the_true_images_and_the_mixed_residual(make, scope, device) -> None:
    taught = make(torch.float64, device)
    student = learned(taught, scope=scope)
    for _, memory in memories(student, taught, 4):
        for point, value in zip(*memory[:2], strict=True):
            assert equal(taught.f(point), value)
        mixed = flat(student.mixed_residual(memory), student.compression)
        parts = [flat(v, student.compression) - flat(z, student.compression)
                 for z, v in zip(*memory[:2], strict=True)]  # fmt: skip
        expected = sum(a[:, None] * r for a, r in zip(memory.mixing.alpha.T, parts, strict=True))
        torch.testing.assert_close(mixed, expected)


@each_teacher
@each_scope
def test_a_fixed_point_stays_one_whatever_was_learned(make, scope, device) -> None:
    taught = make(torch.float64, device)
    batched = taught.deq.batched
    exact = detach(solve(taught.f, taught.start, Picard(), max_steps=400, batched=batched).z)
    student = learned(taught, size=1.0, scope=scope)
    with torch.no_grad():
        *_, z = refine(student, taught.x, exact, TIMES[:9])
    assert float(relative_error(z, exact, batched=batched).max()) < 1e-12


@each_teacher
@each_scope
def test_each_step_costs_one_evaluation(make, scope, device) -> None:
    taught = make(torch.float64, device)
    student = learned(taught, scope=scope, window=2)
    student.cell.forward = counted = Counted(student.cell.forward)
    for steps in range(1, 7):
        counted.calls = 0
        run(student, taught, steps)
        assert counted.calls == steps


@each_teacher
@each_scope
@each_window
def test_memory_does_not_grow_beyond_the_window(make, scope, window, device) -> None:
    taught = make(torch.float64, device)
    sizes: list[int] = []
    for _, memory in memories(learned(taught, window=window, scope=scope), taught, 8):
        held: list[Tensor] = []
        map_tensors(lambda tensor, held=held: held.append(tensor), tuple(memory))
        sizes.append(sum(tensor.numel() for tensor in held))
    assert sizes[: window + 1] == sorted(set(sizes))
    assert set(sizes[window:]) == {sizes[-1]}


def test_a_run_can_be_taken_step_by_step(device) -> None:
    """All that a run needs goes through its memory: two runs may take turns."""
    taught = vector_teacher(torch.float64, device)
    student = learned(taught)
    whole, z2, memory, memory2 = run(student, taught, 5), taught.start + 1, None, None
    z = taught.start
    with torch.no_grad():
        for t, expected in zip(TIMES[:5], whole, strict=True):
            z, memory = student(z, t, taught.x, memory)
            z2, memory2 = student(z2, t, taught.x, memory2)
            assert equal(z, expected)
        *_, alone = refine(student, taught.x, taught.start + 1, TIMES[:5])
    assert equal(z2, alone)


# Where a run begins


def test_the_initializer_takes_the_place_of_z_0(device) -> None:
    taught, guess = vector_teacher(torch.float64, device), Guess()
    student = HyperDEQ.from_teacher(taught, initializer=guess)
    first, second = run(student, taught, 2)
    start = guess(taught.start, taught.x)
    assert torch.equal(first, taught.f(start)) and torch.equal(second, taught.f(first))
    elsewhere = Taught(taught.deq, taught.x, taught.start + 7, taught.features, taught.axis)
    assert all(map(equal, run(student, elsewhere, 2), (first, second)))
    ((_, memory),) = memories(student, taught, 1)
    assert torch.equal(memory.points[0], start)


def test_what_is_learned_goes_where_the_teacher_is(dtype, device) -> None:
    taught = vector_teacher(dtype, device)
    student = HyperDEQ.from_teacher(taught, initializer=Guess())
    assert {(p.dtype, p.device) for p in student.parameters()} == {(dtype, device)}


def test_a_function_without_weights_has_a_place_too(dtype, device) -> None:
    model = FunctionModel(lambda z, x: torch.cos(z) + x, (4,)).to(device, dtype)
    x = torch.rand(3, 4, dtype=dtype, device=device)
    *_, z = refine(HyperDEQ.from_teacher(model), x, model.initial(x), TIMES[:3])
    assert z.dtype == dtype and torch.equal(z, torch.cos(torch.cos(torch.cos(0 * x) + x) + x) + x)


@pytest.mark.parametrize("shape", ((1, 5), (3, 4)))
def test_a_guess_of_another_shape_is_refused(shape: tuple[int, int], device) -> None:
    """It would broadcast otherwise."""
    taught = vector_teacher(torch.float64, device)
    student = HyperDEQ.from_teacher(taught)
    student.initializer = Constant(torch.zeros(shape, dtype=torch.float64, device=device))
    with pytest.raises(ValueError, match=rf"form of z_0, \[\(3, 5\)\].*got \[\({shape[0]}, "):
        run(student, taught, 1)


class Constant(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, z: State, x: Context) -> Tensor:
        return self.value


# What is trained


@each_teacher
@each_scope
def test_gradients_reach_all_that_is_learned_and_nothing_else(make, scope, device) -> None:
    taught = make(torch.float64, device)
    student = learned(taught, scope=scope)
    moved = like(taught.start, tuple(part + 1 for part in tensors(taught.start)))
    *_, z = refine(student, taught.x, moved, TIMES[:4])
    sum(part.square().sum() for part in tensors(z)).backward()
    for name, parameter in student.named_parameters():
        own = not name.startswith("cell.")
        assert parameter.requires_grad == own
        assert (parameter.grad is not None and bool(parameter.grad.abs().max() > 0)) == own


@each_scope
def test_the_gradient_of_a_run_is_right(scope: Scope, device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = learned(taught, scope=scope, window=2)

    def end(start: Tensor) -> Tensor:
        *_, z = refine(student, taught.x[:2], start, TIMES[:4])
        return z

    start = seeded(2, 5, seed=5, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(end, start)


def test_f_is_a_frozen_copy_that_never_trains(device) -> None:
    taught = vector_teacher(torch.float64, device)
    taught.deq.cell.dropout = nn.Dropout(0.5)
    student = learned(taught)
    for mode in (True, False, True):
        assert student.train(mode) is student
        assert student.network.training == mode and not student.cell.dropout.training
    states = run(student, taught, 4)
    taught.deq.cell.mix.weight.data.zero_()
    assert all(map(equal, run(student, taught, 4), states))
    assert all(parameter.requires_grad for parameter in taught.deq.cell.parameters())


def test_mixed_precision_is_for_f_alone(device) -> None:
    taught = vector_teacher(torch.float32, device)
    student = learned(taught)
    with torch.autocast(device.type, torch.bfloat16):
        found = memories(student, taught, 4)
    exact = run(student, taught, 4)
    for (z, memory), wanted in zip(found, exact, strict=True):
        assert z.dtype == torch.float32
        sums = memory.mixing.alpha.sum(1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        torch.testing.assert_close(z, wanted, rtol=0.05, atol=0.05)


# Certified and adaptive


@each_teacher
@each_scope
@pytest.mark.parametrize("size", (0.3, 100.0))
def test_every_answer_is_certified_whatever_was_learned(make, scope, size, device) -> None:
    taught = make(torch.float64, device)
    model, student = as_model(taught), learned(taught, size=size, scope=scope)
    found = certify(model, student, taught.x, tol=1e-8, steps=4)
    assert found.status.name == "CONVERGED" and bool(found.converged.all())
    assert float(found.residual.max()) <= 1e-8


@torch.no_grad()
def test_it_stops_by_itself(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student, batched = learned(taught, size=0.05), taught.deq.batched
    states = list(refine(student, taught.x, taught.start, TIMES[:60], stop=1e-6, batched=batched))
    exact = solve(taught.f, taught.start, Picard(), max_steps=400).z
    assert 3 < len(states) < 60
    assert float(relative_error(states[-1], exact, batched=batched).max()) < 1e-4
