"""Recipes of language modelling, by text."""

from dataclasses import replace

from cdeq.consistency.loss import DistillationLoss
from cdeq.core.solvers import Anderson
from cdeq.hypersolver.loss import HyperLoss
from cdeq.hypersolver.scope import PerPosition
from cdeq.models.language.deq_transformer import TransformerSpec
from cdeq.models.language.gated_conv import Gated, GatedConvSpec
from cdeq.models.language.qrnn import QRNNSpec
from cdeq.models.language.tcn import TCNSpec
from cdeq.models.language.transformer_xl import TransformerXLSpec
from cdeq.recipes.base import EvaluationRecipe, Pretraining, TeacherRecipe, TrajectoryRecipe
from cdeq.recipes.hyper import HyperRecipe
from cdeq.recipes.language import LanguageRecipe
from cdeq.recipes.students import StudentRecipe, UntiedRecipe
from cdeq.recipes.text_explicit import TextExplicitRecipe
from cdeq.recipes.text_sources import DocumentationSource, Source, TextSource, WikiTextSource
from cdeq.training.plan import Hardware, Plan
from cdeq.training.teacher import TeacherLoss


def _modelled(
    source: Source, features: int, heads: int, cutoffs: tuple[int, ...]
) -> LanguageRecipe:
    """A teacher of two million words or so, and networks of about its size beside it."""
    words = {"features": features, "cutoffs": cutoffs, "dropout": 0.1, "head_dropout": 0.1}
    plan = Plan(
        steps=2000, batch_size=32, learning_rate=1e-3, warmup=100, clip=0.25, validate_every=500
    )
    first = replace(plan, steps=4000, validate_every=0)  # two thirds of the updates, cheap ones
    whole = replace(plan, steps=6000)
    quick = Plan(steps=600, batch_size=16, learning_rate=1e-3, warmup=30)
    blocks = (Gated(features=features, window=5, bottleneck=None),) * 4
    return LanguageRecipe(
        source=source,
        network=TransformerSpec(heads=heads, inner=8 * features, **words),
        teacher=TeacherRecipe(
            # an equilibrium that exists and is found quickly: what a student can be taught
            loss=TeacherLoss(shortest=6, longest=16, random_start=0.0, jacobian_weight=0.3),
            plan=plan,
            pretraining=Pretraining(plan=first, steps=2),
        ),
        trajectories=TrajectoryRecipe(max_steps=16, online=True, samples=16384),
        student=StudentRecipe(plan=quick, loss=DistillationLoss()),
        best=UntiedRecipe(plan=quick),
        hyper=HyperRecipe(plan=quick, scope=PerPosition(), loss=HyperLoss(detach=True)),
        few_step=plan,
        few_step_budgets=(1, 2, 8),
        distil=("student-paper", "student-paper-no-aa", "student-best", "hyperdeq"),
        evaluation=EvaluationRecipe(
            budgets=(1, 2, 3, 4, 6, 8),
            reference_steps=40,
            reference_tol=1e-4,
            solvers=("picard", "anderson"),
            cost_budgets=(1, 2, 8),
            probed=256,
        ),
        transformer_xl=TextExplicitRecipe(
            network=TransformerXLSpec(
                heads=heads, inner=2 * features, deviation=features**-0.5, **words
            ),
            plan=whole,
        ),
        tcn=TextExplicitRecipe(network=TCNSpec(hidden=features, **words), plan=whole),
        gated_conv=TextExplicitRecipe(network=GatedConvSpec(blocks=blocks, **words), plan=whole),
        qrnn=TextExplicitRecipe(
            # dropped as in its published run on WikiText-103, which has no penalties either
            network=QRNNSpec(hidden=2 * features, word_dropout=0.1, **words),
            plan=whole,
        ),
    )


def wikitext2() -> LanguageRecipe:
    """WikiText-2: two million words, f in bfloat16; a teacher takes an hour or so on a core."""
    recipe = _modelled(WikiTextSource(), features=160, heads=4, cutoffs=(4000, 14000))
    # nearly twice as fast where the processor knows bfloat16
    return replace(recipe, hardware=Hardware(precision="bf16-mixed"))


def wikitext2_small() -> LanguageRecipe:
    """WikiText-2 with a network of 64 features: minutes, for questions that take many runs."""
    recipe = _modelled(WikiTextSource(), features=64, heads=4, cutoffs=(2000, 10000))
    plan = replace(recipe.teacher.plan, steps=500, warmup=50, learning_rate=2e-3)
    quick = replace(recipe.best.plan, steps=200, warmup=10, learning_rate=2e-3)
    return replace(
        recipe,
        teacher=replace(
            recipe.teacher,
            plan=plan,
            pretraining=Pretraining(plan=replace(plan, validate_every=0)),
        ),
        student=replace(recipe.student, plan=quick),
        best=replace(recipe.best, plan=quick),
        hyper=replace(recipe.hyper, plan=quick),
        few_step=plan,
        explicit=(),
        evaluation=replace(recipe.evaluation, budgets=(1, 2, 4, 8, 20), cost_budgets=()),
        hardware=Hardware(precision="bf16-mixed"),
    )


def own_text() -> LanguageRecipe:
    """A text of your own, `--source.path TEXT.txt`, of words or subwords."""
    return _modelled(TextSource(), features=160, heads=4, cutoffs=())


def wikitext103() -> LanguageRecipe:
    """WikiText-103 with the published settings: 97 million parameters (paper: 98); for GPUs."""
    recipe = _modelled(
        WikiTextSource(name="wikitext-103-v1"),
        features=700,
        heads=10,
        cutoffs=(20000, 40000, 200000),
    )
    plan = Plan(
        steps=268_000,
        batch_size=56,
        learning_rate=2.5e-4,
        warmup=16_000,
        clip=0.25,
        validate_every=10_000,
        checkpoint_every=1000,
    )
    network = TransformerSpec(
        features=700,
        heads=10,
        inner=48_000,
        memory=150,
        cutoffs=(20000, 40000, 200000),
        dropout=0.05,
        solver=Anderson(),
        max_steps=30,
        adjoint_steps=35,
    )
    quick = Plan(steps=20_000, batch_size=56, learning_rate=2.5e-4)
    first, every = replace(plan, steps=32_000), recipe.explicit_networks
    whole = replace(plan, steps=first.steps + plan.steps)
    explicit = {name: replace(settings, plan=whole) for name, settings in every.items()}
    published = {"features": 410, "heads": 10, "inner": 2100, "layers": 16, "memory": 150}
    deep = replace(recipe.transformer_xl.network, deviation=0.02, **published)
    explicit["transformer_xl"] = replace(explicit["transformer_xl"], network=deep)
    return replace(
        recipe,
        network=network,
        length=150,
        teacher=TeacherRecipe(
            loss=TeacherLoss(shortest=30, longest=30, random_start=0.0),
            plan=plan,
            pretraining=Pretraining(plan=first, steps=2),
        ),
        trajectories=TrajectoryRecipe(max_steps=30, online=True, samples=56 * 1000),
        student=StudentRecipe(plan=quick),
        best=UntiedRecipe(plan=quick),
        hyper=replace(recipe.hyper, plan=quick),
        few_step=plan,
        **explicit,
    )


def wikitext2_tiny() -> LanguageRecipe:
    """Python's documentation strings in seconds, with a few features: for trying commands out."""
    recipe = _modelled(DocumentationSource(), features=32, heads=2, cutoffs=(500,))
    quick = Plan(steps=40, batch_size=16, learning_rate=5e-3, warmup=5, checkpoint_every=20)
    labelled = replace(quick, validate_every=20)
    spec = recipe.network
    return replace(
        recipe,
        network=replace(spec, inner=64, memory=16, adjoint_steps=6),
        length=16,
        streams=16,
        teacher=TeacherRecipe(
            loss=replace(recipe.teacher.loss, shortest=4, longest=8),
            plan=labelled,
            pretraining=Pretraining(plan=quick),
        ),
        trajectories=TrajectoryRecipe(max_steps=8, online=True, samples=256),
        student=replace(recipe.student, plan=quick),
        best=replace(recipe.best, plan=quick),
        hyper=replace(recipe.hyper, plan=quick),
        few_step=quick,
        few_step_budgets=(1,),
        evaluation=replace(
            recipe.evaluation, budgets=(1, 2), cost_budgets=(1,), probed=32, reference_steps=20
        ),
        explicit=("transformer_xl", "qrnn"),
        transformer_xl=replace(recipe.transformer_xl, plan=quick),
        tcn=replace(recipe.tcn, plan=quick),
        gated_conv=replace(recipe.gated_conv, plan=quick),
        qrnn=replace(recipe.qrnn, plan=quick),
    )


TEXTS = (wikitext2_tiny, wikitext2_small, own_text, wikitext2, wikitext103)
"""All of them."""
