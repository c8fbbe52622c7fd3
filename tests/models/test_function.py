"""Any callable as a model: the same fixed point, and students that start as the callable."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import problems
import pytest
import torch
from problems import Mixing, Problem, each_dtype, each_problem, rows, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq import ConsistencyDEQ, Picard, UntiedDEQ, refine, solve
from cdeq.core.adjoint import JacobianFree
from cdeq.core.state import Layout, like, tensors, zeros_like
from cdeq.errors import CDEQError
from cdeq.models.function import FunctionModel
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.typing import State

each_contraction = pytest.mark.parametrize("make", problems.CONTRACTIONS)


def shape_of(state: State, *, batched: bool) -> tuple:
    shapes = tuple(tuple(part.shape[batched:]) for part in tensors(state))
    return shapes[0] if isinstance(state, Tensor) else shapes


def modelled(problem: Problem, **settings: object) -> FunctionModel:
    """The problem as a plain function of z and a context that it ignores."""
    model = FunctionModel(
        lambda z, x: problem(z),
        shape_of(problem.start, batched=problem.batched),
        initial=lambda x: problem.start,
        axis=-1,
        batched=problem.batched,
        **settings,
    )
    return model.to(tensors(problem.start)[0])


def equal(one: State, other: State) -> bool:
    return all(map(torch.equal, tensors(one), tensors(other)))


def close(one: State, other: State) -> bool:
    return all(map(torch.allclose, tensors(one), tensors(other)))


@each_problem
@pytest.mark.parametrize("name", ("picard", "anderson", "broyden", "rk4"))
def test_it_finds_what_solve_finds(make, name: str, dtype, device) -> None:
    problem, solver = make(dtype, device), problems.SOLVERS[name]
    budget = {"max_steps": 13, "tol": 1e-3}
    model = modelled(problem, solver=solver, **budget)
    direct = solve(problem, problem.start, solver, batched=problem.batched, **budget)
    with torch.no_grad():
        found = model.deq(None, model.initial(None))
    assert equal(found.z, direct.z)
    assert torch.equal(found.errors, direct.errors)


def test_it_differentiates_what_it_finds(device) -> None:
    """z* = A z* + x, so dz*/dx = (I - A)⁻¹."""
    matrix = problems.contraction(torch.float64, device).matrix
    model = FunctionModel(lambda z, x: z @ matrix.T + x, (5,), max_steps=60)
    x = seeded(3, 5, seed=0, dtype=torch.float64, device=device).requires_grad_()
    wanted = seeded(3, 5, seed=1, dtype=torch.float64, device=device)
    (given,) = torch.autograd.grad((model(x) * wanted).sum(), x)
    exact = torch.linalg.solve(torch.eye(5).to(matrix) - matrix.T, wanted.T).T
    assert torch.allclose(given, exact, rtol=1e-4)
    assert FunctionModel(f, (5,), adjoint=JacobianFree()).deq.adjoint == JacobianFree()


def wrapped(make: Callable, dtype: torch.dtype, device: torch.device) -> tuple:
    """A taught teacher, and its cell as a model."""
    taught = make(dtype, device)
    batched = taught.deq.batched
    shape = shape_of(taught.start, batched=batched)
    return taught, FunctionModel(taught.deq.cell, shape, batched=batched)


@each_contraction
def test_a_fresh_student_of_a_function_is_the_function(make, dtype, device) -> None:
    problem, t = make(dtype, device), torch.tensor(0.3, device=device)
    student = ConsistencyDEQ.from_teacher(modelled(problem))
    for z in (problem.start, problem.solution):
        assert equal(student.estimate(z, t, None), problem(z))


@problems.each_teacher
def test_a_fresh_student_of_a_module_is_the_module(make, dtype, device) -> None:
    taught, model = wrapped(make, dtype, device)
    student = ConsistencyDEQ.from_teacher(model)
    z = like(taught.start, tuple(torch.randn_like(part) for part in tensors(taught.start)))
    assert close(student.estimate(z, torch.tensor(0.3, device=device), taught.x), taught.f(z))


@problems.each_teacher
def test_shape_alone_says_where_to_start_and_where_features_are(make, dtype, device) -> None:
    taught, model = wrapped(make, dtype, device)
    start, readout = model.initial(taught.x), model.readout()
    assert equal(start, taught.start)
    assert Layout.of(start) == Layout.of(taught.start)
    assert (readout.axis, readout.features) == (taught.axis, taught.features)


@each_contraction
def test_two_untied_steps_are_two_picard_steps(make, device) -> None:
    problem = make(torch.float64, device)
    student = UntiedDEQ.from_teacher(modelled(problem), steps=2)
    *_, z = refine(student, None, problem.start, torch.zeros(2, device=device))
    assert close(z, problem(problem(problem.start)))


def test_a_student_trains_a_copy_of_the_modules_weights(dtype, device) -> None:
    taught, model = wrapped(problems.vector_teacher, dtype, device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    student = ConsistencyDEQ.from_teacher(model)
    assert student.cell.state_dict().keys() == taught.deq.cell.state_dict().keys()
    z, _ = student(taught.start + 1, torch.tensor(0.1, device=device), taught.x)
    z.square().sum().backward()
    torch.optim.SGD(student.parameters(), lr=0.1).step()
    assert not torch.equal(student.cell.mix.weight, taught.deq.cell.mix.weight)
    assert model.deq.cell is taught.deq.cell
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_copies_share_a_plain_function() -> None:
    """What it holds may be large, or part of a graph, which torch refuses to copy."""
    f = partial(torch.lerp, weight=torch.ones(1, requires_grad=True) * 2)
    student = ConsistencyDEQ.from_teacher(FunctionModel(f, (1,)))
    assert student.cell.f is f
    assert list(student.cell.parameters()) == []


def test_a_models_own_parts_make_the_same_model(dtype, device) -> None:
    """Its cell prepares: normalised weights and the injected image."""
    spec = ContractionSpec(channels=3, size=4, max_steps=9)
    own = ContractionDEQ(spec).to(device, dtype)
    seams = {"encode": own.encode, "decode": own.decode, "loss": own.loss}
    model = FunctionModel(own.deq.cell, (3, 4, 4), solver=spec.solver, max_steps=9, **seams)
    image = seeded(5, 1, 4, 4, seed=4, dtype=dtype, device=device)
    batch = ImageBatch(image, torch.arange(5, device=device))
    assert torch.equal(model(batch), own(batch))
    assert torch.equal(model.loss(model(batch), batch), own.loss(own(batch), batch))
    pair = image, image + 1
    assert torch.equal(model.divergence(*pair), own.divergence(*pair))
    assert torch.equal(around().divergence(*pair), F.pairwise_distance(*pair))


IDS = torch.arange(4)
SCALE = torch.tensor(2.0, dtype=torch.float32)
CONTEXTS = {
    "bare": lambda rows: rows,
    "tuple": lambda rows: (IDS, rows, torch.eye(7)),
    "dict": lambda rows: {"name": "a", "ids": IDS, "nested": [None, rows]},
    "named": lambda rows: ImageBatch(rows, IDS),
}


@each_dtype
@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 3), ((4, 2), (3,)), ((3,),)], ids=str)
def test_the_start_is_zero_in_the_contexts_precision(name: str, shape, dtype) -> None:
    x = CONTEXTS[name](torch.randn(3, 2, dtype=dtype))
    given = FunctionModel(lambda z, x: z, shape, axis=-1).initial(x)
    single = isinstance(shape[0], int)
    zeros = tuple(torch.zeros(3, *s, dtype=dtype) for s in ((shape,) if single else shape))
    assert Layout.of(given) == Layout.of(zeros[0] if single else zeros)
    assert equal(given, zeros)


def test_a_context_without_floating_point_rows() -> None:
    """Precision comes from the first number with a fraction, samples from the first rows."""
    model = FunctionModel(Mixing(5).double(), (5,))
    assert torch.equal(model.initial(IDS), torch.zeros(4, 5, dtype=torch.float64))
    assert torch.equal(model.initial((SCALE, IDS)), torch.zeros(4, 5))
    whole = FunctionModel(Mixing(5).double(), (6, 5), batched=False)
    assert torch.equal(whole.initial(None), torch.zeros(6, 5, dtype=torch.float64))


@each_dtype
def test_without_weights_the_model_is_where_it_was_moved(dtype) -> None:
    model = FunctionModel(lambda z, x: z, (5,))
    assert model.device.type == "cpu"
    assert model.readout().weights[0].dtype == torch.float32
    assert model.to(dtype).readout().weights[0].dtype == dtype
    assert model.to("meta").device.type == "meta"
    assert not model.state_dict()


def test_with_weights_the_model_is_where_they_are() -> None:
    weights = FunctionModel(Mixing(5).double().to("meta"), (5,))
    buffers = FunctionModel(nn.BatchNorm1d(5, affine=False).to("meta"), (5,))
    head = FunctionModel(lambda z, x: z, (5,), decode=nn.Bilinear(5, 5, 2).to("meta"))
    assert {model.device.type for model in (weights, buffers, head)} == {"meta"}
    assert weights.readout().weights[0].dtype == torch.float64
    counting = nn.Module()
    counting.register_buffer("ids", IDS)
    assert FunctionModel(counting, (5,)).readout().weights[0].dtype == torch.float32


@pytest.mark.parametrize("make", (problems.tanh, problems.coupled, problems.propagation))
def test_without_decode_the_state_is_the_answer(make, dtype, device) -> None:
    """Several tensors as their packed rows."""
    problem = make(dtype, device)
    model, far = modelled(problem), zeros_like(problem.solution)
    z, goal = (model.decode(state, None) for state in (far, problem.solution))
    layout = Layout.of(problem.solution, batched=problem.batched)
    assert torch.equal(goal.reshape(layout.samples, -1), layout.pack(problem.solution))
    assert torch.equal(model.divergence(z, goal), torch.ones(layout.samples).to(goal))
    assert model.headless and not around().headless
    with torch.no_grad():
        found = model.deq(None, model.initial(None))
        assert torch.equal(model(None), model.decode(found.z, None))
    assert found.errors.shape[1] == layout.samples


def pulled(z: State, x: dict) -> State:
    """Every tensor is drawn to a shift of each sample's own, by a scale common to all."""
    parts = zip(tensors(z), x["shift"], strict=True)
    return like(z, tuple(torch.sin(x["scale"][0] * part) + shift for part, shift in parts))


@pytest.mark.parametrize("shape", [(6,), (2, 3, 3), ((4, 2), (3,))], ids=str)
def test_some_samples_are_solved_as_among_all(shape, dtype, device) -> None:
    shapes = (shape,) if isinstance(shape[0], int) else shape
    shift = tuple(seeded(5, *s, seed=7, dtype=dtype, device=device) for s in shapes)
    scale = torch.tensor([0.5, 0.0], dtype=dtype, device=device)
    x = {"name": "pulled", "shift": shift, "scale": scale}
    model = FunctionModel(pulled, shape, axis=-1, solver=Picard(), max_steps=9)
    chosen = torch.tensor([3, 0], device=device)
    few = model.select(x, chosen, samples=5)
    with torch.no_grad():
        every, some = (model.deq(c, model.initial(c)).z for c in (x, few))
    assert close(some, rows(every, chosen))


def around() -> FunctionModel:
    """Encoder, cell and head are modules."""
    encode, decode = nn.Linear(3, 6), nn.Bilinear(6, 6, 4)
    return FunctionModel(
        Mixing(6), (6,), encode=encode, decode=decode, divergence=F.pairwise_distance
    )


def test_modules_around_f_train_and_travel_with_it() -> None:
    model, other, batch = around(), around(), torch.randn(5, 3)
    model(batch).square().sum().backward()
    assert len(list(model.parameters())) == 5
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert not torch.equal(other(batch), model(batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), model(batch))


def test_without_a_loss_asking_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="built without a task loss"):
        FunctionModel(Mixing(6), (6,)).loss(torch.zeros(2, 6), None)


def test_a_function_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CDEQError, match="keep f in your own code"):
        FunctionModel(Mixing(6), (6,)).save_pretrained(tmp_path / "model")
    with pytest.raises(CDEQError, match="keep f in your own code"):
        FunctionModel.from_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("plain", (True, False), ids=("function", "module"))
def test_its_students_are_saved(plain: bool, dtype, device, tmp_path: Path) -> None:
    taught, model = wrapped(problems.pair_teacher, dtype, device)
    if plain:
        model = FunctionModel(lambda z, x: taught.deq.cell(z, x), model.shapes).to(taught.x[0])
    student = ConsistencyDEQ.from_teacher(model)
    for parameter in student.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    student.save_pretrained(tmp_path)
    read = ConsistencyDEQ.from_pretrained(tmp_path, model)
    z, t = like(taught.start, taught.x), torch.tensor(0.3, device=device)
    assert close(read.estimate(z, t, taught.x), student.estimate(z, t, taught.x))
    assert not close(read.estimate(z, t, taught.x), taught.f(z))


def f(z: Tensor, x: Tensor) -> Tensor:
    return z / 2 + x


NO_SHAPES = (5, [5], (), (0,), (5, -1), (5.0,), (True,), ((3,), ()), ((3,), 4), None)
MIXED = ((8, 4, 4), (5,))
CALLED = ("encode", "decode", "loss", "divergence", "select", "initial")
MISUSE = [
    *((f, shape, {}, ValueError, "is the shape of one sample's state") for shape in NO_SHAPES),
    *((f, (5,), {name: 1}, TypeError, f"`{name}` is a function, a mod") for name in CALLED),
    (torch.zeros(5), (5,), {}, TypeError, r"called as f\(z, x\); got tensor"),
    (Mixing, (5,), {}, TypeError, "a module, not its class; got Mixing"),
    (f, MIXED, {}, ValueError, "say where features stand in all of them"),
    (f, (5,), {"axis": 2}, ValueError, "`axis` is where features stand in every tensor"),
    (f, (5,), {"axis": 1, "batched": False}, ValueError, "got 1 for shapes"),
    (f, (5,), {"max_steps": 0}, ValueError, "`max_steps` is the number of evaluations"),
]


@pytest.mark.parametrize(("wrong", "shape", "settings", "error", "says"), MISUSE)
def test_misuse_is_refused_at_once(wrong, shape, settings: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        FunctionModel(wrong, shape, **settings)


def test_a_state_of_images_and_vectors_has_features_where_one_says() -> None:
    assert FunctionModel(f, MIXED, axis=1).readout().features == (8, 5)
    assert FunctionModel(f, MIXED, axis=-1).readout().features == (4, 5)


STARTS = [
    (torch.zeros(3, 4), True, ValueError, r"model's shape \(5,\); got \(4,\)"),
    ((torch.zeros(3, 5),), True, ValueError, r"model's shape \(5,\); got \(\(5,\),\)"),
    (torch.zeros(3, 5), False, ValueError, r"model's shape \(5,\); got \(3, 5\)"),
    ([torch.zeros(3, 5)], True, TypeError, "a state is a tensor or a tuple"),
]


@pytest.mark.parametrize(("made", "batched", "error", "says"), STARTS)
def test_a_start_of_another_form_is_refused(made, batched, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        FunctionModel(f, (5,), initial=lambda x: made, batched=batched).initial(None)


@pytest.mark.parametrize("x", [None, SCALE, {"name": "a"}, ()], ids=str)
def test_a_context_that_counts_no_samples_is_refused(x) -> None:
    with pytest.raises(ValueError, match="says how many samples there are"):
        FunctionModel(f, (5,)).initial(x)


WRONG = [
    (lambda z, x: torch.cat([z, z], 1), ValueError, "of the shape it was given"),
    (lambda z, x: (z, z), ValueError, "of the shape it was given"),
    (lambda z, x: z.double(), ValueError, "of the dtype and device it was given"),
    (lambda z, x: [z], TypeError, "a state is a tensor or a tuple of tensors"),
]


@pytest.mark.parametrize(("wrong", "error", "says"), WRONG)
def test_an_f_that_returns_something_else_is_refused(wrong, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        FunctionModel(wrong, (5,))(torch.zeros(3, 5))
