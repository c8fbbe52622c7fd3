"""On-policy distillation: the loss sees the states that the student visits."""

import pytest
import torch
from problems import each_teacher, vector_teacher
from torch import Tensor

from cdeq import ConsistencyDEQ, ExponentialSchedule, refine
from cdeq.consistency.rollout import RolloutLoss
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.state import Layout, tensors

TIMES = ExponentialSchedule().times(3)


def logits(state) -> Tensor:
    return torch.stack([part.flatten(1).sum(1) for part in tensors(state)], dim=1).repeat(1, 2)


def test_a_student_that_is_there_has_no_loss() -> None:
    class There:
        def bind(self, x: object) -> object:
            return lambda z, t, memory: (x, memory)

    goal = torch.randn(4, 3, dtype=torch.float64)
    losses = RolloutLoss()(There(), goal, torch.zeros_like(goal), goal, TIMES, logits)
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
        student, taught.x, taught.start, goal, TIMES, logits, batched=batched
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


def test_the_head_term_is_the_divergence_of_distributions() -> None:
    class Stay:
        def bind(self, x: object) -> object:
            return lambda z, t, memory: (z, memory)

    here, goal = torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.5, 0.5]]).log()
    losses = RolloutLoss()(Stay(), None, here, goal, TIMES[:1], lambda z: z)
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.8])
    assert float(losses.head) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)


def test_detached_steps_do_not_teach_each_other(device) -> None:
    """The last step's loss reaches the first step's weights only through the run."""
    taught = vector_teacher(torch.float64, device)
    goal, start = torch.randn_like(taught.start), torch.ones_like(taught.start)
    gradients = []
    for detach in (True, False):
        student = UntiedDEQ.from_teacher(taught, steps=2)
        short, long = (
            RolloutLoss(head_weight=0.0, detach=detach)(
                student, taught.x, start, goal, TIMES[:steps], logits
            ).total
            * steps
            for steps in (1, 2)
        )
        first = [p for p in student.cells[0].parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(long - short, first, allow_unused=True))
    largest = [max(float(g.abs().max()) for g in part if g is not None) for part in gradients]
    assert largest[0] < 1e-14 < 1e-6 < largest[1]


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="`head_weight`"):
        RolloutLoss(head_weight=-1.0)
