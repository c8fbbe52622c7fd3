"""The learned solver that students are compared with, with the face of a student's recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from cdeq.consistency.time import ExponentialSchedule
from cdeq.hypersolver.loss import HyperLoss
from cdeq.hypersolver.network import require_width
from cdeq.hypersolver.scope import PerPosition, Pooled
from cdeq.hypersolver.solver import HyperDEQ, Neighbours
from cdeq.models.base import EquilibriumModel
from cdeq.training.hyper import HyperObjective, Unrolling
from cdeq.training.plan import Plan
from cdeq.trajectories.source import TrajectorySource


@dataclass(frozen=True, kw_only=True)
class HyperRecipe:
    """A learned solver and its training.

    Arguments:
        plan: How long and how fast.
        window: The number of earlier states m ≥ 0 that a step mixes besides the current one.
        width: Numbers in the code of a residual, a multiple of 5 from 10 up.
        scope: What has mixing weights of its own: a sample (Pooled), or each of its positions
            (PerPosition: tokens, nodes, pixels).
        smoothed: Whether the codes are averaged over the neighbours of a position first; for
            graphs.
        initializer: Whether the model's own initializer guesses where a run starts.
        loss: What is minimised, on runs of the solver's own.
        shortest: The smallest number of steps of a run, drawn anew for each batch.
        longest: The largest; what it does in more evaluations than that, it was never taught.

    Raises:
        ValueError: When a setting is outside its range, or codes are smoothed that no position
            has for its own.
    """

    plan: Plan
    window: int = 5
    width: int = 20
    scope: Pooled | PerPosition = Pooled()
    smoothed: bool = False
    initializer: bool = True
    loss: HyperLoss = HyperLoss()
    shortest: int = 2
    longest: int = 8
    inference: ClassVar[ExponentialSchedule] = ExponentialSchedule.from_ratio(0.5)

    def __post_init__(self) -> None:
        require_width(self.width)
        if self.window < 0:
            raise ValueError(f"`window` counts the earlier states m ≥ 0; got {self.window}.")
        if self.smoothed and not isinstance(self.scope, PerPosition):
            raise ValueError(
                "`smoothed` averages codes between positions, so each has its own, scope "
                f"PerPosition(); got {self.scope}."
            )
        _ = self.unrolling  # refuses a shortest run that is longer than the longest

    @property
    def unrolling(self) -> Unrolling:
        """How the solver's runs in training are; λ_3 falls to 0 over the whole of it."""
        return Unrolling(
            shortest=self.shortest, longest=self.longest, loss=self.loss, decay=self.plan.steps
        )

    def build(self, teacher: EquilibriumModel) -> HyperDEQ:
        """A fresh solver for this teacher."""
        return HyperDEQ.from_teacher(
            teacher,
            window=self.window,
            width=self.width,
            scope=self.scope,
            initializer=self._initializer(teacher),
            neighbours=self._neighbours(teacher),
        )

    def objective(
        self, teacher: EquilibriumModel, trajectories: TrajectorySource
    ) -> HyperObjective:
        """The training of a fresh solver."""
        return HyperObjective(self.build(teacher), teacher, trajectories, unrolling=self.unrolling)

    def read(self, folder: Path, teacher: EquilibriumModel) -> HyperDEQ:
        """A solver that was saved in a folder."""
        return HyperDEQ.from_pretrained(
            folder,
            teacher,
            initializer=self._initializer(teacher),
            neighbours=self._neighbours(teacher),
        )

    def _initializer(self, teacher: EquilibriumModel) -> nn.Module | None:
        return teacher.initializer() if self.initializer else None

    def _neighbours(self, teacher: EquilibriumModel) -> Neighbours | None:
        return teacher.neighbours() if self.smoothed else None
