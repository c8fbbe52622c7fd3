"""Recipes of image classification."""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from cdeq.consistency.loss import DistillationLoss
from cdeq.consistency.pairs import EndpointAugmentation
from cdeq.consistency.time import PowerSchedule, TimeSpan
from cdeq.data.images import ImageSet, load_digits, shift
from cdeq.data.indexed import IndexedData
from cdeq.digest import digest_of_tensors
from cdeq.evaluation.metrics import ACCURACY, Metric
from cdeq.models.base import EquilibriumModel
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.recipes.base import (
    EvaluationRecipe,
    Recipe,
    Splits,
    TeacherRecipe,
    TrajectoryRecipe,
)
from cdeq.recipes.students import StudentRecipe, UntiedRecipe
from cdeq.training.distill import Sampling
from cdeq.training.plan import Plan, require_count
from cdeq.training.teacher import Augment, TeacherLoss


@dataclass(frozen=True, kw_only=True)
class DigitsRecipe(Recipe):
    """Scikit-learn's 1,797 handwritten digits and a convolutional DEQ that is a contraction.

    Arguments:
        limit: Keep only the first so many images of each part.

    Raises:
        ValueError: When a setting is outside its range.
    """

    network: ContractionSpec = ContractionSpec()
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None:
            require_count("limit", self.limit)

    @property
    def metric(self) -> Metric:
        return ACCURACY

    def model(self) -> ContractionDEQ:
        return ContractionDEQ(self.network)

    def read_model(self, folder: str) -> EquilibriumModel:
        return ContractionDEQ.from_pretrained(folder)

    def data(self) -> Splits:
        parts = load_digits(limit=self.limit)
        classes = 1 + max(int(part.label.max()) for part in parts)
        if classes > self.network.classes:
            raise ValueError(
                f"the digits have {classes} classes; got a network for {self.network.classes}."
            )
        return Splits(*parts)

    def data_digest(self, part: IndexedData) -> str:
        assert isinstance(part, ImageSet)
        return digest_of_tensors(part.image, part.label)

    def augment(self) -> Augment:
        return shifted


def shifted(batch: ImageBatch, generator: torch.Generator) -> ImageBatch:
    """The batch with its images moved by at most a pixel."""
    return batch._replace(image=shift(batch.image, generator))


def digits() -> DigitsRecipe:
    """The demo: real digits, three students; minutes on two cores."""
    return DigitsRecipe(
        teacher=TeacherRecipe(
            loss=TeacherLoss(shortest=8, longest=35, random_start=0.5),
            plan=Plan(steps=700, learning_rate=3e-3, weight_decay=1e-3, validate_every=100),
        ),
        trajectories=TrajectoryRecipe(max_steps=20),
        student=StudentRecipe(plan=Plan(steps=800, learning_rate=1e-2)),
        best=UntiedRecipe(plan=Plan(steps=400, learning_rate=2e-2)),
        few_step=Plan(steps=700, learning_rate=1e-2, weight_decay=1e-3, validate_every=100),
        few_step_budgets=(1, 2, 3, 4, 5, 8, 16),
    )


def digits_released() -> DigitsRecipe:
    """`digits` with every deviation of the authors' released code at once."""
    recipe = digits()
    span = TimeSpan(eps=2e-3, end=5.0)
    student = replace(
        recipe.student,
        boundary=replace(recipe.student.boundary, span=span),
        schedule=PowerSchedule(power=7.0, steps=recipe.trajectories.max_steps, span=span),
        inference=replace(recipe.student.inference, span=span),
        mlp_readout=True,
        train_cell=False,
        loss=DistillationLoss(
            anchor_weight=0.9, task_weight=0.0, distance=F.smooth_l1_loss, reverse_pair=True
        ),
        sampling=Sampling(augmentation=EndpointAugmentation(probability=0.0)),
    )
    return replace(recipe, student=student)


def digits_tiny() -> DigitsRecipe:
    """`digits` in seconds, on a few images with a few channels: for trying the commands out."""
    quick = Plan(steps=40, batch_size=32, warmup=5, checkpoint_every=10)
    return DigitsRecipe(
        network=ContractionSpec(channels=6, max_steps=20),
        limit=96,
        teacher=TeacherRecipe(
            loss=TeacherLoss(shortest=4, longest=12), plan=replace(quick, validate_every=20)
        ),
        trajectories=TrajectoryRecipe(max_steps=12, shard_samples=32),
        student=StudentRecipe(plan=replace(quick, learning_rate=1e-3)),
        best=UntiedRecipe(plan=replace(quick, learning_rate=1e-3)),
        few_step=quick,
        evaluation=EvaluationRecipe(budgets=(1, 2, 4)),
    )
