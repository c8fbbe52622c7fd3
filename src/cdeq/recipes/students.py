"""The students a recipe distils, with one face: build, objective, read."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from cdeq.consistency.increments import Full, LowRank, Shared
from cdeq.consistency.loss import DistillationLoss
from cdeq.consistency.rollout import RolloutLoss
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.time import Boundary, ExponentialSchedule, PowerSchedule
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.readout import LinearReadout, MLPReadout
from cdeq.core.solvers import Anderson
from cdeq.core.solvers.base import require_fraction
from cdeq.models.base import EquilibriumModel
from cdeq.training.distill import DistillationObjective, Sampling
from cdeq.training.on_policy import BlendedObjective, Mixture, RolloutObjective, Rollouts
from cdeq.training.plan import Plan, require_count
from cdeq.trajectories.source import TrajectorySource


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Rollouts):
    """Runs of the paper's student itself, beside the paper's losses; goes beyond the paper.

    Arguments:
        weight: The share of their loss in the whole, in [0, 1]; 0 leaves them out.
    """

    weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StudentRecipe:
    """The student and its distillation; the defaults are the paper's.

    Arguments:
        plan: How long and how fast.
        boundary: c_skip and c_out (Eq. 5).
        mixing: The relaxation β (Eq. 4).
        accelerate: Mix two points (Eq. 7); False is the paper's "w/o AA".
        detach_weights: Treat the mixing weights α as constants in the backward pass.
        train_cell: False freezes the copied cell, as the released code does.
        mlp_readout: The released code's two-layer readout instead of Eq. (8).
        schedule: Virtual times of the trajectory (Eq. 6).
        inference: Virtual times of multi-step inference (Appendix B.3).
        loss: Eq. (11).
        sampling: Which points are trained on, and the EMA rate.
        on_policy: The student's own runs; the paper's recipe has none.

    Raises:
        ValueError: When `mixing` is outside (0, 1], or the three time spans differ.
    """

    plan: Plan
    boundary: Boundary = Boundary()
    mixing: float = 1.0
    accelerate: bool = True
    detach_weights: bool = False
    train_cell: bool = True
    mlp_readout: bool = False
    schedule: ExponentialSchedule | PowerSchedule = ExponentialSchedule(rate=0.3)
    inference: ExponentialSchedule = ExponentialSchedule.from_ratio(0.5)
    loss: DistillationLoss = DistillationLoss()
    sampling: Sampling = Sampling()
    on_policy: OnPolicy = OnPolicy()

    def __post_init__(self) -> None:
        require_fraction("mixing", self.mixing, "the relaxation β of Eq. (4)")
        spans = {self.boundary.span, self.schedule.span, self.inference.span}
        if len(spans) != 1:
            raise ValueError(
                "boundary, schedule and inference speak of one virtual time, so their spans are "
                f"equal; got {sorted((span.eps, span.end) for span in spans)}."
            )

    def build(self, teacher: EquilibriumModel) -> ConsistencyDEQ:
        """A fresh student of this teacher."""
        readout = teacher.readout()
        if self.mlp_readout and isinstance(readout, LinearReadout):
            readout = MLPReadout(readout.features, axis=readout.axis)
        return ConsistencyDEQ.from_teacher(
            teacher,
            readout=readout,
            boundary=self.boundary,
            mixing=self.mixing,
            accelerate=self.accelerate,
            detach_weights=self.detach_weights,
            train_cell=self.train_cell,
        )

    def objective(
        self, teacher: EquilibriumModel, trajectories: TrajectorySource
    ) -> DistillationObjective | BlendedObjective:
        """The distillation of a fresh student."""
        paper = DistillationObjective(
            self.build(teacher),
            teacher,
            trajectories,
            self.schedule,
            loss=self.loss,
            sampling=self.sampling,
        )
        if self.on_policy.weight == 0.0:
            return paper
        runs = RolloutObjective(
            paper.student,
            teacher,
            trajectories,
            schedule=self.inference,
            rollouts=self.on_policy,
        )
        return BlendedObjective(paper, runs, self.on_policy.weight)

    def read(self, folder: Path, teacher: EquilibriumModel) -> ConsistencyDEQ:
        """A student that was saved in a folder."""
        return ConsistencyDEQ.from_pretrained(folder, teacher)


@dataclass(frozen=True, kw_only=True)
class UntiedRecipe:
    """The student with its own first steps, and its distillation; goes beyond the paper.

    Arguments:
        plan: How long and how fast.
        steps: How many steps J have weights of their own.
        increments: The form of their weights' Δ.
        readout: Whether steps have a readout W_j besides.
        mixed: Mix the learned steps as the solver of the tail does, instead of composing them.
        initializer: Whether the model's own initializer takes the place of the first step's map.
        tail: The solver of the steps after.
        loss: What is minimised, on the student's own runs.
        beyond: Steps of the solver that a run in training goes on for after the J learned ones, so
            that they learn to hand over well; needs gradients through the run (`loss.detach` off).
        shortest: The smallest number of steps of a run, drawn anew for each batch; the largest is
            J + `beyond`. None takes the largest always.
        mixture: How often the runs go on from the teacher's states.
    """

    plan: Plan
    steps: int = 2
    increments: Full | LowRank | Shared = Full()
    readout: bool = True
    mixed: bool = False
    initializer: bool = False
    tail: Anderson = Anderson()
    loss: RolloutLoss = RolloutLoss(detach=False)
    beyond: int = 1
    shortest: int | None = None
    mixture: Mixture = Mixture()
    inference: ClassVar[ExponentialSchedule] = ExponentialSchedule.from_ratio(0.5)

    def __post_init__(self) -> None:
        require_count("steps", self.steps)
        if self.beyond < 0 or (self.beyond and self.loss.detach):
            raise ValueError(
                "`beyond` counts steps of the solver that the learned ones are trained through, "
                f"which takes `loss.detach` off; got {self.beyond} with detach={self.loss.detach}."
            )
        _ = self.rollouts  # refuses a shortest run that is longer than the longest

    @property
    def rollouts(self) -> Rollouts:
        """How the student's runs in training are."""
        longest = self.steps + self.beyond
        shortest = longest if self.shortest is None else self.shortest
        return Rollouts(shortest=shortest, longest=longest, loss=self.loss, mixture=self.mixture)

    def build(self, teacher: EquilibriumModel) -> UntiedDEQ:
        """A fresh student of this teacher."""
        return UntiedDEQ.from_teacher(
            teacher,
            steps=self.steps,
            increments=self.increments,
            readout=self.readout,
            mixing=self.tail if self.mixed else None,
            first=self._first(teacher),
            tail=self.tail,
        )

    def objective(
        self, teacher: EquilibriumModel, trajectories: TrajectorySource
    ) -> RolloutObjective:
        """The distillation of a fresh student."""
        return RolloutObjective(
            self.build(teacher),
            teacher,
            trajectories,
            schedule=self.inference,
            rollouts=self.rollouts,
        )

    def read(self, folder: Path, teacher: EquilibriumModel) -> UntiedDEQ:
        """A student that was saved in a folder."""
        return UntiedDEQ.from_pretrained(folder, teacher, first=self._first(teacher))

    def _first(self, teacher: EquilibriumModel) -> nn.Module | None:
        return teacher.initializer() if self.initializer else None
