"""On-policy distillation: one training step on a run of the student's own."""

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import Self

from cdeq.consistency.rollout import RolloutLoss
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.state import tensors
from cdeq.data.indexed import Indices
from cdeq.models.base import Batch, EquilibriumModel
from cdeq.training.distill import place
from cdeq.training.objective import Objective
from cdeq.trajectories.source import TrajectorySource


class RolloutObjective(Objective):
    """A student that learns from its own runs.

    A step runs the student from z_0 through its learned steps and compares every state it visits
    with the end of the teacher's trajectory, and its head's answer with the teacher's. Labels are
    not used.

    Arguments:
        student: The student, whose trainable parameters are optimised.
        teacher: Gives contexts and the task head; its parameters stop requiring gradients.
        trajectories: Where z* = z_K comes from.
        loss: What is minimised.
    """

    def __init__(
        self,
        student: UntiedDEQ,
        teacher: EquilibriumModel,
        trajectories: TrajectorySource,
        *,
        loss: RolloutLoss = RolloutLoss(),
    ) -> None:
        super().__init__()
        self.student, self.loss = student, loss
        self.teacher, self.trajectories = teacher.requires_grad_(False).eval(), trajectories

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        teacher = self.teacher
        with torch.no_grad():
            x = teacher.encode(batch)
        z0 = teacher.initial(x)
        with torch.autocast(tensors(z0)[0].device.type, enabled=False):  # the same as from a cache
            path = self.trajectories(indices)
        losses = self.loss(
            self.student,
            x,
            z0,
            place(path[-1], z0),
            torch.zeros(
                len(self.student.cells)
            ),  # weights are the step's own, so time says nothing
            lambda z: teacher.decode(z, x),
            batched=self.student.batched,
        )
        return {"loss": losses.total, "latent": losses.latent, "head": losses.head}

    def train(self, mode: bool = True) -> Self:
        """Only the student trains: its teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        self.student.cell.eval()
        return self
