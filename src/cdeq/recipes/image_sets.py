"""Recipes of image classification with MDEQ, by set of images."""

from dataclasses import replace
from pathlib import Path

from cdeq.core.adjoint import Phantom
from cdeq.core.solvers import Anderson
from cdeq.data.augment import Augmentation
from cdeq.data.framing import Framing
from cdeq.models.vision import mdeq_sizes
from cdeq.models.vision.alexnet import AlexNetSpec
from cdeq.models.vision.bn_inception import BNInceptionSpec
from cdeq.models.vision.hrnet import HRNetSpec
from cdeq.models.vision.mdeq import MDEQSpec
from cdeq.recipes.base import EvaluationRecipe, Pretraining, TeacherRecipe, TrajectoryRecipe
from cdeq.recipes.hyper import HyperRecipe
from cdeq.recipes.image import ImageRecipe
from cdeq.recipes.image_explicit import ImageExplicitRecipe
from cdeq.recipes.image_sources import (
    CIFARSource,
    DigitsSource,
    FolderSource,
    HubSource,
    Source,
)
from cdeq.recipes.students import StudentRecipe, UntiedRecipe
from cdeq.training.plan import Hardware, Plan
from cdeq.training.teacher import TeacherLoss

FIVE = Phantom(steps=5, damping=0.5)
"""Gradients through five more evaluations, instead of a second solve."""


def _pictured(
    source: Source,
    network: MDEQSpec,
    plan: Plan,
    *,
    first: Pretraining,
    augmentation: Augmentation,
    alexnet: AlexNetSpec,
    bn_inception: BNInceptionSpec,
    hrnet: HRNetSpec,
) -> ImageRecipe:
    """A teacher that is pre-trained with a few steps, and all that stands beside it."""
    half = {"steps": plan.steps // 2, "warmup": plan.warmup // 2}
    quick = replace(plan, weight_decay=0.0, validate_every=0, **half)
    whole = replace(plan, steps=first.plan.steps + plan.steps)
    return ImageRecipe(
        source=source,
        network=network,
        augmentation=augmentation,
        teacher=TeacherRecipe(
            # equilibria that are found quickly are what students can be taught
            loss=TeacherLoss(
                shortest=6,
                longest=16,
                random_start=0.0,
                jacobian_weight=0.5,
                jacobian_share=0.35,  # as published; it would be a third of an update's time
            ),
            plan=plan,
            pretraining=first,
        ),
        trajectories=TrajectoryRecipe(max_steps=24, online=True, end_tol=1e-4),
        # rates chosen on CIFAR-10's validation images: of HyperDEQ among three, of the paper's
        # student among five, of the best one among four
        student=StudentRecipe(plan=replace(quick, learning_rate=0.25 * plan.learning_rate)),
        best=UntiedRecipe(plan=replace(quick, learning_rate=2.5 * plan.learning_rate)),
        hyper=HyperRecipe(plan=quick),
        few_step=plan,
        few_step_budgets=(1, 2, 8),
        distil=("student-paper", "student-best", "hyperdeq"),
        evaluation=EvaluationRecipe(
            budgets=(1, 2, 4, 8),
            reference_steps=50,
            reference_tol=1e-4,
            certify_tol=1e-2,
            cost_budgets=(1, 2, 8, 20),
            probed=1024,
            batch_size=256,
            intervals=True,
        ),
        alexnet=ImageExplicitRecipe(network=alexnet, plan=whole),
        bn_inception=ImageExplicitRecipe(network=bn_inception, plan=whole),
        hrnet=ImageExplicitRecipe(network=hrnet, plan=whole),
    )


CROPPED = Augmentation(padding=4, flip=0.5)
"""The usual changes of CIFAR-10's images."""

SMALL = {
    "alexnet": AlexNetSpec(
        widths=(16, 32, 48, 32, 32),
        hidden=192,
        kernel=3,
        stride=1,
        padding=1,
        pooled=3,
        dropout=0.0,
    ),
    "bn_inception": BNInceptionSpec(width=1 / 8, small=True),
    "hrnet": HRNetSpec(
        stem=16,
        strides=(1, 2),
        first=8,
        widths=(8, 12, 16, 24),
        modules=(1, 1, 1),
        blocks=2,
        head=(4, 8, 12, 16),
        features=128,
    ),
}
"""Explicit networks for images of 32 × 32, of about as many parameters as `mdeq_sizes.tiny`."""

MEDIUM = {
    "alexnet": AlexNetSpec(
        widths=(64, 128, 192, 192, 192), hidden=768, kernel=5, stride=2, padding=2, pooled=3
    ),
    "bn_inception": BNInceptionSpec(width=1 / 2, small=True),
    "hrnet": replace(
        SMALL["hrnet"],
        stem=32,
        strides=(2, 2),
        first=32,
        widths=(16, 32, 64, 128),
        head=(12, 24, 48, 96),
        features=512,
    ),
}
"""Explicit networks for images of 64 × 64, of about as many parameters as the teacher there."""

LARGE = {"alexnet": AlexNetSpec(), "bn_inception": BNInceptionSpec(), "hrnet": HRNetSpec()}
"""Explicit networks as published."""


def cifar10() -> ImageRecipe:
    """CIFAR-10, half its resolution in f, in bfloat16: a teacher takes an hour or so on a core."""
    network = replace(
        mdeq_sizes.tiny(),
        strides=(1, 2),
        dropout=0.0,
        solver=Anderson(),
        max_steps=24,
        phantom=FIVE,
    )
    plan = Plan(
        steps=3000,
        batch_size=64,
        learning_rate=2e-3,
        warmup=200,
        weight_decay=1e-2,
        validate_every=1000,
    )
    first = Pretraining(plan=replace(plan, steps=2500, validate_every=0), steps=3)
    # chosen on validation images: in so few updates shifts cost more than they give
    mirrored = Augmentation(flip=0.5)
    recipe = _pictured(CIFARSource(), network, plan, first=first, augmentation=mirrored, **SMALL)
    # nearly twice as fast where the processor knows bfloat16
    return replace(recipe, hardware=Hardware(precision="bf16-mixed"))


def _single_stream(recipe: ImageRecipe, one: MDEQSpec) -> ImageRecipe:
    """The recipe with one resolution, as wide as `one`, and no explicit networks."""
    network = replace(recipe.network, channels=one.channels, head=one.head)
    return replace(recipe, network=network, explicit=())


def cifar10_single_stream() -> ImageRecipe:
    """`cifar10` with one resolution: the single-stream DEQ."""
    return _single_stream(cifar10(), mdeq_sizes.single_stream_tiny())


def cifar10_published() -> ImageRecipe:
    """CIFAR-10 with MDEQ-Tiny as published, at the images' own resolution: for a GPU."""
    network = replace(mdeq_sizes.tiny(), solver=Anderson(), phantom=FIVE)
    plan = Plan(
        steps=30_000,
        batch_size=128,
        learning_rate=1e-3,
        warmup=1000,
        weight_decay=1e-2,
        validate_every=5000,
    )
    first = Pretraining(plan=replace(plan, steps=15_000, validate_every=0), steps=3)
    return _pictured(CIFARSource(), network, plan, first=first, augmentation=CROPPED, **SMALL)


def own_images() -> ImageRecipe:
    """Images of your own, in a folder a class: `--source.path FOLDER`."""
    recipe = cifar10()
    network = replace(recipe.network, mean=(0.5, 0.5, 0.5), deviation=(0.25, 0.25, 0.25))
    source = FolderSource(root=Path(), framing=Framing(size=32, resize=36))
    return replace(recipe, source=source, network=network, hardware=Hardware())


def hub_images() -> ImageRecipe:
    """A data set of Hugging Face's hub: `--source.name OWNER/NAME`."""
    return replace(own_images(), source=HubSource())


def tiny_imagenet() -> ImageRecipe:
    """Two hundred classes in folders, tiny-imagenet-200/{train,val}, 64 × 64: for a GPU."""
    network = replace(
        mdeq_sizes.tiny(),
        channels=(32, 64, 128),
        strides=(1, 2),
        head=(16, 32, 64),
        features=512,
        mean=mdeq_sizes.IMAGENET[0],
        deviation=mdeq_sizes.IMAGENET[1],
        solver=Anderson(),
        max_steps=24,
        phantom=FIVE,
    )
    plan = Plan(
        steps=20_000,
        batch_size=128,
        learning_rate=1e-3,
        warmup=500,
        weight_decay=1e-2,
        validate_every=5000,
    )
    first = Pretraining(plan=replace(plan, steps=10_000, validate_every=0), steps=3)
    # the official archive has lists of boxes among its training images
    source = FolderSource(path=Path("tiny-imagenet-200"), unusable="skip")
    moved = Augmentation(padding=6, flip=0.5)
    return _pictured(source, network, plan, first=first, augmentation=moved, **MEDIUM)


def tiny_imagenet_single_stream() -> ImageRecipe:
    """`tiny_imagenet` with one resolution, of about as many parameters."""
    recipe = tiny_imagenet()
    return _single_stream(recipe, replace(recipe.network, channels=(168,), head=()))


def imagenet() -> ImageRecipe:
    """ImageNet in folders, imagenet/{train,val}, with MDEQ-Small as large as published: GPUs."""
    plan = Plan(
        steps=490_000,
        batch_size=128,
        learning_rate=1e-3,
        warmup=10_000,
        weight_decay=5e-2,
        validate_every=50_000,
        checkpoint_every=1000,
    )
    recipe = _pictured(
        FolderSource(
            path=Path("imagenet"),
            framing=Framing(size=224, resize=256),
            validation=0.01,
            threads=8,
            unusable="skip",
        ),
        mdeq_sizes.small(),
        plan,
        first=Pretraining(plan=replace(plan, steps=510_000, validate_every=0), steps=5),
        augmentation=Augmentation(scale=(0.08, 1.0), flip=0.5),
        **LARGE,
    )
    quick = {"steps": 50_000, "warmup": 1000}
    whole_budget = TeacherLoss(shortest=26, longest=26, random_start=0.0)
    return replace(
        recipe,
        teacher=replace(recipe.teacher, loss=whole_budget),
        trajectories=replace(recipe.trajectories, max_steps=26),
        student=replace(recipe.student, plan=replace(recipe.student.plan, **quick)),
        best=replace(recipe.best, plan=replace(recipe.best.plan, **quick)),
        hyper=replace(recipe.hyper, plan=replace(recipe.hyper.plan, **quick)),
    )


def imagenet_single_stream() -> ImageRecipe:
    """`imagenet` with one resolution: the single-stream DEQ."""
    return _single_stream(imagenet(), mdeq_sizes.single_stream_small())


def mdeq_tiny() -> ImageRecipe:
    """MDEQ on a few of scikit-learn's digits, in seconds: for trying commands out."""
    network = MDEQSpec(
        channels=(8, 8),
        expansion=2,
        groups=2,
        strides=(1,),
        head=(2, 2),
        features=16,
        max_steps=16,
        phantom=FIVE,
    )
    quick = Plan(steps=40, batch_size=32, warmup=5, checkpoint_every=20)
    recipe = _pictured(
        DigitsSource(limit=96),
        network,
        quick,
        first=Pretraining(plan=replace(quick, steps=20), steps=3),
        augmentation=Augmentation(padding=1),
        alexnet=SMALL["alexnet"],
        bn_inception=replace(SMALL["bn_inception"], width=1 / 32),
        hrnet=replace(SMALL["hrnet"], widths=(4, 8), modules=(1,), head=(2, 2), strides=(1, 1)),
    )
    return replace(
        recipe,
        teacher=replace(recipe.teacher, plan=replace(quick, validate_every=20)),
        student=replace(recipe.student, plan=quick),
        best=replace(recipe.best, plan=quick),
        hyper=replace(recipe.hyper, plan=quick),
        few_step_budgets=(1,),
        evaluation=replace(
            recipe.evaluation, budgets=(1, 2), cost_budgets=(1,), probed=32, reference_steps=20
        ),
        explicit=("bn_inception", "hrnet"),
    )


IMAGES = (
    *(mdeq_tiny, own_images, hub_images, cifar10, cifar10_single_stream, cifar10_published),
    *(tiny_imagenet, tiny_imagenet_single_stream, imagenet, imagenet_single_stream),
)
"""All of them."""
