"""The learned solver as a recipe: on digits, on a graph, and what a model cannot offer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from consistency.toys import equal

from cdeq import Anderson, certify, refine, relative_error, solve
from cdeq.data.indexed import IndexedData
from cdeq.errors import CDEQError
from cdeq.hypersolver.scope import PerPosition
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.models.base import EquilibriumModel
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.ignn import IGNN, IGNNSpec
from cdeq.models.graph.initializer import NodeInitializer
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.recipes import RECIPES
from cdeq.recipes.hyper import HyperRecipe
from cdeq.recipes.variants import VARIANTS, StudentName
from cdeq.training.engine import fit
from cdeq.training.plan import Hardware, Plan
from cdeq.trajectories.source import OnlineTrajectories, RememberedTrajectories
from cdeq.typing import Context, State

QUICK = HyperRecipe(plan=Plan(steps=40, learning_rate=1e-2, warmup=5), width=10, longest=5)


def named(name: StudentName, hyper: HyperRecipe = QUICK) -> HyperRecipe:
    recipe = RECIPES["digits_tiny"]()
    found = VARIANTS[name](recipe.student, recipe.best, hyper)
    assert isinstance(found, HyperRecipe)
    return found


class OneGraph:
    """A graph is all there is."""

    def __init__(self, batch: GraphBatch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def take(self, indices: Sequence[int] | torch.Tensor) -> GraphBatch:
        return self.batch


def graph() -> tuple[IGNN, OneGraph]:
    """Two rings with a bridge."""
    torch.manual_seed(0)
    ring = torch.arange(8)
    edges = torch.stack([ring, (ring + 1) % 8])
    both = torch.cat([edges, edges + 8, torch.tensor([[0], [8]])], dim=1)
    batch = GraphBatch(
        torch.rand(16, 5), normalised(both, nodes=16), ring.repeat(2) % 3, torch.arange(16)
    )
    return IGNN(IGNNSpec(inputs=5, hidden=6, classes=3)).eval(), OneGraph(batch)


def digits() -> tuple[EquilibriumModel, IndexedData]:
    torch.manual_seed(0)
    recipe = RECIPES["digits_tiny"]()
    return recipe.model().eval(), recipe.data().train


CASES = {"hyperdeq": digits, "ignn-solver": graph}


class Trained(NamedTuple):
    """A learned solver, some data, and where it should get."""

    name: StudentName
    model: EquilibriumModel
    student: HyperDEQ
    x: Context
    exact: State

    @property
    def states(self) -> list[State]:
        """Those of inference."""
        z0, times = self.model.initial(self.x), HyperRecipe.inference.times(3)
        with torch.no_grad():
            return list(refine(self.student, self.x, z0, times))

    def error(self, z: State) -> float:
        return float(relative_error(z, self.exact, batched=self.model.deq.batched).mean())


@pytest.fixture(scope="module", params=CASES)
def trained(request, tmp_path_factory) -> Trained:
    model, data = CASES[request.param]()
    source = OnlineTrajectories(teacher=model, contexts=data.take, solver=Anderson(), max_steps=40)
    torch.manual_seed(1)
    objective = named(request.param).objective(model, RememberedTrajectories(source))
    cpu, folder = Hardware(accelerator="cpu"), tmp_path_factory.mktemp("run")
    fit(objective, data, QUICK.plan, folder, seed=0, identity="a" * 64, label="", hardware=cpu)
    with torch.no_grad():
        x = model.encode(data.take(torch.arange(min(20, len(data)))))
        batched, z0 = model.deq.batched, model.initial(x)
        exact = solve(model.bind(x), z0, max_steps=100, tol=1e-5, batched=batched).check().z
    return Trained(request.param, model, objective.student.eval(), x, exact)


def test_it_learns(trained: Trained) -> None:
    """Each of its states is nearer than the classical solver's."""
    model, x = trained.model, trained.x
    options = {"max_steps": 3, "record": True, "batched": model.deq.batched}
    with torch.no_grad():
        path = solve(model.bind(x), model.initial(x), Anderson(), **options).trajectory
    for ours, theirs in zip(trained.states, path[1:], strict=True):
        assert trained.error(ours) < 0.8 * trained.error(theirs)


def test_it_comes_back_from_a_folder(trained: Trained, tmp_path: Path) -> None:
    trained.student.save_pretrained(tmp_path)
    torch.manual_seed(5)
    read = named(trained.name).read(tmp_path, trained.model)
    assert all(map(equal, trained._replace(student=read).states, trained.states))


def test_its_answers_are_certified(trained: Trained) -> None:
    found = certify(trained.model, trained.student, trained.x, tol=1e-4, steps=3)
    assert bool(found.converged.all()) and not bool(found.fallback.any())


def test_what_the_names_mean() -> None:
    recipe = replace(QUICK, window=3)
    assert named("hyperdeq", recipe) == recipe
    smoothed = replace(recipe, scope=PerPosition(), smoothed=True)
    assert named("ignn-solver", recipe) == smoothed
    tiny = replace(RECIPES["digits_tiny"](), distil=("hyperdeq",))
    assert tiny.students == {"hyperdeq": tiny.hyper}


def test_the_graph_s_solver_sees_its_neighbours_and_its_features() -> None:
    model, data = graph()
    student = named("ignn-solver").build(model)
    x = model.encode(data.take([0]))
    codes = torch.rand(16, 10)
    assert student.neighbours is not None
    torch.testing.assert_close(student.neighbours(x)(codes), x.adjacency @ codes)
    assert isinstance(student.initializer, NodeInitializer)
    guess = student.start(model.initial(x), x)
    order = torch.randperm(16)
    mixed = x._replace(features=x.features[order])
    torch.testing.assert_close(student.start(model.initial(x), mixed), guess[order])
    rows, columns = (x.features > 0).nonzero().unbind(1)
    sparse = SparseMatrix.of(rows, columns, x.features[rows, columns], shape=(16, 5))
    torch.testing.assert_close(student.start(model.initial(x), x._replace(features=sparse)), guess)


def test_what_a_model_does_not_offer_is_refused() -> None:
    with pytest.raises(CDEQError, match=r"ContractionDEQ have no neighbours.*without smoothing"):
        named("ignn-solver").build(digits()[0])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"window": -1}, "`window` counts the earlier states m ≥ 0; got -1"),
        ({"width": 7}, "a multiple of 5 from 10 up; got 7"),
        ({"smoothed": True}, r"scope PerPosition\(\); got Pooled\(\)"),
        ({"shortest": 6}, "`shortest` … `longest` steps; got 6 … 5"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(QUICK, **settings)
