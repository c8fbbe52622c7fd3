"""Recipes: every one is consistent, and impossible settings are refused before anything runs."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from cdeq import ConsistencyDEQ, LinearReadout, MLPReadout, TimeSpan
from cdeq.models.vision.contraction import ContractionSpec
from cdeq.recipes import RECIPES, Recipe
from cdeq.recipes.base import EvaluationRecipe, StudentRecipe, TrajectoryRecipe
from cdeq.recipes.variants import VARIANTS, StudentName
from cdeq.training.plan import Plan
from cdeq.trajectories import Manifest

each_recipe = pytest.mark.parametrize("name", RECIPES)


@each_recipe
def test_a_recipe_makes_a_model_that_takes_its_data(name: str) -> None:
    recipe = RECIPES[name]()
    torch.manual_seed(0)
    model, data = recipe.model(), recipe.data()
    batch = data.validation.take(torch.arange(5))
    with torch.no_grad():
        scores = recipe.metric.score(model(batch), batch)
    assert scores.shape == (5,)
    assert bool(scores.isfinite().all())
    assert recipe.metric.same is None or set(scores.tolist()) <= {0.0, 1.0}, "right or wrong"


@each_recipe
def test_a_recipe_makes_a_student_of_its_settings(name: str) -> None:
    recipe = RECIPES[name]()
    settings, model = recipe.student, recipe.model()
    student = settings.build(model)
    assert isinstance(student, ConsistencyDEQ)
    for setting in ("boundary", "mixing", "accelerate", "detach_weights"):
        assert getattr(student, setting) == getattr(settings, setting)
    kind = MLPReadout if settings.mlp_readout else LinearReadout
    assert type(student.readout) is kind
    assert {p.requires_grad for p in student.cell.parameters()} == {settings.train_cell}


@each_recipe
def test_the_trajectory_reaches_the_first_and_the_last_index(name: str) -> None:
    """Times are defined for every k that is drawn, and rise strictly."""
    recipe = RECIPES[name]()
    times = recipe.student.schedule.times(recipe.trajectories.max_steps + 1).double()
    assert bool((times.diff() > 0).all())
    assert recipe.student.sampling.first <= recipe.trajectories.max_steps


@each_recipe
def test_two_seeds_differ_in_the_seed_alone(name: str) -> None:
    recipe = RECIPES[name]()
    other = replace(recipe, seed=1)
    assert replace(other, seed=0) == recipe != other


def test_the_fingerprint_of_data_sees_pixels_and_labels() -> None:
    recipe = RECIPES["digits_tiny"]()
    part = recipe.data().train
    before = recipe.data_digest(part)
    assert recipe.data_digest(recipe.data().train) == before
    assert recipe.data_digest(replace(part, label=part.label.flip(0))) != before
    assert recipe.data_digest(replace(part, image=part.image.flip(0))) != before


def with_seed(seed: int) -> Recipe:
    return replace(RECIPES["digits_tiny"](), seed=seed)


STUDENT = StudentRecipe(plan=Plan(steps=1))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: with_seed(-1), "`seed` is a whole number from 0"),
        (lambda: with_seed(2**31), "`seed` is a whole number from 0 to 2³¹ - 1; got 2147483648"),
        (lambda: replace(with_seed(0), limit=0), "`limit` is a count of at least 1; got 0"),
        (lambda: replace(with_seed(0), limit=-3), "`limit` is a count of at least 1; got -3"),
        (
            lambda: replace(with_seed(0), student=replace(STUDENT, accelerate=False)),
            "choose the one without AA by `distil`",
        ),
        (lambda: TrajectoryRecipe(max_steps=0), "`max_steps` is a count of at least 1"),
        (lambda: TrajectoryRecipe(shard_samples=0), "`shard_samples` is a count of at least 1"),
        (lambda: EvaluationRecipe(budgets=()), r"at least one and ascending; got \(\)"),
        (lambda: EvaluationRecipe(budgets=(0, 1)), r"from 1 up, .*; got \(0, 1\)"),
        (lambda: EvaluationRecipe(budgets=(2, 1)), r"ascending; got \(2, 1\)"),
        (lambda: EvaluationRecipe(budgets=(1, 1)), r"ascending; got \(1, 1\)"),
        (lambda: EvaluationRecipe(reference_steps=0), "`reference_steps` is a count"),
        (lambda: EvaluationRecipe(batch_size=0), "`batch_size` is a count of at least 1"),
        (lambda: replace(STUDENT, mixing=0.0), "relaxation β"),
        (lambda: replace(STUDENT, mixing=1.1), "relaxation β"),
        (
            lambda: replace(STUDENT, boundary=replace(STUDENT.boundary, span=TimeSpan(end=2.0))),
            "speak of one virtual time, so their spans are equal; got",
        ),
    ],
)
def test_impossible_settings_are_refused(make, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_a_network_with_too_few_classes_is_refused() -> None:
    recipe = replace(RECIPES["digits"](), network=ContractionSpec(classes=9))
    with pytest.raises(ValueError, match="the digits have 10 classes; got a network for 9"):
        recipe.data()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_of_a_cache_is_known_to_it(dtype: str) -> None:
    settings = TrajectoryRecipe(dtype=dtype)  # type: ignore[arg-type]
    Manifest(
        teacher="a", data="b", solver="c", initial="zero", max_steps=1, samples=1,
        dtype=settings.dtype,
    )  # fmt: skip


def test_every_student_that_can_be_named_has_a_meaning() -> None:
    assert set(get_args(StudentName)) == set(VARIANTS)
    recipe = RECIPES["digits"]()
    meanings = [
        variant(recipe.student, recipe.best, recipe.hyper) for variant in VARIANTS.values()
    ]
    doubles = [a for i, a in enumerate(meanings) if a in meanings[:i]]
    assert not doubles, "two names for one student"
