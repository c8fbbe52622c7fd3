"""What every recipe says, whatever its domain."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from cdeq.core.solvers import Anderson
from cdeq.data.indexed import FirstSamples, IndexedData
from cdeq.data.lines import Progress
from cdeq.data.tokenizer import Tokenizer
from cdeq.errors import CDEQError
from cdeq.evaluation.explicit import AnyExplicit
from cdeq.evaluation.metrics import Metric
from cdeq.models.base import EquilibriumModel
from cdeq.recipes.explicit import ExplicitSettings
from cdeq.recipes.hyper import HyperRecipe
from cdeq.recipes.students import StudentRecipe, UntiedRecipe
from cdeq.recipes.variants import VARIANTS, AnyStudent, StudentName
from cdeq.training.plan import Hardware, Plan, require_count
from cdeq.training.teacher import Augment, TeacherLoss

SolverName: TypeAlias = Literal["picard", "anderson", "broyden"]

TOKENIZER = "tokenizer.json"
"""What made numbers of the text that a teacher was trained on, in its folder."""

STUDENTS: tuple[StudentName, ...] = ("student-paper", "student-paper-no-aa", "student-best")


class Splits(NamedTuple):
    """Train to fit, select on validation, report test."""

    train: IndexedData
    validation: IndexedData
    test: IndexedData


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """The first part of a teacher's training, as a network of few steps with shared weights.

    Arguments:
        plan: How long and how fast.
        steps: Evaluations of f, unrolled.

    Raises:
        ValueError: When there is no step.
    """

    plan: Plan
    steps: int = 2

    def __post_init__(self) -> None:
        require_count("steps", self.steps)


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How a teacher is trained.

    Arguments:
        loss: What is minimised.
        plan: How long and how fast.
        pretraining: What comes before, where something does.
    """

    plan: Plan
    loss: TeacherLoss = TeacherLoss()
    pretraining: Pretraining | None = None


@dataclass(frozen=True, kw_only=True)
class TrajectoryRecipe:
    """The teacher's trajectories (Definition 3.1).

    Arguments:
        solver: The solver whose run is distilled.
        max_steps: Its budget K.
        online: Recompute trajectories each step instead of reading a cache.
        end_tol: The relative residual at which students that are told ends alone have them solved
            for, where they are recomputed; None spends the budget.
        dtype: What a cache stores numbers in: float32, bfloat16 or float16.
        shard_samples: Samples solved together and stored in one file.
        samples: Distil from the first so many training samples only; None from all.

    Raises:
        ValueError: When a count is below 1.
    """

    solver: Anderson = Anderson()
    max_steps: int = 20
    online: bool = False
    end_tol: float | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    shard_samples: int = 128
    samples: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "shard_samples", "samples"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        if self.end_tol is not None and not self.end_tol > 0.0:
            raise ValueError(f"`end_tol` is a relative residual above 0; got {self.end_tol}.")


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """What is reported.

    Arguments:
        budgets: Evaluations of f at which every method is scored, ascending.
        reference_steps: Anderson's budget for finding z*.
        reference_tol: Its tolerance; None spends the budget, since an error that is compared with
            others near the end of the precision needs a reference beyond it.
        certify_tol: The residual to which answers are certified.
        certify_steps: The evaluations of a student of the paper's kind before the solver takes
            over; a student with first steps of its own takes these.
        solvers: The solvers that are stopped early, and certified with.
        cost_budgets: Evaluations at which the costs of answers are measured too; () nowhere.
        cost_rounds: How often each is timed, beside one evaluation.
        probed: Samples, the first ones, for what costs long runs of the solver: the audit of the
            teacher, certificates, early stopping; None takes all.
        splits: The parts of the data to report on; validation is for choosing between variants.
        batch_size: Samples at a time.
        intervals: Also half the width of the 95 % interval of each score over the samples, for
            scores of independent ones: what one seed can say of chance.
        only: Scores by evaluations alone, without the paper's students with the solver behind
            them, or costs alone; None for everything.

    Raises:
        ValueError: When the budgets do not ascend from at least 1, or a count is below 1.
    """

    budgets: tuple[int, ...] = (1, 2, 3, 4, 5, 8, 16, 32)
    reference_steps: int = 200
    reference_tol: float | None = None
    certify_tol: float = 1e-3
    certify_steps: int = 2
    solvers: tuple[SolverName, ...] = ("picard", "anderson", "broyden")
    cost_budgets: tuple[int, ...] = ()
    cost_rounds: int = 3
    probed: int | None = None
    splits: tuple[Literal["validation", "test"], ...] = ("test",)
    batch_size: int = 512
    intervals: bool = False
    only: Literal["scores", "costs"] | None = None

    def __post_init__(self) -> None:
        if not self.budgets or self.budgets[0] < 1 or sorted({*self.budgets}) != [*self.budgets]:
            raise ValueError(
                "`budgets` are numbers of evaluations from 1 up, at least one and ascending; got "
                f"{self.budgets}."
            )
        for name in ("reference_steps", "certify_steps"):
            require_count(name, getattr(self, name))
        for name in ("reference_tol", "certify_tol"):
            tol = getattr(self, name)
            if tol is not None and not tol > 0.0:
                raise ValueError(f"`{name}` is a relative residual above 0; got {tol}.")
        for name in ("batch_size", "cost_rounds", "probed"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        if self.cost_budgets and min(self.cost_budgets) < 1:
            raise ValueError(f"`cost_budgets` count from 1; got {self.cost_budgets}.")


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """All settings of one published number. A domain adds its data, model and metric.

    Arguments:
        distil: Which students: the paper's with and without AA, the best, or any other variant.
        seed: Decides initial weights, batch order and all randomness of training.
        network: The settings of the teacher's network.
        teacher: How the teacher is trained.
        trajectories: What of it is distilled.
        student: The paper's student and its distillation.
        best: The student with its own first steps, and its distillation.
        hyper: The learned solver, a baseline of students, and its training.
        few_step: How the baseline of few unrolled steps is trained.
        few_step_budgets: For which numbers of steps; None takes the evaluation's budgets.
        evaluation: What is reported.
        hardware: Where to train.

    Raises:
        ValueError: When the seed is outside its range.
    """

    network: Any
    teacher: TeacherRecipe
    student: StudentRecipe
    best: UntiedRecipe
    few_step: Plan
    hyper: HyperRecipe = HyperRecipe(plan=Plan(steps=500))
    few_step_budgets: tuple[int, ...] | None = None
    distil: tuple[StudentName, ...] = STUDENTS
    seed: int = 0
    trajectories: TrajectoryRecipe = TrajectoryRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` is a whole number from 0 to 2³¹ - 1; got {self.seed}.")
        if not self.student.accelerate:
            raise ValueError(
                "`student` has the settings of both of the paper's students, so its `accelerate` "
                "stays True; choose the one without AA by `distil`."
            )

    @property
    def students(self) -> dict[str, AnyStudent]:
        """The settings of the students that are distilled, by name."""
        settings = (self.student, self.best, self.hyper)
        return {name: VARIANTS[name](*settings) for name in self.distil}

    @property
    def explicit_networks(self) -> Mapping[str, ExplicitSettings[Any]]:
        """The explicit networks to compare with, by name."""
        return {}

    def explicit_model(self, name: str) -> AnyExplicit:
        """A fresh explicit network; its weights depend on torch's global seed.

        Raises:
            CDEQError: When the recipe has none of this name.
        """
        raise CDEQError(f"this recipe has no explicit network {name!r}.")

    def explicit_data(self, name: str, data: Splits) -> Splits:
        """The data in the form that an explicit network takes, from that of the teacher."""
        return data

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What made numbers of a text; None where there was no text."""
        return None

    def save_beside(self, folder: Path) -> None:
        """Write what using a teacher takes besides its weights, into its folder."""
        if self.tokenizer is not None:
            self.tokenizer.save(folder / TOKENIZER)

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """The task's score."""

    @property
    def further_metrics(self) -> tuple[Metric, ...]:
        """More scores of the same answers."""
        return ()

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

    def prepare(self, progress: Progress) -> None:
        """Make what `data` reads, where that takes long the first time and nobody has yet.

        Arguments:
            progress: Told of what is being done, how much is done, and how much there is.
        """
        return

    @abstractmethod
    def data(self) -> Splits:
        """The data in its three parts."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What there is to say about the data, such as what was left out of them."""
        return ()

    def further_data(self) -> Mapping[str, IndexedData]:
        """More sets to report scores on, by name."""
        return {}

    def told(
        self,
        part: IndexedData,
        teacher: EquilibriumModel,
        path: Path,
        *,
        samples: int | None = None,
        advance: Callable[[int, int], object] = lambda done, total: None,
    ) -> IndexedData:
        """A part of the data with all that the teacher tells about each sample, where samples go
        on from one another; else the part itself.

        Arguments:
            part: One of `data()`.
            teacher: The teacher.
            path: A file of its own to keep it in.
            samples: Only the first so many samples; None takes all.
            advance: Called with what is done and what there is to do.
        """
        return part if samples is None else FirstSamples(part, samples)

    @abstractmethod
    def data_digest(self, part: IndexedData) -> str:
        """A fingerprint of one part of the data."""

    def augment(self) -> Augment | None:
        """A random change of training batches."""
        return None
