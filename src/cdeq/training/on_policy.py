"""On-policy distillation: one training step on a run of the student's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from cdeq.consistency.rollout import Judge, RolloutLoss
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.time import ExponentialSchedule, Schedule
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.state import like, tensors
from cdeq.data.indexed import Indices
from cdeq.models.base import Batch, EquilibriumModel
from cdeq.training.distill import DistillationObjective, place
from cdeq.training.objective import Objective
from cdeq.training.plan import require_count
from cdeq.trajectories.source import TrajectorySource, ends
from cdeq.typing import Context, State


@dataclass(frozen=True, kw_only=True)
class Mixture:
    r"""How often a run goes on from the teacher's state instead of the student's.

    .. math:: p(u) = p_0 + \min(1, u / \text{ramp}) \, (p_1 - p_0)

    is the probability, a sample and a step, that z_j is replaced by the teacher's own z_j, at
    update u. 0 is purely on-policy, 1 sees what the teacher saw.

    Arguments:
        first: p_0, in [0, 1].
        last: p_1, in [0, 1].
        ramp: Updates from p_0 to p_1; with 0 it is p_1 throughout.

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> [Mixture(first=1.0, last=0.0, ramp=4).share(u) for u in (0, 1, 8)]
        [1.0, 0.75, 0.0]
    """

    first: float = 0.0
    last: float = 0.0
    ramp: int = 0

    def __post_init__(self) -> None:
        if not (0.0 <= self.first <= 1.0 and 0.0 <= self.last <= 1.0) or self.ramp < 0:
            raise ValueError(
                "`first` and `last` are probabilities in [0, 1] and `ramp` a number of updates; "
                f"got {self}."
            )

    @property
    def pure(self) -> bool:
        """Whether runs never leave the student's own states."""
        return self.last == 0.0 and (self.first == 0.0 or self.ramp == 0)

    def share(self, update: int) -> float:
        """p at an update, counted from 0."""
        progress = min(1.0, update / self.ramp) if self.ramp else 1.0
        return self.first + progress * (self.last - self.first)


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """How the student's own runs are.

    Arguments:
        shortest: The smallest number of steps J, drawn anew for each batch.
        longest: The largest.
        loss: What is minimised.
        mixture: How often the runs go on from the teacher's states.

    Raises:
        ValueError: When 1 ≤ shortest ≤ longest does not hold.
    """

    shortest: int = 1
    longest: int = 5
    loss: RolloutLoss = RolloutLoss()
    mixture: Mixture = Mixture()

    def __post_init__(self) -> None:
        require_count("shortest", self.shortest)
        if self.longest < self.shortest:
            raise ValueError(
                f"a run has `shortest` … `longest` steps; got {self.shortest} … {self.longest}."
            )


class RolloutObjective(Objective):
    """A student that learns from its own runs.

    A step runs the student from z_0 and compares every state it visits with the end of the
    teacher's trajectory, and its head's answer with the teacher's; with labels where the loss
    gives them a weight.

    Arguments:
        student: The student, whose trainable parameters are optimised.
        teacher: Gives contexts and the task head; its parameters stop requiring gradients.
        trajectories: Where z_0 … z_K = z* come from.
        schedule: The virtual times of inference.
        rollouts: How the runs are.
    """

    def __init__(
        self,
        student: ConsistencyDEQ | UntiedDEQ,
        teacher: EquilibriumModel,
        trajectories: TrajectorySource,
        *,
        schedule: Schedule = ExponentialSchedule.from_ratio(0.5),
        rollouts: Rollouts = Rollouts(),
    ) -> None:
        super().__init__()
        self.student, self.schedule, self.rollouts = student, schedule, rollouts
        self.teacher, self.trajectories = teacher.requires_grad_(False).eval(), trajectories
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.updates: Tensor

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        teacher, settings = self.teacher, self.rollouts
        with torch.no_grad():
            x = teacher.encode(batch)
        z0 = teacher.initial(x)
        with torch.autocast(tensors(z0)[0].device.type, enabled=False):  # the same as from a cache
            pure = settings.mixture.pure
            known = self.trajectories(indices) if not pure else (ends(self.trajectories, indices),)
            path = tuple(place(z, z0) for z in known)
        steps = torch.randint(settings.shortest, settings.longest + 1, (), generator=generator)
        losses = settings.loss(
            self.student,
            x,
            z0,
            path[-1],
            self.schedule.times(int(steps)),
            judge(teacher, x, path[-1]),
            None if teacher.headless else lambda z: teacher.loss(teacher.decode(z, x), batch),
            visit=self._visits(path, generator),
            batched=teacher.deq.batched,
        )
        parts = losses._asdict()
        return {"loss": parts.pop("total"), **parts}

    def _visits(
        self, path: tuple[State, ...], generator: torch.Generator
    ) -> Callable[[int, State], State]:
        share, batched = self.rollouts.mixture.share(int(self.updates)), self.teacher.deq.batched

        def visit(j: int, z: State) -> State:
            return mix(z, path[min(j, len(path) - 1)], share, generator, batched=batched)

        return visit

    def train(self, mode: bool = True) -> Self:
        """Everything stays in evaluation mode: what is imitated has no noise, so that dropout in
        a student's copy of f would only hide it."""
        return super().train(False)

    def after_step(self) -> None:
        self.updates += 1


def judge(teacher: EquilibriumModel, x: Context, endpoint: State) -> Judge | None:
    """How far the teacher's head is, at a state, from its answer at z*; None without a head."""
    if teacher.headless:
        return None
    with torch.no_grad():
        compare = teacher.comparison(teacher.decode(endpoint, x))
    return lambda z: compare(teacher.decode(z, x))


def mix(
    z: State, other: State, share: float, generator: torch.Generator, *, batched: bool
) -> State:
    """z with some of its samples replaced: each with probability `share`.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> mix(torch.zeros(3, 1), torch.ones(3, 1), 1.0, generator, batched=True).sum()
        tensor(3.)
    """
    if share == 0.0:
        return z
    samples = len(tensors(z)[0]) if batched else 1
    chosen = torch.rand(samples, generator=generator) < share
    pairs = zip(tensors(z), tensors(other), strict=True)
    return like(z, tuple(torch.where(_rows(chosen, own), new, own) for own, new in pairs))


def _rows(chosen: Tensor, part: Tensor) -> Tensor:
    return chosen.to(part.device).reshape(-1, *[1] * (part.ndim - 1))


class BlendedObjective(Objective):
    r"""The paper's losses and those of the student's own runs together.

    .. math:: L = (1 - w) \, L_\text{paper} + w \, L_\text{rollout}

    Arguments:
        paper: The distillation of a student.
        rollout: The distillation of the same student on its own runs.
        weight: w in [0, 1].

    Raises:
        ValueError: When w is outside [0, 1], or the two have different students.
    """

    def __init__(
        self, paper: DistillationObjective, rollout: RolloutObjective, weight: float
    ) -> None:
        super().__init__()
        if not 0.0 <= weight <= 1.0:
            raise ValueError(
                f"`weight` is the share of the rollout loss, in [0, 1]; got {weight}."
            )
        if paper.student is not rollout.student:
            raise ValueError("two objectives are blended for one student; got two students.")
        self.paper, self.rollout, self.weight = paper, rollout, weight
        self.student = paper.student

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        paper = self.paper(batch, indices, generator)
        rollout = self.rollout(batch, indices, generator)
        total = torch.lerp(paper["loss"], rollout["loss"], self.weight)
        parts = {f"paper_{name}": value for name, value in paper.items() if name != "loss"}
        parts |= {f"rollout_{name}": value for name, value in rollout.items() if name != "loss"}
        return {"loss": total, **parts}

    def train(self, mode: bool = True) -> Self:
        """Everything stays in evaluation mode, as in both parts."""
        return super().train(False)

    def after_step(self) -> None:
        self.paper.after_step()
        self.rollout.after_step()
