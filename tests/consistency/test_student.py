"""The student: equations (5), (7) and (8), and what it is before any training."""

from copy import deepcopy

import pytest
import torch
from problems import (
    Counted,
    Mixing,
    Taught,
    each_dtype,
    each_teacher,
    image_teacher,
    pair_teacher,
    seeded,
    vector_teacher,
)
from torch import Tensor, nn

from cdeq import (
    Anderson,
    Boundary,
    ConsistencyDEQ,
    ExponentialSchedule,
    LinearReadout,
    MLPReadout,
    TimeSpan,
    refine,
    solve,
)
from cdeq.core.solvers.weights import two_point_weight
from cdeq.core.state import Layout, like, tensors
from cdeq.typing import State

EPS = torch.tensor(TimeSpan().eps)
END = torch.tensor(TimeSpan().end)
EARLY = torch.tensor(0.3)


def close(a: State, b: State, **tolerance: float) -> None:
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y, **tolerance)


def equal(a: State, b: State) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def noisy(state: State, seed: int) -> State:
    return like(
        state,
        tuple(
            seeded(*part.shape, seed=seed + i, dtype=part.dtype, device=part.device)
            for i, part in enumerate(tensors(state))
        ),
    )


def trained(student: ConsistencyDEQ) -> ConsistencyDEQ:
    """As if trained: every parameter moved."""
    for i, parameter in enumerate(student.parameters()):
        step = seeded(*parameter.shape, seed=200 + i, dtype=parameter.dtype)
        parameter.data += 0.1 * step.to(parameter.device)
    return student


@each_teacher
@pytest.mark.parametrize("mixing", (1.0, 0.7))
def test_a_fresh_student_that_is_all_network_is_anderson_with_window_1(
    make, mixing, device
) -> None:
    """On every state, over several steps: t = ε everywhere makes c_out = 1."""
    taught = make(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught, mixing=mixing)
    anderson = solve(
        taught.f,
        taught.start,
        Anderson(window=1, mixing=mixing),
        max_steps=6,
        record=True,
        batched=student.batched,
    )
    ours = refine(student, taught.x, taught.start, EPS.expand(6))
    for z, expected in zip(ours, anderson.trajectory[1:], strict=True):
        close(z, expected, rtol=1e-6, atol=1e-8)


@each_teacher
def test_without_acceleration_it_is_composition(make, device) -> None:
    taught = make(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught, accelerate=False)
    z = taught.start
    for ours in refine(student, taught.x, taught.start, EPS.expand(4)):
        z = taught.f(z)
        assert equal(ours, z)


@each_teacher
@pytest.mark.parametrize("accelerate", (True, False))
def test_at_the_end_of_time_it_is_the_identity(make, accelerate, dtype, device) -> None:
    taught = make(dtype, device)
    student = trained(ConsistencyDEQ.from_teacher(taught, accelerate=accelerate))
    z, before = noisy(taught.start, 210), noisy(taught.start, 220)
    _, history = student(before, EARLY, taught.x)
    for previous in (None, history):
        close(student(z, END, taught.x, previous)[0], z)


@each_teacher
@pytest.mark.parametrize("t", (0.002, 0.2, 0.77))
@pytest.mark.parametrize("mixing", (1.0, 0.6))
def test_it_is_equations_5_and_7_written_out(make, t, mixing, device) -> None:
    taught = make(torch.float64, device)
    boundary = Boundary(power=1.5)
    student = trained(ConsistencyDEQ.from_teacher(taught, boundary=boundary, mixing=mixing))
    layout = Layout.of(taught.start, batched=student.batched)
    now, then = torch.tensor(t, dtype=torch.float64), torch.tensor(t / 2, dtype=torch.float64)
    states = [noisy(taught.start, 230), noisy(taught.start, 240)]
    h = [
        student.readout(student.cell(z, taught.x), s)
        for z, s in zip(states, (then, now), strict=True)
    ]
    z0, z1, h0, h1 = (layout.pack(part) for part in (*states, *h))
    r0, r1 = h0 - z0, h1 - z1
    alpha = torch.stack(
        [r @ (r - s) / (r - s).square().sum() for r, s in zip(r0, r1, strict=True)]
    )
    p0, p1 = (mixing * a + (1 - mixing) * b for a, b in ((h0, z0), (h1, z1)))
    p = alpha[:, None] * p1 + (1 - alpha[:, None]) * p0
    skip = ((t - 2e-3) / (1 - 2e-3)) ** 1.5
    _, history = student(states[0], then, taught.x)
    ours, memory = student(states[1], now, taught.x, history)
    close(layout.pack(ours), skip * z1 + (1 - skip) * p)
    assert equal(history.z, states[0]) and equal(memory.z, states[1])
    close(history.h, h[0])
    close(memory.h, h[1])
    close(student.estimate(states[1], now, taught.x), h[1])


@each_dtype
@each_teacher
def test_a_repeated_history_is_no_history(make, dtype, device) -> None:
    taught = make(dtype, device)
    student = trained(ConsistencyDEQ.from_teacher(taught))
    z = noisy(taught.start, 250)
    alone, history = student(z, EARLY, taught.x)
    assert equal(student(z, EARLY, taught.x, history)[0], alone)


def test_one_time_for_all_is_the_same_time_for_each(device) -> None:
    for make in (vector_teacher, image_teacher, pair_teacher):
        taught = make(torch.float64, device)
        student = trained(ConsistencyDEQ.from_teacher(taught))
        samples = tensors(taught.start)[0].shape[0]
        z, _ = student(noisy(taught.start, 260), EARLY, taught.x)
        each, _ = student(noisy(taught.start, 260), EARLY.expand(samples), taught.x)
        close(z, each)


def test_each_sample_has_its_own_time_and_weight(device) -> None:
    taught = image_teacher(torch.float64, device)
    student = trained(ConsistencyDEQ.from_teacher(taught))
    times = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64, device=device)
    before, z = noisy(taught.start, 270), noisy(taught.start, 280)
    _, history = student(before, times / 2, taught.x)
    together, _ = student(z, times, taught.x, history)
    for i in range(3):
        one = slice(i, i + 1)
        _, own = student(before[one], times[i] / 2, taught.x[one])
        close(together[one], student(z[one], times[i], taught.x[one], own)[0])


def test_a_mate_that_is_not_finite_changes_nothing(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = trained(ConsistencyDEQ.from_teacher(taught))
    clean = list(refine(student, taught.x, taught.start, ExponentialSchedule().times(4)))
    for poison in (torch.nan, torch.inf):
        start = taught.start.clone()
        start[1] = poison
        spoilt = list(refine(student, taught.x, start, ExponentialSchedule().times(4)))
        for ours, theirs in zip(spoilt, clean, strict=True):
            assert torch.equal(ours[[0, 2]], theirs[[0, 2]])
            assert ours[1].isnan().any()


@each_teacher
def test_from_teacher_copies_and_leaves_alone(make, dtype, device) -> None:
    taught = make(dtype, device)
    before = deepcopy(taught.deq.cell.state_dict())
    student = ConsistencyDEQ.from_teacher(taught)
    assert {p.dtype for p in student.parameters()} == {dtype}
    assert {p.device.type for p in student.parameters()} == {device.type}
    trained(student)
    assert all(torch.equal(v, before[k]) for k, v in taught.deq.cell.state_dict().items())
    assert all(p.requires_grad for p in student.parameters())


def test_a_frozen_body_trains_its_readout_alone(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught, train_cell=False)
    student(taught.start, EARLY, taught.x)[0].sum().backward()
    assert all(p.grad is None for p in student.cell.parameters())
    assert all(p.grad.abs().sum() > 0 for p in student.readout.parameters())
    assert all(p.requires_grad for p in taught.deq.cell.parameters())


def test_another_readout_takes_its_place(device) -> None:
    taught = vector_teacher(torch.float64, device)
    readout = MLPReadout([5], axis=-1).double().to(device)
    student = ConsistencyDEQ.from_teacher(taught, readout=readout)
    assert student.readout is readout
    expected = readout(taught.f(taught.start), EARLY)
    close(student.estimate(taught.start, EARLY, taught.x), expected)


def test_detached_weights_change_gradients_and_no_number(device) -> None:
    taught = vector_teacher(torch.float64, device)
    values, slopes = [], []
    for detach in (False, True):
        student = trained(ConsistencyDEQ.from_teacher(taught, detach_weights=detach))
        *_, z = refine(student, taught.x, taught.start, ExponentialSchedule().times(3))
        values.append(z.detach())
        slopes.append(torch.autograd.grad(z.square().sum(), student.cell.mix.weight)[0])
    assert torch.equal(*values)
    assert not torch.allclose(*slopes)


def test_gradients_are_those_of_finite_differences() -> None:
    """Through the weights α and through the history as well."""
    taught = vector_teacher(torch.float64)
    student = ConsistencyDEQ.from_teacher(taught)
    z0, z1 = noisy(taught.start, 290), noisy(taught.start, 291)

    def run(shift: Tensor, scale: Tensor) -> Tensor:
        _, history = student(z0, EARLY / 2, taught.x + shift)
        return student(scale * z1, EARLY, taught.x + shift, history)[0]

    shift = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, [shift, scale])


def test_detached_weights_are_constants(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught, detach_weights=True)
    z0, z1 = noisy(taught.start, 290), noisy(taught.start, 291)
    shift = torch.zeros_like(z0, requires_grad=True)
    _, history = student(z0, EPS, taught.x + shift)
    g, _ = student(z1, EPS, taught.x + shift, history)
    slope = torch.autograd.grad(g.sum(), shift)[0]
    h0, h1 = (student.cell(z, taught.x + shift) for z in (z0, z1))
    alpha = two_point_weight(h1 - z1, h0 - z0).detach().unsqueeze(1)
    mixed = alpha * h1 + (1 - alpha) * h0
    close(g, mixed)
    close(slope, torch.autograd.grad(mixed.sum(), shift)[0])


def test_times_may_be_counted_on_the_host() -> None:
    """Schedules count there, wherever the student is."""
    with torch.device("meta"):
        student = ConsistencyDEQ(Mixing(5), LinearReadout([5], axis=-1))
        x = torch.zeros(3, 5)
    for times in (ExponentialSchedule().times(3), torch.rand(3, 3)):
        *_, z = refine(student, x, x, times)
        assert z.device.type == "meta"


def test_mixed_precision_keeps_the_states_dtype(device) -> None:
    class Widening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(5, 5)

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return torch.tanh(self.mix(z) + x).to(z.dtype)

    student = ConsistencyDEQ(Widening(), LinearReadout([5], axis=-1)).to(device)
    x = seeded(3, 5, seed=295, dtype=torch.float32, device=device)
    *_, plain = refine(student, x, torch.zeros_like(x), ExponentialSchedule().times(3))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        *_, z = refine(student, x, torch.zeros_like(x), ExponentialSchedule().times(3))
    assert z.dtype == torch.float32
    close(z, plain, rtol=0.05, atol=0.05)


def test_a_cell_that_changes_the_form_is_refused() -> None:
    class Narrow(nn.Module):
        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return z[:, :3]

    student = ConsistencyDEQ(Narrow(), LinearReadout([3], axis=-1))
    with pytest.raises(ValueError, match=r"expected \[\(2, 5\)\], got \[\(2, 3\)\]"):
        student(torch.zeros(2, 5), EARLY, None)
    with pytest.raises(ValueError, match="`mixing`"):
        ConsistencyDEQ(Narrow(), LinearReadout([3], axis=-1), mixing=0.0)


def test_a_step_costs_one_evaluation_with_and_without_history(device, monkeypatch) -> None:
    taught: Taught = vector_teacher(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught)
    counted = Counted(student.cell.forward)
    monkeypatch.setattr(student.cell, "forward", counted)
    _, history = student(taught.start, EARLY, taught.x)
    student(taught.start, EARLY, taught.x, history)
    assert counted.calls == 2
