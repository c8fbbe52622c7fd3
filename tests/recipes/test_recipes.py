"""Recipes: every one is consistent, and impossible settings are refused before anything runs."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from data.test_cifar import write as write_batches

from cdeq import ConsistencyDEQ, LinearReadout, MLPReadout, TimeSpan
from cdeq.data.subgraphs import SubgraphSet
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.contraction import ContractionSpec
from cdeq.models.vision.mdeq import MDEQ
from cdeq.recipes import RECIPES, Recipe
from cdeq.recipes.base import EvaluationRecipe, StudentRecipe, TrajectoryRecipe
from cdeq.recipes.graph import MODELS, GraphRecipe, Subgraphs
from cdeq.recipes.graph_explicit import EXPLICIT
from cdeq.recipes.graph_sets import GRAPHS, TEACHERS
from cdeq.recipes.graph_sources import ChainsSource
from cdeq.recipes.image import ImageRecipe
from cdeq.recipes.image_sets import IMAGES
from cdeq.recipes.image_sources import CIFARSource, DigitsSource
from cdeq.recipes.language import LanguageRecipe
from cdeq.recipes.text_sources import DocumentationSource
from cdeq.recipes.variants import VARIANTS, StudentName
from cdeq.training.plan import Plan
from cdeq.trajectories import Manifest

each_recipe = pytest.mark.parametrize("name", RECIPES)
each_graph = pytest.mark.parametrize("name", [function.__name__ for function in GRAPHS])

STAND_IN = ChainsSource(classes=3, per_class=10, length=6, features=12)
"""In the place of graphs that have to be fetched; as many training nodes as questions need."""


def of_name(name: str) -> Recipe:
    recipe = RECIPES[name]()
    if isinstance(recipe, LanguageRecipe):
        network = replace(recipe.network, features=20, inner=8, cutoffs=(400,))
        return replace(recipe, source=DocumentationSource(), network=network)
    if isinstance(recipe, ImageRecipe):
        narrow = {"channels": (8, 8), "head": (2, 2), "strides": (1,), "features": 8}
        network = replace(recipe.network, groups=2, **narrow)
        return replace(recipe, source=DigitsSource(limit=40), network=network, explicit=())
    return replace(recipe, source=STAND_IN) if isinstance(recipe, GraphRecipe) else recipe


def graph_of(name: str) -> GraphRecipe:
    recipe = of_name(name)
    assert isinstance(recipe, GraphRecipe)
    return recipe


@each_recipe
def test_a_recipe_makes_a_model_that_takes_its_data(name: str) -> None:
    """Some samples, or one graph, which is asked about some of its nodes."""
    recipe = of_name(name)
    torch.manual_seed(0)
    model, data = recipe.model(), recipe.data()
    batch = data.validation.take(torch.arange(min(5, len(data.validation))))
    with torch.no_grad():
        scores = recipe.metric.of(model)(model(batch), batch)
    assert scores.shape == (len(batch.nodes) if isinstance(batch, GraphBatch) else 5,)
    assert bool(scores.isfinite().all())
    assert recipe.metric.same is None or set(scores.tolist()) <= {0.0, 1.0}, "right or wrong"


@each_recipe
def test_a_recipe_makes_a_student_of_its_settings(name: str) -> None:
    recipe = of_name(name)
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


# Images

PUBLISHED = {"cifar10_published": 10, "tiny_imagenet": 200, "imagenet": 1000}
SIDES = {"mdeq_tiny": 8, "tiny_imagenet": 64, "imagenet": 224}
each_image_recipe = pytest.mark.parametrize("name", [function.__name__ for function in IMAGES])


@each_image_recipe
def test_networks_take_the_images_of_their_recipe_and_are_of_one_size(name: str) -> None:
    """Without weights: only shapes are computed. ImageNet's are as published, so of any size."""
    recipe, side = RECIPES[name](), SIDES.get(name, 32)
    assert isinstance(recipe, ImageRecipe)
    classes = PUBLISHED.get(name, 10)
    with torch.device("meta"):
        batch = ImageBatch(torch.zeros(2, 3, side, side), torch.zeros(2, dtype=torch.long))
        model = MDEQ(replace(recipe.network, classes=classes)).eval()
        x = model.encode(batch)
        answer = model.decode(model.bind(x)(model.initial(x)), x)
        assert answer.shape == (2, classes)
        for settings in recipe.explicit_networks.values():
            network = settings.build(classes).eval()
            assert network(batch).shape == (2, classes)
            assert (network.spec.mean, network.spec.deviation) == (
                recipe.network.mean,
                recipe.network.deviation,
            )
            share = sum(p.numel() for p in network.parameters()) / sum(
                p.numel() for p in model.parameters()
            )
            assert name == "imagenet" or 0.5 < share < 2.5


@each_image_recipe
def test_all_networks_take_as_many_updates(name: str) -> None:
    recipe = RECIPES[name]()
    assert isinstance(recipe, ImageRecipe)
    first = recipe.teacher.pretraining
    assert first is not None
    whole = first.plan.steps + recipe.teacher.plan.steps
    assert recipe.few_step.steps == recipe.teacher.plan.steps, "they begin pre-trained too"
    assert {each.plan.steps for each in recipe.explicit_networks.values()} <= {whole}


def test_cifars_parts_are_those_that_are_reported(tmp_path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    write_batches(tmp_path / "cifar-10-batches-py")
    source = CIFARSource(root=tmp_path, validation=10, held_out=20, test_first=4)
    recipe = RECIPES["cifar10"]()
    assert isinstance(recipe, ImageRecipe)
    recipe = replace(recipe, source=source)
    train, validation, test = recipe.data()
    whole = len(train) + len(validation) + len(test)
    assert (len(validation), len(test)) == (10, 20)
    assert whole == sum(
        len(part) for part in replace(recipe, source=replace(source, seed=1)).data()
    )
    (name, official), *others = recipe.further_data().items()
    assert (name, len(official), others) == ("official-test", 4, [])
    digests = {recipe.data_digest(part) for part in (train, validation, test, official)}
    assert len(digests) == 4


# Graphs


def test_no_two_recipes_have_one_name() -> None:
    assert {function.__name__ for function in GRAPHS} < RECIPES.keys()
    assert len({*GRAPHS}) == len({function.__name__ for function in GRAPHS})
    for function in GRAPHS:
        assert RECIPES[function.__name__] is function


@each_graph
def test_a_teacher_has_the_sizes_of_the_data_and_its_own_kind(name: str) -> None:
    recipe = graph_of(name)
    model = recipe.model()
    assert type(model) is MODELS[type(recipe.network)]
    known = replace(recipe.network, inputs=STAND_IN.features, classes=STAND_IN.classes)
    assert model.spec == known


@pytest.mark.parametrize("change", TEACHERS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("base", ["computers", "physics", "arxiv"])
def test_another_teacher_is_another_network_on_the_same_graph(base: str, change) -> None:
    own, other = RECIPES[base](), RECIPES[f"{base}_{change.__name__}"]()
    assert isinstance(own, GraphRecipe) and isinstance(other, GraphRecipe)
    assert other == change(own)
    assert other.network != own.network
    assert (other.source, other.evaluation) == (own.source, own.evaluation)


@each_graph
def test_explicit_networks_answer_for_the_same_data(name: str) -> None:
    """A row of the table each, with as many answers as there are questions."""
    recipe = graph_of(name)
    assert recipe.explicit_networks.keys() == EXPLICIT.keys()
    batch = recipe.data().test.take(torch.tensor([0]))
    for network in recipe.explicit_networks:
        model = recipe.explicit_model(network).eval()
        with torch.no_grad():
            answers = model.answers(batch)
        assert answers.shape == (len(batch.nodes), STAND_IN.classes)
        assert bool(answers.isfinite().all())


@each_graph
def test_only_training_may_be_in_parts(name: str) -> None:
    """Validation and test see the graph whole; a sub-graph asks about training nodes alone."""
    recipe = graph_of(name)
    train, validation, test = recipe.data()
    assert isinstance(train, SubgraphSet) == (recipe.subgraphs.count > 0)
    seen = train.take(torch.tensor([0])).label
    whole = STAND_IN.load()
    assert seen.max() >= 0
    assert int((seen >= 0).sum()) <= len(whole.train)
    for part, nodes in ((validation, whole.validation), (test, whole.test)):
        batch = part.take(torch.tensor([0]))
        assert (batch.adjacency.shape[0], len(batch.nodes)) == (whole.nodes, len(nodes))
        assert int((batch.label >= 0).sum()) == len(nodes), "a part knows its own labels only"


@pytest.mark.parametrize(
    "changes",
    [
        {"source": replace(STAND_IN, seed=1)},
        {"source": replace(STAND_IN, noise=0.1)},
        {"normalisation": "row"},
        {"undirected": False},
        {"subgraphs": Subgraphs(count=3)},
        {"subgraphs": Subgraphs(count=3, roots=5)},
    ],
    ids=str,
)
def test_the_fingerprint_of_a_graph_sees_what_training_sees(changes: dict) -> None:
    recipe = graph_of("chains")
    before, again, after = (
        each.data_digest(each.data().train)
        for each in (recipe, graph_of("chains"), replace(recipe, **changes))
    )
    assert before == again != after


@pytest.mark.parametrize("name", ["roots", "length", "count"])
def test_sub_graphs_are_described_by_numbers_from_0_up(name: str) -> None:
    with pytest.raises(ValueError, match=f"from 0 up; got Subgraphs.*{name}=-1"):
        Subgraphs(**{name: -1})


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
