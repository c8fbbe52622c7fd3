"""One call: it learns, whatever the model is made of, and touches nothing but the student."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from problems import Convolving, Mixing, TwoScales, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from training.toys import Killed, same

import cdeq
from cdeq import DistillationLoss, FunctionModel
from cdeq.errors import CDEQError, StoreError
from cdeq.models.vision.batch import ImageBatch
from cdeq.recipes.base import TrajectoryRecipe
from cdeq.recipes.students import StudentRecipe, UntiedRecipe
from cdeq.recipes.variants import AnyStudent
from cdeq.training.distill import DistillationObjective, Sampling
from cdeq.training.engine import CHECKPOINT
from cdeq.training.objective import Objective
from cdeq.training.on_policy import RolloutObjective
from cdeq.training.plan import Plan

PLAN = Plan(steps=6, learning_rate=0.01, warmup=0, checkpoint_every=2)
UNTIED = UntiedRecipe(plan=PLAN)
LABELLED = StudentRecipe(plan=PLAN, sampling=Sampling(first=0))
PAPER = replace(LABELLED, loss=DistillationLoss(task_weight=0.0))
RECIPES = {"untied": UNTIED, "paper": PAPER}
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))


class Propagating(Mixing):
    """tanh(A z W + x) on a graph."""

    def forward(self, z: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        adjacency, features = x
        return torch.tanh(adjacency @ self.mix(z) + features)


def inputs(*shape: int, seed: int, device: torch.device) -> Tensor:
    return seeded(*shape, seed=seed, dtype=torch.float32, device=device)


Case = tuple[FunctionModel, list]


def vectors(device: torch.device) -> Case:
    return FunctionModel(Mixing(5), (5,)), [inputs(8, 5, seed=s, device=device) for s in (1, 2, 3)]


class Masked(Convolving):
    """Sees its context, a dict, through a mask."""

    def forward(self, z: Tensor, x: dict[str, Tensor]) -> Tensor:
        return super().forward(z, x["mask"] * x["image"])


def images(device: torch.device) -> Case:
    model = FunctionModel(Masked(2), (2, 4, 4))
    drawn = [inputs(8, 2, 4, 4, seed=s, device=device) for s in (1, 2)]
    return model, [{"image": x, "mask": (x > 0) * 1.0} for x in drawn]


def pairs(device: torch.device) -> Case:
    """Two tensors, from two."""
    model = FunctionModel(TwoScales((2, 4)), ((3, 2), (3, 4)))
    made = [(inputs(6, 3, 2, seed=s, device=device), s) for s in (1, 2)]
    return model, [(x, inputs(6, 3, 4, seed=10 + s, device=device)) for x, s in made]


def graphs(device: torch.device) -> Case:
    """Each a single sample of six nodes, with edges of its own."""
    model = FunctionModel(Propagating(3), (6, 3), batched=False)
    rings = [torch.eye(6, device=device).roll(s, 0).to_sparse() for s in (1, 2, 3)]
    return model, [(ring, inputs(6, 3, seed=s, device=device)) for s, ring in enumerate(rings)]


def classified(device: torch.device) -> Case:
    """An encoder, a head and labels."""
    head = nn.Linear(5, 3).to(device)
    model = FunctionModel(
        Mixing(5),
        (5,),
        encode=lambda batch: batch.image,
        decode=lambda z, x: head(z),
        loss=lambda output, batch: F.cross_entropy(output, batch.label, reduction="none"),
    )
    drawn = [inputs(8, 5, seed=s, device=device) for s in (1, 2)]
    return model, [ImageBatch(x, x.argmax(1) % 3) for x in drawn]


def hidden(device: torch.device) -> Case:
    """A plain function."""
    matrix = 0.2 * inputs(5, 5, seed=9, device=device)
    return FunctionModel(lambda z, x: torch.tanh(z @ matrix + x), (5,)), vectors(device)[1]


CASES = (vectors, images, pairs, graphs, classified, hidden)
each_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def made(device: torch.device) -> Callable[[Callable], Case]:
    """A case, the same whenever it is asked for."""

    def make(case: Callable[[torch.device], Case]) -> Case:
        torch.manual_seed(0)
        model, batches = case(device)
        return model.to(device), batches

    return make


def trained(
    model: FunctionModel, batches: object, recipe: AnyStudent = UNTIED, **more: object
) -> cdeq.ConsistencyDEQ | cdeq.UntiedDEQ:
    return cdeq.distill(model, batches, recipe=recipe, label="", **more)


@torch.no_grad()
def error(student: nn.Module, model: FunctionModel, batches: list, recipe: AnyStudent) -> float:
    """The mean relative error to z*, after one evaluation or those that a student has learned."""
    total, steps = 0.0, recipe.steps if isinstance(recipe, UntiedRecipe) else 1
    for batch in batches:
        x, batched = model.encode(batch), model.deq.batched
        z0 = model.initial(x)
        exact = cdeq.solve(model.bind(x), z0, max_steps=60, tol=1e-5, batched=batched).check().z
        *_, z = cdeq.refine(student, x, z0, recipe.inference.times(steps).to(model.device))
        total += float(cdeq.relative_error(z, exact, batched=batched).mean())
    return total / len(batches)


@each_case
@each_recipe
def test_it_learns(case, recipe: AnyStudent, made) -> None:
    model, batches = made(case)
    longer = replace(recipe, plan=replace(PLAN, steps=80, learning_rate=0.03))
    student = trained(model, batches, longer, trajectories=TrajectoryRecipe(max_steps=8))
    after = error(student, model, batches, recipe)
    assert after < 0.97 * error(recipe.build(model), model, batches, recipe)
    assert {p.device for p in student.parameters()} == {model.device}
    assert not any(module.training for module in student.modules())


@each_case
@each_recipe
def test_a_student_comes_back_from_a_folder(case, recipe: AnyStudent, made, tmp_path) -> None:
    model, batches = made(case)
    student = trained(model, batches, recipe)
    student.save_pretrained(tmp_path)
    read = type(student).from_pretrained(tmp_path, model)
    assert same(read, student)
    assert error(read, model, batches, recipe) == error(student, model, batches, recipe)


@each_recipe
@pytest.mark.parametrize("case", (vectors, graphs))
def test_the_same_call_gives_the_same_student(case, recipe: AnyStudent, made) -> None:
    """Whatever torch's own generator was at; from a generator of batches; from runs not kept."""
    model, batches = made(case)
    student = trained(model, batches, recipe)
    torch.manual_seed(99)
    assert same(trained(model, batches, recipe), student)
    assert same(trained(model, (batch for batch in batches), recipe), student)
    again = TrajectoryRecipe(max_steps=40, online=True)
    assert same(trained(model, batches, recipe, trajectories=again), student)
    assert not same(trained(model, batches, recipe, seed=1), student)


def test_the_seed_decides_initial_weights(made) -> None:
    """A single batch has one order, and Δ = A B begins with a random A."""
    model, batches = made(vectors)
    recipe = UntiedRecipe(plan=PLAN, increments=cdeq.LowRank(rank=1))
    first, second, other = (trained(model, batches[:1], recipe, seed=s) for s in (0, 0, 1))
    assert same(first, second)
    assert not same(first, other)


@pytest.mark.parametrize("weight", (0.0, 0.5))
def test_labels_matter_to_a_task_loss_alone(weight: float, made) -> None:
    model, batches = made(classified)
    wrong = [batch._replace(label=(batch.label + 1) % 3) for batch in batches]
    paper = replace(PAPER, loss=DistillationLoss(task_weight=weight))
    right, other = (trained(model, each, paper) for each in (batches, wrong))
    assert same(right, other) == (weight == 0.0)
    assert same(trained(model, batches), trained(model, wrong))


@pytest.mark.parametrize("case", (vectors, classified))
def test_only_a_head_is_listened_to(case, made) -> None:
    model, batches = made(case)
    deaf = replace(UNTIED, loss=replace(UNTIED.loss, head_weight=0.0))
    assert same(trained(model, batches), trained(model, batches, deaf)) == model.headless


def test_a_task_loss_that_the_model_does_not_have_is_refused(made) -> None:
    model, batches = made(vectors)
    with pytest.raises(ValueError, match="built without a task loss, so labels mean nothing"):
        trained(model, batches, LABELLED)


def test_no_batch_is_refused(made) -> None:
    with pytest.raises(ValueError, match="at least one batch of inputs; got none"):
        trained(made(vectors)[0], iter(()))


ONE = (torch.ones(4, 5), {"x": torch.ones(4, 5)}, ImageBatch(torch.ones(4, 5), torch.ones(4)))


@pytest.mark.parametrize("one", ONE, ids=lambda one: type(one).__name__)
def test_a_batch_that_is_in_no_list_is_refused(one: object, made) -> None:
    with pytest.raises(TypeError, match=f"a single {type(one).__name__}: put it in a list"):
        trained(made(vectors)[0], one)


def test_a_student_without_weights_is_refused(made) -> None:
    model, batches = made(hidden)
    with pytest.raises(ValueError, match="pass f as the module that it is"):
        trained(model, batches, replace(UNTIED, readout=False))


SHORT = TrajectoryRecipe(solver=cdeq.Anderson(window=0), max_steps=4)


def test_a_teacher_whose_runs_end_nowhere_is_refused(made) -> None:
    """Four Picard steps of z ← x - 0.9 z lead to 0.181 x, which the next one moves to 0.837 x."""
    batches = made(vectors)[1]
    swinging = FunctionModel(lambda z, x: x - 0.9 * z, (5,)).to(batches[0])
    with pytest.raises(CDEQError, match=r"residual is 7\.8e-01, more than 1\.0e-01"):
        trained(swinging, batches, trajectories=SHORT)
    accepted = trained(swinging, batches, trajectories=SHORT, worst_residual=float("inf"))
    assert not same(accepted, UNTIED.build(swinging))
    assert trained(swinging, batches).steps == 2  # by Anderson the same map ends


def test_a_teacher_without_numbers_is_always_refused(made) -> None:
    batches = made(vectors)[1]
    model = FunctionModel(lambda z, x: x * torch.nan, (5,)).to(batches[0])
    with pytest.raises(CDEQError, match="median relative residual is nan"):
        trained(model, batches, worst_residual=float("inf"))


OBJECTIVES = {UntiedRecipe: RolloutObjective, StudentRecipe: DistillationObjective}


def facts(model: nn.Module) -> tuple:
    """All that might have been changed, apart from numbers."""
    parameters = list(model.parameters())
    return (
        [module.training for module in model.modules()],
        [(id(p), p.requires_grad, p.device, p.grad) for p in parameters],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


def killing(monkeypatch: pytest.MonkeyPatch, recipe: AnyStudent, at: int) -> list[int]:
    """Die in the middle of an update, if there are so many; the list counts the updates."""
    kind: type[Objective] = OBJECTIVES[type(recipe)]
    done, after = [0], kind.after_step

    def after_step(self: Objective) -> None:
        done[0] += 1
        if done[0] == at:
            raise Killed
        after(self)

    monkeypatch.setattr(kind, "after_step", after_step)
    return done


@pytest.mark.parametrize("ending", (None, CDEQError, Killed))
@each_recipe
def test_the_model_is_left_alone(ending, recipe, made, monkeypatch) -> None:
    model, batches = made(vectors)
    model.deq.cell.mix = nn.Sequential(model.deq.cell.mix, nn.Dropout(0.5))
    model.encoder = nn.Linear(5, 5).to(model.device).requires_grad_(False)
    model.train()
    model.encoder.eval()
    before, weights = facts(model), {k: v.clone() for k, v in model.state_dict().items()}
    if ending is Killed:
        killing(monkeypatch, recipe, 2)
    with nullcontext() if ending is None else pytest.raises(ending):
        trained(model, batches, recipe, worst_residual=0.0 if ending is CDEQError else 0.1)
    assert facts(model) == before
    assert all(torch.equal(weights[name], now) for name, now in model.state_dict().items())


@each_recipe
def test_a_killed_call_continues_to_the_same_bits(recipe, made, monkeypatch, tmp_path) -> None:
    model, batches = made(graphs)
    whole = trained(model, batches, recipe)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, recipe, 5)
        trained(model, batches, recipe, folder=tmp_path)
    updates = killing(monkeypatch, recipe, PLAN.steps)
    assert same(trained(model, batches, recipe, folder=tmp_path), whole)
    assert updates == [2]  # the checkpoint is of update 4
    assert same(trained(model, batches, recipe, folder=str(tmp_path)), whole)
    assert updates == [2]


CHANGES = {
    "settings": lambda model, batches: (model, batches, {"recipe": UNTIED}),
    "trajectories": lambda model, batches: (model, batches, {"trajectories": SHORT}),
    "seed": lambda model, batches: (model, batches, {"seed": 1}),
    "weights": lambda model, batches: (graphs(model.device)[0], batches, {}),
    "edges": lambda model, batches: (model, [(a.mT, x) for a, x in batches], {}),
    "numbers": lambda model, batches: (model, [(a, -x) for a, x in batches], {}),
    "fewer": lambda model, batches: (model, batches[:1], {}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_the_folder_of_another_call_is_refused_and_kept(change, made, tmp_path) -> None:
    model, batches = made(graphs)
    recipe = replace(UNTIED, readout=False)
    trained(model, batches, recipe, folder=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    model, batches, settings = change(model, batches)
    with pytest.raises(StoreError, match="belongs to a run with other settings"):
        trained(model, batches, **{"recipe": recipe, "folder": tmp_path, **settings})
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_without_a_folder_nothing_is_kept(made, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trained(*made(vectors))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tol", [None, 1e-2])
@pytest.mark.parametrize(("online", "solves"), [(False, 3), (True, 1 + PLAN.steps)])
def test_runs_are_remembered_or_made_anew(online, solves: int, tol, made) -> None:
    """Forty evaluations a run, and one that looks at the end of the first; the rest learns."""
    batches, calls = made(vectors)[1], [0]

    def f(z: Tensor, x: Tensor) -> Tensor:
        calls[0] += not torch.is_grad_enabled()
        return torch.tanh(0.5 * z + x)

    runs = TrajectoryRecipe(max_steps=40, online=online, end_tol=tol)
    trained(FunctionModel(f, (5,)).to(batches[0]), batches, trajectories=runs)
    assert calls[0] < 20 * solves if tol else calls == [40 * solves + 1]
