"""Recipes of image restoration."""

from dataclasses import dataclass, replace

from cdeq.data.indexed import IndexedData
from cdeq.data.patches import PatchSet, flip, load_patches
from cdeq.digest import digest_of_tensors
from cdeq.evaluation.metrics import PSNR, Metric
from cdeq.models.base import EquilibriumModel
from cdeq.models.imaging.blur import GaussianBlur
from cdeq.models.imaging.red import REDDEQ, REDSpec
from cdeq.recipes.base import (
    EvaluationRecipe,
    Recipe,
    Splits,
    TeacherRecipe,
    TrajectoryRecipe,
)
from cdeq.recipes.students import StudentRecipe, UntiedRecipe
from cdeq.training.plan import Plan, require_count
from cdeq.training.teacher import Augment, TeacherLoss


@dataclass(frozen=True, kw_only=True)
class DeblurRecipe(Recipe):
    """Patches of two photographs, blurred, and a DEQ that minimises a learned convex energy.

    Arguments:
        noise: The standard deviation of the camera's noise, ≥ 0, as a share of full contrast.
        limit: Keep only so many patches of each part.

    Raises:
        ValueError: When a setting is outside its range.
    """

    network: REDSpec = REDSpec()
    noise: float = 0.005
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None:
            require_count("limit", self.limit)

    @property
    def metric(self) -> Metric:
        return PSNR

    @property
    def task(self) -> str:
        return "deblurring"

    def model(self) -> REDDEQ:
        return REDDEQ(self.network)

    def read_model(self, folder: str) -> EquilibriumModel:
        return REDDEQ.from_pretrained(folder)

    def data(self) -> Splits:
        spec = self.network
        blur = GaussianBlur(sigma=spec.blur, radius=spec.radius, size=spec.size)
        return Splits(*load_patches(blur, noise=self.noise, limit=self.limit))

    def data_digest(self, part: IndexedData) -> str:
        assert isinstance(part, PatchSet)
        return digest_of_tensors(part.blurred, part.sharp)

    def augment(self) -> Augment:
        return flip


def deblur() -> DeblurRecipe:
    """Blurred photographs, where few evaluations are not enough; minutes on two cores."""
    return DeblurRecipe(
        teacher=TeacherRecipe(
            # there is one equilibrium whatever the start, and noise as large as the state lies so
            # far beyond the thresholds that no budget here would bring it back
            loss=TeacherLoss(shortest=20, longest=40, random_start=0.0),
            plan=Plan(steps=100, batch_size=32, learning_rate=1e-2, validate_every=50),
        ),
        trajectories=TrajectoryRecipe(max_steps=32),
        student=StudentRecipe(plan=Plan(steps=500, batch_size=32, learning_rate=1e-2)),
        best=UntiedRecipe(plan=Plan(steps=300, batch_size=32, learning_rate=5e-2)),
        few_step=Plan(steps=1500, batch_size=32, learning_rate=1e-2, validate_every=250),
        few_step_budgets=(1, 2, 4),
    )


def deblur_tiny() -> DeblurRecipe:
    """`deblur` in seconds, on a few patches with a few filters: for trying the commands out."""
    quick = Plan(steps=20, batch_size=16, warmup=5, checkpoint_every=10)
    return DeblurRecipe(
        network=REDSpec(channels=3, width=3, size=16, max_steps=20),
        limit=48,
        teacher=TeacherRecipe(
            loss=TeacherLoss(shortest=8, longest=16, random_start=0.0),
            plan=replace(quick, validate_every=10),
        ),
        trajectories=TrajectoryRecipe(max_steps=16, shard_samples=16),
        student=StudentRecipe(plan=replace(quick, learning_rate=1e-3)),
        best=UntiedRecipe(plan=replace(quick, learning_rate=1e-3)),
        few_step=quick,
        evaluation=EvaluationRecipe(budgets=(1, 2, 4)),
    )
