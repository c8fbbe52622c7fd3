"""What every recipe says, whatever its domain."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cdeq.consistency.loss import DistillationLoss
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.time import Boundary, ExponentialSchedule, PowerSchedule
from cdeq.core.readout import LinearReadout, MLPReadout
from cdeq.core.solvers import Anderson
from cdeq.core.solvers.base import require_fraction
from cdeq.data.indexed import IndexedData
from cdeq.evaluation.metrics import Metric
from cdeq.models.base import EquilibriumModel
from cdeq.training.distill import Sampling
from cdeq.training.plan import Hardware, Plan
from cdeq.training.teacher import Augment, TeacherLoss


def require_count(name: str, value: int) -> None:
    """Refuse a count below 1.

    Raises:
        ValueError: Says what came.
    """
    if value < 1:
        raise ValueError(f"`{name}` is a count of at least 1; got {value}.")


class Splits(NamedTuple):
    """Train to fit, select on validation, report test."""

    train: IndexedData
    validation: IndexedData
    test: IndexedData


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How a teacher is trained.

    Arguments:
        loss: What is minimised.
        plan: How long and how fast.
    """

    plan: Plan
    loss: TeacherLoss = TeacherLoss()


@dataclass(frozen=True, kw_only=True)
class TrajectoryRecipe:
    """The teacher's trajectories (Definition 3.1).

    Arguments:
        solver: The solver whose run is distilled.
        max_steps: Its budget K.
        online: Recompute trajectories each step instead of reading a cache.
        dtype: What a cache stores numbers in: float32, bfloat16 or float16.
        shard_samples: Samples solved together and stored in one file.

    Raises:
        ValueError: When a count is below 1.
    """

    solver: Anderson = Anderson()
    max_steps: int = 20
    online: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    shard_samples: int = 128

    def __post_init__(self) -> None:
        require_count("max_steps", self.max_steps)
        require_count("shard_samples", self.shard_samples)


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


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """What is reported.

    Arguments:
        budgets: Evaluations of f at which every method is scored, ascending.
        reference_steps: Anderson's budget for finding z*.
        batch_size: Samples at a time.

    Raises:
        ValueError: When the budgets do not ascend from at least 1, or a count is below 1.
    """

    budgets: tuple[int, ...] = (1, 2, 3, 4, 5, 8, 16)
    reference_steps: int = 200
    batch_size: int = 512

    def __post_init__(self) -> None:
        if not self.budgets or self.budgets[0] < 1 or sorted({*self.budgets}) != [*self.budgets]:
            raise ValueError(
                "`budgets` are numbers of evaluations from 1 up, at least one and ascending; got "
                f"{self.budgets}."
            )
        require_count("reference_steps", self.reference_steps)
        require_count("batch_size", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """All settings of one published number. A domain adds its data, model and metric.

    Arguments:
        seed: Decides initial weights, batch order and all randomness of training.
        network: The settings of the teacher's network.
        teacher: How the teacher is trained.
        trajectories: What of it is distilled.
        student: The student and its distillation.
        few_step: How the baseline of few unrolled steps is trained.
        evaluation: What is reported.
        hardware: Where to train.

    Raises:
        ValueError: When the seed is outside its range.
    """

    network: Any
    teacher: TeacherRecipe
    student: StudentRecipe
    few_step: Plan
    seed: int = 0
    trajectories: TrajectoryRecipe = TrajectoryRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` is a whole number from 0 to 2³¹ - 1; got {self.seed}.")

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """The task's score."""

    @property
    def task(self) -> str:
        """What the results are about, for result files."""
        return "classification"

    @abstractmethod
    def model(self) -> EquilibriumModel:
        """A fresh teacher; its weights depend on torch's global seed."""

    @abstractmethod
    def read_model(self, folder: str) -> EquilibriumModel:
        """The teacher that was saved in a folder."""

    @abstractmethod
    def data(self) -> Splits:
        """The data in its three parts."""

    @abstractmethod
    def data_digest(self, part: IndexedData) -> str:
        """A fingerprint of one part of the data."""

    def augment(self) -> Augment | None:
        """A random change of training batches."""
        return None
