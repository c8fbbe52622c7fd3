"""On-policy distillation: the loss sees the states that the student visits."""

import pytest
import torch
from consistency.toys import disturb
from problems import each_teacher, vector_teacher
from torch import Tensor

from cdeq import Anderson, ConsistencyDEQ, ExponentialSchedule, Picard, refine
from cdeq.consistency.rollout import Judge, RolloutLoss
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.cell import bind
from cdeq.core.state import Layout, tensors
from cdeq.typing import State

TIMES = ExponentialSchedule().times(3)


def logits(state) -> Tensor:
    return torch.stack([part.flatten(1).sum(1) for part in tensors(state)], dim=1).repeat(1, 2)


def nearness(goal: State) -> Judge:
    return lambda z: (logits(z) - logits(goal)).square().sum(1)


def test_a_student_that_is_there_has_no_loss() -> None:
    class There:
        def bind(self, x: object) -> object:
            return lambda z, t, memory: (x, memory)

    goal = torch.randn(4, 3, dtype=torch.float64)
    losses = RolloutLoss()(There(), goal, torch.zeros_like(goal), goal, TIMES, nearness(goal))
    assert float(losses.total) == pytest.approx(0.0, abs=1e-15)


@each_teacher
@pytest.mark.parametrize("detach", (True, False))
def test_it_scores_the_states_of_inference(make, detach, device) -> None:
    taught = make(torch.float64, device)
    goal = tuple(torch.randn_like(part) for part in tensors(taught.start))
    goal = goal if isinstance(taught.start, tuple) else goal[0]
    batched = taught.deq.batched
    student = ConsistencyDEQ.from_teacher(taught)
    losses = RolloutLoss(head_weight=0.0, detach=detach)(
        student, taught.x, taught.start, goal, TIMES, nearness(goal), batched=batched
    )
    layout = Layout.of(goal, batched=batched)
    end = layout.pack(goal)
    expected = torch.stack(
        [
            ((layout.pack(z) - end).square().sum(1) / end.square().sum(1)).mean()
            for z in refine(student, taught.x, taught.start, TIMES)
        ]
    ).mean()
    torch.testing.assert_close(losses.total, expected)


def test_the_head_term_is_what_the_judge_says_along_the_run(device) -> None:
    taught = vector_teacher(torch.float64, device)
    goal = torch.randn_like(taught.start)
    student = UntiedDEQ.from_teacher(taught, steps=2)
    run = list(refine(student, taught.x, taught.start, TIMES))
    losses = RolloutLoss(head_weight=0.5)(
        student, taught.x, taught.start, goal, TIMES, nearness(goal)
    )
    expected = torch.stack([nearness(goal)(z).mean() for z in run]).mean()
    torch.testing.assert_close(losses.head, expected)
    torch.testing.assert_close(losses.total, losses.latent + 0.5 * losses.head)


def test_labels_add_their_own_loss_along_the_run(device) -> None:
    taught = vector_teacher(torch.float64, device)
    goal, label = torch.randn_like(taught.start), torch.randn_like(taught.start)
    student = UntiedDEQ.from_teacher(taught, steps=2)
    run = list(refine(student, taught.x, taught.start, TIMES))
    judges = nearness(goal), nearness(label)
    losses = RolloutLoss(task_weight=0.25)(student, taught.x, taught.start, goal, TIMES, *judges)
    expected = torch.stack([nearness(label)(z).mean() for z in run]).mean()
    torch.testing.assert_close(losses.task, expected)
    unlabelled = RolloutLoss()(student, taught.x, taught.start, goal, TIMES, *judges)
    assert float(unlabelled.task) == 0.0
    torch.testing.assert_close(losses.total, unlabelled.total + 0.25 * expected)


def test_without_a_judge_the_latent_term_is_all(device) -> None:
    taught = vector_teacher(torch.float64, device)
    goal = torch.randn_like(taught.start)
    student = ConsistencyDEQ.from_teacher(taught)
    losses = RolloutLoss()(student, taught.x, taught.start, goal, TIMES)
    assert losses.total.equal(losses.latent) and float(losses.head) == 0.0


def test_a_run_goes_on_from_where_it_is_put(device) -> None:
    """With the teacher's states in place of its own, each step's loss is that of a single step."""
    taught = vector_teacher(torch.float64, device)
    goal = torch.randn_like(taught.start)
    path = [taught.start, *(torch.randn_like(taught.start) for _ in range(2))]
    student = UntiedDEQ.from_teacher(taught, steps=0, tail=Picard())
    losses = RolloutLoss()(
        student, taught.x, taught.start, goal, TIMES, visit=lambda j, z: path[j]
    )
    f = bind(taught.deq.cell, taught.x)
    each = [((f(z) - goal).square().sum(1) / goal.square().sum(1)).mean() for z in path]
    torch.testing.assert_close(losses.latent, torch.stack(each).mean())


def test_detached_steps_do_not_teach_each_other(device) -> None:
    """The last step's loss reaches the first step's weights only through the run."""
    taught = vector_teacher(torch.float64, device)
    goal, start = torch.randn_like(taught.start), torch.ones_like(taught.start)
    gradients = []
    for detach in (True, False):
        student = UntiedDEQ.from_teacher(taught, steps=2)
        short, long = (
            RolloutLoss(head_weight=0.0, detach=detach)(
                student, taught.x, start, goal, TIMES[:steps]
            ).total
            * steps
            for steps in (1, 2)
        )
        first = [p for p in student.learned.cells[0].parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(long - short, first, allow_unused=True))
    largest = [max(float(g.abs().max()) for g in part if g is not None) for part in gradients]
    assert largest[0] < 1e-14 < 1e-6 < largest[1]


@pytest.mark.parametrize("mixing", (None, Anderson(window=1)), ids=("plain", "mixed"))
@pytest.mark.parametrize("steps", (1, 2, 4))
def test_the_gradient_of_a_run_is_its_slope(mixing, steps, device) -> None:
    """Through learned steps and through the solver after them."""
    taught = vector_teacher(torch.float64, device)
    goal, start = torch.randn_like(taught.start), torch.ones_like(taught.start)
    student = UntiedDEQ.from_teacher(taught, steps=2, mixing=mixing)
    disturb(student)
    weight = student.learned.cells[0].mix.weight

    def loss() -> Tensor:
        times = ExponentialSchedule().times(steps)
        return RolloutLoss(detach=False)(student, taught.x, start, goal, times).total

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction, size = torch.randn_like(weight), 1e-5
    ends = []
    with torch.no_grad():
        for move in (size, -2 * size):
            weight += move * direction
            ends.append(loss())
    slope = (ends[0] - ends[1]) / (2 * size)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)
    assert abs(float(slope)) > 1e-3


def test_nobody_is_asked_whose_answer_does_not_count(device) -> None:
    taught = vector_teacher(torch.float64, device)
    goal, asked, moved = torch.randn_like(taught.start), list[State](), list[int]()

    def noting(z: State) -> Tensor:
        asked.append(z)
        return nearness(goal)(z)

    def visit(j: int, z: State) -> State:
        moved.append(j)
        return z

    student = ConsistencyDEQ.from_teacher(taught)
    for weight in (0.0, 1.0):
        loss = RolloutLoss(head_weight=weight)
        loss(student, taught.x, taught.start, goal, TIMES, noting, visit=visit)
        assert len(asked) == 3 * weight
    assert moved == [1, 2, 1, 2], "the start is the teacher's anyway"


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="`head_weight`"):
        RolloutLoss(head_weight=-1.0)
