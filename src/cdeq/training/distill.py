"""Consistency distillation: one training step (Algorithm 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import Self

from cdeq.consistency.loss import DistillationLoss
from cdeq.consistency.pairs import EndpointAugmentation, sample_indices, window
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.time import Schedule
from cdeq.core.state import like, tensors
from cdeq.data.indexed import Indices
from cdeq.models.base import Batch, EquilibriumModel
from cdeq.training.objective import Objective
from cdeq.trajectories.source import TrajectorySource
from cdeq.typing import State


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which points of a trajectory are trained on.

    Arguments:
        first: The smallest index k; Algorithm 2 says 1, 0 includes the start of inference.
        augmentation: Endpoint augmentation (Algorithm 4).
        ema_decay: The rate μ in [0, 1) of the target's running average.

    Raises:
        ValueError: When μ is outside its range.
    """

    first: int = 1
    augmentation: EndpointAugmentation = EndpointAugmentation()
    ema_decay: float = 0.98

    def __post_init__(self) -> None:
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(
                f"`ema_decay` is the rate μ in [0, 1) of the EMA; got {self.ema_decay}."
            )


class DistillationObjective(Objective):
    r"""A student in training, with its running average.

    A step draws an index k a sample, looks at the trajectory there, and evaluates the loss of Eq.
    (11); after it :math:`\phi^- \leftarrow \mu \phi^- + (1 - \mu) \phi`. The teacher's encoder
    and head are used, not trained: it is frozen in place.

    Paper: Algorithm 2.

    Arguments:
        student: g_φ, whose trainable parameters are optimised.
        teacher: Gives contexts and the task head; its parameters stop requiring gradients.
        trajectories: Where z_0 … z_K come from.
        schedule: Their virtual times.
        loss: What is minimised.
        sampling: Which points are trained on.
    """

    def __init__(
        self,
        student: ConsistencyDEQ,
        teacher: EquilibriumModel,
        trajectories: TrajectorySource,
        schedule: Schedule,
        *,
        loss: DistillationLoss = DistillationLoss(),
        sampling: Sampling = Sampling(),
    ) -> None:
        super().__init__()
        self.student = student
        average = get_ema_multi_avg_fn(sampling.ema_decay)
        self.target = AveragedModel(student, multi_avg_fn=average, use_buffers=True)
        self.target.requires_grad_(False).eval()
        self.target.n_averaged.fill_(
            1
        )  # φ⁻ starts as φ: the first update averages like all others
        self.teacher, self.trajectories = teacher.requires_grad_(False).eval(), trajectories
        self.schedule, self.loss, self.sampling = schedule, loss, sampling

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        teacher = self.teacher
        with torch.no_grad():
            x = teacher.encode(batch)
        start = teacher.initial(x)
        z0 = tensors(start)[0]
        with torch.autocast(z0.device.type, enabled=False):  # the same path as from a cache
            path = tuple(place(z, start) for z in self.trajectories(indices))
        batched = self.student.batched
        path = self.sampling.augmentation(path, batched=batched, generator=generator)
        size = (z0.shape[0],) if batched else ()
        k = sample_indices(len(path) - 1, size, first=self.sampling.first, generator=generator)
        pairs = window(path, self.schedule, k.to(z0.device))

        def task(z: State) -> Tensor:
            return teacher.loss(teacher.decode(z, x), batch)

        losses = self.loss(self.student, cast(ConsistencyDEQ, self.target.module), pairs, x, task)
        return {
            "loss": losses.total,
            "anchor": losses.anchor,
            "local": losses.local,
            "task": losses.task,
        }

    def train(self, mode: bool = True) -> Self:
        """Everything stays in evaluation mode: what is imitated has no noise, so that dropout in
        a student's copy of f would only hide it."""
        return super().train(False)

    def after_step(self) -> None:
        self.target.update_parameters(self.student)


def place(z: State, reference: State) -> State:
    """The state on the device and in the dtype of another."""
    parts = zip(tensors(z), tensors(reference), strict=True)
    return like(z, tuple(part.to(other) for part, other in parts))
