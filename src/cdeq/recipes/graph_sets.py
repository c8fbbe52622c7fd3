"""Recipes of node classification, by graph and by teacher."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from cdeq.consistency.increments import Full
from cdeq.consistency.time import ExponentialSchedule
from cdeq.core.solvers import Anderson
from cdeq.hypersolver.loss import HyperLoss
from cdeq.models.graph.convolutional import GATSpec, GCNIISpec, GCNSpec
from cdeq.models.graph.eignn import EIGNNSpec
from cdeq.models.graph.ignn import IGNNSpec
from cdeq.models.graph.mignn import MIGNNSpec
from cdeq.models.graph.resolvent import Neumann
from cdeq.models.graph.splitting import PeacemanRachford
from cdeq.recipes.base import EvaluationRecipe, TeacherRecipe, TrajectoryRecipe
from cdeq.recipes.graph import GraphRecipe, Subgraphs
from cdeq.recipes.graph_explicit import ExplicitRecipe, gpm
from cdeq.recipes.graph_sources import ChainsSource, FileSource, OGBSource, PyGSource, Source
from cdeq.recipes.hyper import HyperRecipe
from cdeq.recipes.students import StudentRecipe, UntiedRecipe
from cdeq.training.plan import Plan
from cdeq.training.teacher import TeacherLoss

FREE = UntiedRecipe(plan=Plan(steps=1), increments=Full(free=True))
"""Learned steps of their own kind, which nothing holds to a contraction."""

BUDGETS = EvaluationRecipe(
    budgets=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    reference_steps=100,
    reference_tol=1e-6,
    certify_tol=1e-4,
    solvers=("picard", "anderson"),
    cost_budgets=(1, 2, 5, 10),
)


def _classified(source: Source) -> GraphRecipe:
    """What all of them begin with: plans for graphs of thousands of nodes."""
    quick = Plan(steps=200, learning_rate=1e-2, warmup=20, checkpoint_every=50)
    labelled = replace(quick, weight_decay=5e-4, validate_every=20)
    network = IGNNSpec(
        hidden=64, dropout=0.2, solver=Anderson(), max_steps=40, tol=1e-4, adjoint_steps=15
    )
    return GraphRecipe(
        source=source,
        network=network,
        teacher=TeacherRecipe(
            # the equilibrium is unique, so that neither start nor budget can become part of it
            loss=TeacherLoss(shortest=40, longest=40, random_start=0.0),
            plan=replace(labelled, learning_rate=5e-2),
        ),
        trajectories=TrajectoryRecipe(max_steps=50),
        student=StudentRecipe(plan=replace(quick, learning_rate=1e-3)),
        best=replace(FREE, plan=quick),
        # gradients through the first steps alone; runs as long as the longest of interest; fast,
        # which validation nodes of arxiv and Computers chose among 3e-3 to 3e-1 (seed 0)
        hyper=HyperRecipe(
            plan=replace(quick, learning_rate=1e-1),
            loss=HyperLoss(detach=True),
            shortest=2,
            longest=10,
        ),
        few_step=replace(labelled, learning_rate=2e-2),
        few_step_budgets=(1, 2, 5, 10),
        distil=("student-paper", "student-paper-no-aa", "student-best", "ignn-solver"),
        evaluation=BUDGETS,
        gcn=ExplicitRecipe(network=GCNSpec(hidden=128), plan=labelled),
        gat=ExplicitRecipe(network=GATSpec(), plan=labelled),
        gcnii=ExplicitRecipe(network=GCNIISpec(hidden=64, layers=8, dropout=0.5), plan=labelled),
        gpm=replace(gpm(), plan=replace(gpm().plan, steps=300, warmup=30, validate_every=50)),
    )


def chains() -> GraphRecipe:
    """Generated paths whose class is told at one end: seconds, no data needed."""
    recipe = _classified(ChainsSource())
    quick = Plan(steps=40, learning_rate=1e-2, warmup=5, checkpoint_every=20)
    return replace(
        recipe,
        network=IGNNSpec(hidden=16, max_steps=100),
        teacher=TeacherRecipe(
            loss=TeacherLoss(shortest=60, longest=60, random_start=0.0),
            plan=replace(quick, steps=150, validate_every=25),
        ),
        student=StudentRecipe(plan=quick),
        best=replace(FREE, plan=quick),
        few_step=replace(quick, validate_every=10),
        evaluation=replace(BUDGETS, budgets=(1, 2, 5, 10), cost_budgets=(1, 2)),
    )


def own_graph() -> GraphRecipe:
    """A graph of your own, `--source.path GRAPH.npz` or a PyG `Data` in a .pt."""
    return _classified(FileSource())


def cora() -> GraphRecipe:
    """Cora: 2,708 papers, the public split; a minute."""
    return _classified(PyGSource(family="planetoid", name="Cora"))


def citeseer() -> GraphRecipe:
    """CiteSeer: 3,327 papers, the public split; a minute."""
    return _classified(PyGSource(family="planetoid", name="CiteSeer"))


def photo() -> GraphRecipe:
    """Amazon Photo: 7,650 products; a seeded split of 20 training nodes a class."""
    return _classified(PyGSource(family="amazon", name="Photo"))


def computers() -> GraphRecipe:
    """Amazon Computers: 13,752 products; a seeded split of 20 training nodes a class."""
    recipe = _classified(PyGSource(family="amazon", name="Computers"))
    # rather than 1e-2, by validation nodes where W is free (seed 0)
    best = replace(recipe.best, plan=replace(recipe.best.plan, learning_rate=3e-2))
    return replace(recipe, best=best)


def physics() -> GraphRecipe:
    """Coauthor Physics: 34,493 authors; a seeded split of 20 training nodes a class."""
    recipe = _classified(PyGSource(family="coauthor", name="Physics"))
    return replace(
        recipe,
        network=replace(recipe.network, dropout=0.5),
        teacher=replace(recipe.teacher, plan=replace(recipe.teacher.plan, steps=120)),
        hyper=replace(recipe.hyper, plan=recipe.best.plan),  # not tuned here
    )


def arxiv() -> GraphRecipe:
    """ogbn-arxiv whole: 169,343 papers; minutes on two cores."""
    recipe = _classified(OGBSource())
    plan = Plan(steps=150, learning_rate=2e-2, warmup=15, checkpoint_every=25)
    brief = replace(plan, steps=40, learning_rate=1e-2, warmup=5)
    labelled = replace(plan, steps=100, validate_every=25)
    slower = replace(labelled, learning_rate=1e-2)
    return replace(
        recipe,
        network=IGNNSpec(hidden=64, dropout=0.1, tol=1e-4, max_steps=20, adjoint_steps=8),
        teacher=TeacherRecipe(
            loss=TeacherLoss(shortest=12, longest=20, random_start=0.0),
            plan=replace(plan, validate_every=50),
        ),
        trajectories=TrajectoryRecipe(max_steps=16),
        student=replace(recipe.student, plan=brief),
        best=replace(recipe.best, plan=brief),
        hyper=replace(recipe.hyper, plan=replace(brief, learning_rate=1e-1), longest=6),
        few_step=labelled,
        few_step_budgets=(1, 2, 5),
        gcn=ExplicitRecipe(network=GCNSpec(hidden=128), plan=slower),
        gat=ExplicitRecipe(network=GATSpec(), plan=slower),
        gcnii=ExplicitRecipe(network=GCNIISpec(hidden=64, layers=8), plan=slower),
        gpm=replace(gpm(), plan=replace(gpm().plan, steps=300, warmup=30, validate_every=0)),
    )


def ogbn_arxiv() -> GraphRecipe:
    """ogbn-arxiv with the paper's settings: 128 features, W free, 2,000 epochs; for a GPU."""
    recipe = unconstrained(arxiv())
    plan = Plan(steps=2000, learning_rate=2e-3, validate_every=50)
    network = replace(recipe.network, hidden=128, dropout=0.5, max_steps=20)
    return replace(
        recipe,
        normalisation="row",
        network=network,
        teacher=replace(recipe.teacher, plan=plan),
        student=replace(recipe.student, plan=Plan(steps=500, learning_rate=2e-3)),
        best=replace(FREE, plan=Plan(steps=500, learning_rate=2e-3)),
        few_step=plan,
    )


def ogbn_products() -> GraphRecipe:
    """ogbn-products with the paper's settings: trained on sub-graphs, inference on the whole."""
    recipe = unconstrained(replace(arxiv(), source=OGBSource(name="ogbn-products")))
    plan = Plan(steps=2000, batch_size=1, learning_rate=2e-3, validate_every=500)
    distilling = Plan(steps=500, batch_size=1, learning_rate=2e-3)
    return replace(
        recipe,
        normalisation="row",
        network=replace(recipe.network, hidden=32, dropout=0.5, max_steps=20),
        subgraphs=Subgraphs(roots=6000, length=3, count=2000),
        teacher=replace(recipe.teacher, plan=plan),
        trajectories=TrajectoryRecipe(max_steps=20, online=True),
        student=StudentRecipe(plan=distilling),
        best=replace(FREE, plan=distilling),
        few_step=plan,
        evaluation=replace(recipe.evaluation, budgets=(1, 2, 5, 10), reference_steps=40),
    )


def unconstrained(recipe: GraphRecipe) -> GraphRecipe:
    """The recipe with W free: what holds its spectral radius below 1 is a penalty, if it must."""
    network, teacher = recipe.network, recipe.teacher
    assert isinstance(network, IGNNSpec)
    free = replace(network, kappa=None, unguaranteed=True, solver=Anderson(window=3))
    loss = replace(teacher.loss, shortest=25, longest=40, radius_weight=10.0, radius_limit=0.95)
    # small steps: the penalty only sees where the last one has led
    plan = replace(teacher.plan, steps=3 * teacher.plan.steps // 2, learning_rate=2e-2)
    return replace(
        recipe,
        network=replace(free, max_steps=40),
        teacher=TeacherRecipe(loss=loss, plan=plan),
        trajectories=replace(recipe.trajectories, max_steps=60),
        # a longer way to go, which the teacher's longer training pays for
        best=replace(
            recipe.best, plan=replace(recipe.best.plan, steps=7 * recipe.best.plan.steps // 4)
        ),
        # slower than usual: the times of sixty steps have to differ in float32
        student=replace(recipe.student, schedule=ExponentialSchedule(rate=0.2)),
    )


def eignn(recipe: GraphRecipe) -> GraphRecipe:
    """The recipe with EIGNN as its teacher."""
    old = recipe.network
    assert isinstance(old, IGNNSpec)
    network = EIGNNSpec(hidden=old.hidden, dropout=old.dropout, tol=old.tol)
    return replace(recipe, network=network)


def mignn(recipe: GraphRecipe) -> GraphRecipe:
    """The recipe with MIGNN as its teacher."""
    old = recipe.network
    assert isinstance(old, IGNNSpec)
    # two sparse products an evaluation: more do not pay where each of them costs the same
    splitting = PeacemanRachford(resolvent=Neumann(terms=2))
    network = MIGNNSpec(hidden=old.hidden, dropout=old.dropout, tol=old.tol, splitting=splitting)
    return replace(recipe, network=network)


Change: TypeAlias = Callable[[GraphRecipe], GraphRecipe]

TEACHERS: Mapping[Change, str] = {
    unconstrained: "IGNN with W free",
    eignn: "EIGNN is the teacher",
    mignn: "MIGNN is the teacher",
}


def _with_teacher(base: Callable[[], GraphRecipe], change: Change) -> Callable[[], GraphRecipe]:
    """The recipe of one graph with another teacher, under the names of both."""

    def recipe() -> GraphRecipe:
        return change(base())

    recipe.__name__ = f"{base.__name__}_{change.__name__}"
    recipe.__doc__ = f"As {base.__name__}; {TEACHERS[change]}."
    return recipe


GRAPHS = (
    *(chains, own_graph, cora, citeseer, photo, computers, physics, arxiv),
    *(_with_teacher(base, change) for base in (computers, physics, arxiv) for change in TEACHERS),
    *(ogbn_arxiv, ogbn_products),
)
"""All of them."""
