"""The distillation loss: each term alone, by hand, and who gets a gradient."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from problems import Taught, each_teacher, seeded, vector_teacher
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq import (
    Anderson,
    Boundary,
    ConsistencyDEQ,
    DistillationLoss,
    ExponentialSchedule,
    TimeSpan,
    Window,
    solve,
    window,
)
from cdeq.core.state import Layout, like, tensors
from cdeq.typing import Context, State

SCHEDULE = ExponentialSchedule(rate=0.4)


def moved(student: ConsistencyDEQ, seed: int) -> ConsistencyDEQ:
    """A student with other weights."""
    other = deepcopy(student)
    for i, parameter in enumerate(other.parameters()):
        step = seeded(*parameter.shape, seed=seed + i, dtype=parameter.dtype)
        parameter.data += 0.1 * step.to(parameter.device)
    return other


Scene = tuple[ConsistencyDEQ, ConsistencyDEQ, Window, Context]


def scene(
    make: Callable[..., Taught],
    device: torch.device,
    k: int | list[int] = 3,
    accelerate: bool = True,
) -> Scene:
    """A student, its target, a window of the teacher's trajectory, and the context."""
    taught = make(torch.float64, device)
    student = moved(ConsistencyDEQ.from_teacher(taught, accelerate=accelerate), 300)
    run = solve(
        taught.f, taught.start, Anderson(), max_steps=8, record=True, batched=student.batched
    )
    states = tuple(like(z, tuple(part.detach() for part in tensors(z))) for z in run.trajectory)
    return student, moved(student, 400), window(states, SCHEDULE, torch.tensor(k)), taught.x


def squares(z: State) -> Tensor:
    """A task loss of each sample."""
    return tensors(z)[0].flatten(1).square().sum(1)


def estimate(student: ConsistencyDEQ, pairs: Window, at: int, x) -> State:
    """g at a point of the window, with the point before it as its history."""
    _, history = student(pairs.z[at - 1], pairs.t[at - 1], x)
    return student(pairs.z[at], pairs.t[at], x, history if student.accelerate else None)[0]


def mse(a: State, b: State, batched: bool = True) -> Tensor:
    layout = Layout.of(a, batched=batched)
    return (layout.pack(a) - layout.pack(b)).square().mean()


@each_teacher
@pytest.mark.parametrize("accelerate", (True, False))
@pytest.mark.parametrize("reverse", (False, True))
def test_the_terms_are_equations_9_and_10(make, accelerate, reverse, device) -> None:
    student, target, pairs, x = scene(make, device, accelerate=accelerate)
    loss = DistillationLoss(anchor_weight=0.8, task_weight=0.0, reverse_pair=reverse)
    losses = loss(student, target, pairs, x)
    later, goal = estimate(student, pairs, 2, x), estimate(target, pairs, 1, x)
    local = mse(later, goal, student.batched)
    if reverse:
        local = mse(estimate(student, pairs, 1, x), estimate(target, pairs, 2, x), student.batched)
    torch.testing.assert_close(losses.anchor, mse(later, pairs.endpoint, student.batched))
    torch.testing.assert_close(losses.local, local)
    torch.testing.assert_close(losses.total, 0.8 * losses.anchor + 0.2 * losses.local)
    assert losses.task == 0.0


@pytest.mark.parametrize(("anchor", "task"), [(1.0, 0.0), (0.0, 0.0), (0.8, 0.05), (0.0, 2.0)])
def test_weights_isolate_and_combine_the_terms(anchor, task, device) -> None:
    student, target, pairs, x = scene(vector_teacher, device)
    loss = DistillationLoss(anchor_weight=anchor, task_weight=task)
    losses = loss(student, target, pairs, x, squares)
    expected = anchor * losses.anchor + (1 - anchor) * losses.local + task * losses.task
    torch.testing.assert_close(losses.total, expected)
    assert torch.equal(
        losses.anchor, DistillationLoss(task_weight=0.0)(student, target, pairs, x).anchor
    )
    later = estimate(student, pairs, 2, x)
    torch.testing.assert_close(losses.task, squares(later).mean() if task else losses.task * 0)


def test_a_weight_of_zero_gives_no_gradient(device) -> None:
    """The anchor alone does not see the target, the local term alone not the endpoint."""
    student, target, pairs, x = scene(vector_teacher, device)
    others = pairs._replace(endpoint=pairs.endpoint + 1)

    def slope(weight: float, target: ConsistencyDEQ, pairs: Window) -> Tensor:
        total = DistillationLoss(anchor_weight=weight, task_weight=0.0)(
            student, target, pairs, x
        ).total
        return torch.autograd.grad(total, student.cell.mix.weight)[0]

    torch.testing.assert_close(slope(1.0, target, pairs), slope(1.0, moved(target, 500), pairs))
    torch.testing.assert_close(slope(0.0, target, pairs), slope(0.0, target, others))
    assert not torch.allclose(slope(0.0, target, pairs), slope(0.0, moved(target, 500), pairs))
    assert not torch.allclose(slope(1.0, target, pairs), slope(1.0, target, others))


@pytest.mark.parametrize("reverse", (False, True))
def test_the_target_gets_no_gradient(reverse, device) -> None:
    student, target, pairs, x = scene(vector_teacher, device)
    loss = DistillationLoss(anchor_weight=0.5, task_weight=0.1, reverse_pair=reverse)
    loss(student, target, pairs, x, squares).total.backward()
    assert all(p.grad is None for p in target.parameters())
    assert all(p.grad.abs().sum() > 0 for p in student.parameters())


def test_a_value_in_two_dimensions_by_hand(device) -> None:
    """f(z, x) = z / 2, so h = z / 2, residuals -z / 2; T = 1, ε = 0, γ = 1."""

    class Half(nn.Module):
        def forward(self, z: Tensor, x: None) -> Tensor:
            return z / 2

    class Value(nn.Module):
        def forward(self, value: Tensor, t: Tensor) -> Tensor:
            return value

    student = ConsistencyDEQ(Half(), Value(), boundary=Boundary(span=TimeSpan(eps=0.0)))
    z = tuple(torch.tensor([row], device=device) for row in ([8.0, 4.0], [4.0, 2.0], [2.0, 0.0]))
    t = tuple(torch.tensor(value) for value in (0.0, 0.25, 0.5))
    pairs = Window(z, t, torch.tensor([[0.0, 1.0]], device=device))
    # Target at z = (4, 2), t = 1/4, before it (8, 4): the residuals (-2, -1) and (-4, -2) are
    # parallel, α = 2 makes their mix zero: P = 2 (2, 1) - (4, 2) = 0, so g⁻ = (1, 1/2).
    # Student at z = (2, 0), t = 1/2, before it (4, 2): residuals r = (-1, 0) and s = (-2, -1),
    # α = -s·(r - s) / |r - s|² = 3/2, P = 3/2 (1, 0) - 1/2 (2, 1) = (1/2, -1/2),
    # g = (1, 0) + 1/2 P = (5/4, -1/4).
    losses = DistillationLoss(anchor_weight=0.75, task_weight=0.5)(
        student, student, pairs, None, lambda z: z.sum(1)
    )
    assert losses.anchor.item() == pytest.approx(((5 / 4) ** 2 + (5 / 4) ** 2) / 2)
    assert losses.local.item() == pytest.approx(((1 / 4) ** 2 + (3 / 4) ** 2) / 2)
    assert losses.task.item() == pytest.approx(1.0)
    assert losses.total.item() == pytest.approx(0.75 * 1.5625 + 0.25 * 0.3125 + 0.5 * 1.0)


def test_another_distance_takes_packed_states(device) -> None:
    student, target, pairs, x = scene(vector_teacher, device)
    smooth = DistillationLoss(task_weight=0.0, distance=F.smooth_l1_loss)
    losses = smooth(student, target, pairs, x)
    expected = F.smooth_l1_loss(estimate(student, pairs, 2, x), pairs.endpoint)
    torch.testing.assert_close(losses.anchor, expected)


@pytest.mark.parametrize("horizon", (0.0, 0.4, 0.8, 1.0))
def test_the_task_counts_early_samples_alone(horizon, device) -> None:
    student, target, pairs, x = scene(vector_teacher, device, k=[0, 2, 8])
    loss = DistillationLoss(task_weight=1.0, task_horizon=horizon)
    losses = loss(student, target, pairs, x, squares)
    tau = SCHEDULE.ratio(torch.tensor([0, 2, 8]))
    early = [i for i in range(3) if tau[i] <= horizon]
    per_sample = squares(estimate(student, pairs, 2, x))
    torch.testing.assert_close(losses.task, per_sample[early].mean())


def test_a_batch_without_early_samples_has_no_task_loss(device) -> None:
    student, target, pairs, x = scene(vector_teacher, device, k=6)
    loss = DistillationLoss(anchor_weight=0.3, task_weight=1.0, task_horizon=0.1)
    losses = loss(student, target, pairs, x, squares)
    assert losses.task == 0.0
    torch.testing.assert_close(losses.total, 0.3 * losses.anchor + 0.7 * losses.local)


@pytest.mark.parametrize("k", (0, 1))
def test_the_first_points_have_the_history_that_inference_gives_them(k, device) -> None:
    """At k = 0 a repeated point, which is none."""
    student, target, pairs, x = scene(vector_teacher, device, k=k)
    losses = DistillationLoss(anchor_weight=1.0, task_weight=0.0)(student, target, pairs, x)
    g, history = student(pairs.z[1], pairs.t[1], x)
    if k == 1:
        g, _ = student(pairs.z[2], pairs.t[2], x, history)
    torch.testing.assert_close(losses.anchor, mse(g, pairs.endpoint))


def test_a_student_that_is_right_has_no_loss(device) -> None:
    """At the end of time g is the identity, whatever its weights."""
    student, target, pairs, x = scene(vector_teacher, device, k=8)
    end = torch.tensor(1.0, dtype=torch.float64)
    there = Window((pairs.endpoint,) * 3, (end,) * 3, pairs.endpoint)
    losses = DistillationLoss(task_weight=0.0)(student, target, there, x)
    assert losses.total < 1e-25


def test_a_missing_task_is_refused() -> None:
    student, target, pairs, x = scene(vector_teacher, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"`task_weight` > 0.*set `task_weight=0`"):
        DistillationLoss()(student, target, pairs, x)
    assert DistillationLoss(task_weight=0.0)(student, target, pairs, x).task == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchor_weight": 1.2}, r"λ₁ of Eq. 11\); got 1.2"),
        ({"anchor_weight": -0.1}, "λ₁"),
        ({"anchor_weight": float("nan")}, "λ₁"),
        ({"task_weight": -1.0}, "λ₂"),
        ({"task_weight": float("nan")}, "λ₂"),
        ({"task_horizon": 1.5}, "`task_horizon`"),
        ({"task_horizon": -0.5}, "`task_horizon`"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationLoss(**settings)
