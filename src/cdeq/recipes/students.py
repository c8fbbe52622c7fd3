"""The students a recipe distils, with one face: build, objective, read."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

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
from cdeq.training.on_policy import RolloutObjective
from cdeq.training.plan import Plan, require_count
from cdeq.trajectories.source import TrajectorySource


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
    ) -> DistillationObjective:
        """The distillation of a fresh student."""
        return DistillationObjective(
            self.build(teacher),
            teacher,
            trajectories,
            self.schedule,
            loss=self.loss,
            sampling=self.sampling,
        )

    def read(self, folder: Path, teacher: EquilibriumModel) -> ConsistencyDEQ:
        """A student that was saved in a folder."""
        return ConsistencyDEQ.from_pretrained(folder, teacher)


@dataclass(frozen=True, kw_only=True)
class UntiedRecipe:
    """The student with its own first steps, and its distillation; goes beyond the paper.

    Arguments:
        plan: How long and how fast.
        steps: How many steps J have weights of their own.
        tail: The solver of the steps after.
        loss: What is minimised, on the student's own runs.
    """

    plan: Plan
    steps: int = 2
    tail: Anderson = Anderson()
    loss: RolloutLoss = RolloutLoss()
    inference: ClassVar[ExponentialSchedule] = ExponentialSchedule.from_ratio(0.5)

    def __post_init__(self) -> None:
        require_count("steps", self.steps)

    def build(self, teacher: EquilibriumModel) -> UntiedDEQ:
        """A fresh student of this teacher."""
        return UntiedDEQ.from_teacher(teacher, steps=self.steps, tail=self.tail)

    def objective(
        self, teacher: EquilibriumModel, trajectories: TrajectorySource
    ) -> RolloutObjective:
        """The distillation of a fresh student."""
        return RolloutObjective(self.build(teacher), teacher, trajectories, loss=self.loss)

    def read(self, folder: Path, teacher: EquilibriumModel) -> UntiedDEQ:
        """A student that was saved in a folder."""
        return UntiedDEQ.from_pretrained(folder, teacher)
