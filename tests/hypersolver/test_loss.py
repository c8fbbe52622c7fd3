"""The three losses: by hand, term by term, and through what they send gradients."""

import pytest
import torch
from consistency.toys import disturb, run
from problems import Taught, each_teacher, vector_teacher
from torch import Tensor, nn

from cdeq import Picard, solve
from cdeq.core.state import Layout, detach, tensors
from cdeq.hypersolver.loss import HyperLoss, HyperLosses
from cdeq.hypersolver.scope import PerPosition, Pooled
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.typing import State

each_scope = pytest.mark.parametrize("scope", (Pooled(), PerPosition()), ids=str)


class Guess(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, z: State, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def learned(taught: Taught, **settings: object) -> HyperDEQ:
    student = HyperDEQ.from_teacher(taught, width=10, **settings)
    disturb(student, 0.3)
    return student


def exact(taught: Taught) -> State:
    batched = taught.deq.batched
    return detach(solve(taught.f, taught.start, Picard(), max_steps=400, batched=batched).z)


def losses(taught: Taught, student: HyperDEQ, loss: HyperLoss, **more: object) -> HyperLosses:
    steps = more.pop("steps", 4)
    return loss(student, taught.x, taught.start, exact(taught), steps, **more)


def lengths(state: State, taught: Taught) -> Tensor:
    return Layout.of(state, batched=taught.deq.batched).pack(state).norm(dim=1)


def minus(one: State, other: State) -> State:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return tuple(a - b for a, b in pairs)


@each_teacher
@each_scope
@pytest.mark.parametrize("steps", (1, 4))
def test_the_error_on_the_way_is_that_of_inference(make, scope, steps, device) -> None:
    """Later steps weigh more: 1, 2, …, K, of K (K + 1) / 2."""
    taught = make(torch.float64, device)
    student, goal = learned(taught, scope=scope), exact(taught)
    errors = [
        float((lengths(minus(z, goal), taught) / lengths(goal, taught)).mean())
        for z in run(student, taught, steps)
    ]
    found = losses(taught, student, HyperLoss(), steps=steps)
    expected = sum((k + 1) * error for k, error in enumerate(errors)) / sum(range(steps + 1))
    assert float(found.path.detach()) == pytest.approx(expected)
    assert float(found.start) == 0.0


def test_the_start_is_the_initializer_s(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student, goal = learned(taught, initializer=Guess()), exact(taught)
    miss = lengths(minus(student.initializer(taught.start, taught.x), goal), taught)
    expected = (miss / lengths(goal, taught)).square().mean()
    torch.testing.assert_close(losses(taught, student, HyperLoss()).start, expected)


@each_teacher
@each_scope
def test_the_mixed_residuals_are_those_of_the_windows(make, scope, device) -> None:
    taught = make(torch.float64, device)
    student, goal, sizes = learned(taught, scope=scope), exact(taught), []
    step, z, memory = student.bind(taught.x), taught.start, None
    with torch.no_grad():
        for _ in range(4):
            z, memory = step(z, torch.zeros(()), memory)
            mixed = student.mixed_residual(memory)
            sizes.append((lengths(mixed, taught) / lengths(goal, taught)).mean())
    torch.testing.assert_close(
        losses(taught, student, HyperLoss()).alpha.detach(), torch.stack(sizes).mean()
    )


@pytest.mark.parametrize("share", (1.0, 0.25, 0.0))
def test_the_total_is_the_weighted_sum(share: float, device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = learned(taught, initializer=Guess())
    loss = HyperLoss(path_weight=0.3, start_weight=2.0, alpha_weight=0.7)
    found = losses(taught, student, loss, alpha_share=share)
    expected = 0.3 * found.path + 2.0 * found.start + 0.7 * share * found.alpha
    torch.testing.assert_close(found.total, expected)
    assert bool(found.alpha > 0) == bool(share)


@pytest.mark.parametrize("scale", (1e-3, 1e4))
def test_the_unit_of_the_state_does_not_matter(scale: float, device) -> None:
    """A teacher whose states are longer has the same loss."""

    class Scaled(nn.Module):
        def __init__(self, cell: nn.Module) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return scale * self.cell(z / scale, x)

    taught = vector_teacher(torch.float64, device)
    student, goal = learned(taught), exact(taught)
    before = HyperLoss()(student, taught.x, taught.start, goal, 4)
    student.cell = Scaled(student.cell)
    after = HyperLoss()(student, taught.x, scale * taught.start, scale * goal, 4)
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("scope", (Pooled(), PerPosition()), ids=str)
@pytest.mark.parametrize("detach", (True, False))
def test_gradients_reach_all_that_is_learned(scope, detach: bool, device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = learned(taught, scope=scope, initializer=Guess())
    losses(taught, student, HyperLoss(detach=detach)).total.backward()
    for name, parameter in student.named_parameters():
        own = not name.startswith("cell.")
        assert (parameter.grad is not None and bool(parameter.grad.abs().max() > 0)) == own


@pytest.mark.parametrize(("detach", "through"), [(True, 0), (False, 3)])
def test_detached_nothing_goes_back_through_f(detach: bool, through: int, device) -> None:
    taught = vector_teacher(torch.float64, device)
    student, tracked = learned(taught), []
    student.cell.register_forward_hook(lambda cell, x, value: tracked.append(value.requires_grad))
    found = losses(taught, student, HyperLoss(detach=detach))
    assert tracked == [False, *[not detach] * 3] and sum(tracked) == through
    other = losses(taught, student, HyperLoss(detach=not detach))
    assert all(map(torch.equal, found, other)), "it changes gradients alone"


@pytest.mark.parametrize("name", ("path_weight", "start_weight", "alpha_weight"))
@pytest.mark.parametrize("value", (-0.1, float("nan")))
def test_a_negative_weight_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` weighs a loss, ≥ 0; got {value}"):
        HyperLoss(**{name: value})


def test_a_run_has_steps(device) -> None:
    taught = vector_teacher(torch.float64, device)
    with pytest.raises(ValueError, match="K ≥ 1 of a run; got 0"):
        losses(taught, learned(taught), HyperLoss(), steps=0)
