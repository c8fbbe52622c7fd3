"""Certified answers: true residuals, honest counts, and no student that can spoil them."""

import problems
import pytest
import torch
from consistency.toys import (
    FORMS,
    TOL,
    Jump,
    Rows,
    alone,
    as_model,
    disturb,
    equal,
    modelled,
    only,
    scaled,
)
from problems import each_dtype, each_problem, each_teacher
from torch import Tensor

from cdeq import (
    Anderson,
    Broyden,
    ConsistencyDEQ,
    Picard,
    Status,
    UntiedDEQ,
    relative_error,
    residual_norm,
    solve,
)
from cdeq.consistency.certified import certify
from cdeq.core.state import Layout
from cdeq.errors import StoreError
from cdeq.models.function import FunctionModel

SOLVERS = {"anderson": Anderson(), "mixing": Anderson(mixing=0.7), "broyden": Broyden()}
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))


@each_problem
@each_solver
@pytest.mark.parametrize("max_steps", (4, 100))
def test_without_a_student_it_is_the_solver(make, solver, max_steps, device) -> None:
    model, x, rows = modelled(make, torch.float64, device, solver=solver)
    expected = alone(model, x, max_steps)
    rows.sizes.clear()
    answer = certify(model, None, x, tol=TOL, steps=0, max_steps=max_steps)
    assert torch.equal(answer.steps, expected.steps)
    assert torch.equal(answer.converged, expected.converged)
    assert answer.status is expected.status
    assert answer.statuses == expected.statuses
    assert answer.nfe == expected.nfe == len(rows.sizes) == len(answer.errors)
    assert not answer.fallback.any()
    done = expected.converged
    layout = Layout.of(expected.z, batched=model.deq.batched)
    ours, theirs = layout.pack(answer.z), layout.pack(expected.z)
    torch.testing.assert_close(ours[done], theirs[done])
    torch.testing.assert_close(answer.errors[0], expected.errors[0])


@each_teacher
@each_dtype
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_the_residual_is_that_of_the_teachers_equation(make, form, dtype, device) -> None:
    taught = make(dtype, device)
    model, tol = as_model(taught), 1e-4
    close_to = (
        {"rtol": 1e-5, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-2, "atol": 1e-6}
    )
    student = UntiedDEQ.from_teacher(model, increments=form)
    disturb(student, 0.5)
    for given in (student, student.merged(), None):
        for steps in (0, 1, 4):
            answer = certify(model, given, taught.x, tol=tol, steps=steps)
            batched = model.deq.batched
            measured = residual_norm(model.bind(taught.x), answer.z, batched=batched)
            torch.testing.assert_close(answer.residual, measured, **close_to)
            assert answer.check() is answer
            assert bool((answer.residual <= tol).all())
            assert torch.equal(answer.errors[-1], answer.residual)


@pytest.mark.parametrize("make", problems.BATCHED)
@each_solver
@pytest.mark.parametrize("steps", (1, 3))
def test_a_step_is_a_row_that_was_evaluated(make, solver, steps, device) -> None:
    """Whoever is finished leaves the batch; whoever starts again is counted again."""
    model, x, rows = modelled(make, torch.float64, device, solver=solver)
    exact = alone(model, x).z
    starts = {
        "solved": exact,
        "near": scaled(exact, 1.001),
        "some lost": only(exact, torch.tensor([True, False, True], device=device)),
        "all lost": only(exact, torch.zeros(3, dtype=torch.bool, device=device)),
    }
    for start in starts.values():
        rows.sizes.clear()
        answer = certify(model, Jump(start), x, tol=TOL, steps=steps)
        assert sum(rows.sizes) == int((answer.steps - steps).sum())
        assert bool((answer.steps > steps).all())
        assert bool((answer.steps <= steps + 200).all())
        assert answer.nfe == int(answer.steps.max())


def test_finished_samples_are_spared(device) -> None:
    model, x, rows = modelled(problems.contraction, torch.float64, device)
    exact = alone(model, x)
    start = exact.z.clone()
    start[1] = 0
    rows.sizes.clear()
    answer = certify(model, Jump(start), x, tol=TOL, steps=1)
    assert answer.steps.tolist() == [2, 1 + int(exact.steps[1]), 2]
    assert rows.sizes == [3] + [1] * (int(exact.steps[1]) - 1)


@each_problem
def test_whoever_is_there_is_told_so_by_one_evaluation(make, device) -> None:
    model, x, _ = modelled(make, torch.float64, device)
    exact = alone(model, x, tol=1e-13).z
    for steps in (1, 2, 5):
        answer = certify(model, Jump(exact), x, tol=TOL, steps=steps)
        assert answer.steps.tolist() == [steps + 1] * len(answer.steps)
        assert equal(answer.z, exact)
        assert not answer.fallback.any()


STUDENTS = {
    "lost": lambda z: scaled(z, float("nan")),
    "infinite": lambda z: scaled(z, float("inf")),
    "huge": lambda z: scaled(z, 1e300),
    "far": lambda z: scaled(z, -1e6),
    "zero": lambda z: scaled(z, 0.0),
}


@each_problem
@each_solver
@pytest.mark.parametrize("name", STUDENTS)
def test_no_student_spoils_what_the_solver_certifies(make, solver, name, device) -> None:
    model, x, _ = modelled(make, torch.float64, device, solver=solver)
    expected = alone(model, x, 60)
    answer = certify(model, Jump(STUDENTS[name](expected.z)), x, tol=TOL, steps=2, max_steps=60)
    assert bool((answer.converged >= expected.converged).all())
    assert bool((answer.residual[answer.converged] <= TOL).all())
    assert expected.converged.any()
    if name in ("lost", "infinite"):
        assert bool(answer.fallback.all())
        assert torch.equal(answer.steps, expected.steps + 2)


@each_teacher
@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_student_has_learned_it_is_certified(make, seed, device) -> None:
    taught = make(torch.float64, device)
    model = as_model(taught)
    for kind in (ConsistencyDEQ, UntiedDEQ):
        student = kind.from_teacher(model)
        disturb(student, 3.0**seed, seed)
        answer = certify(model, student, taught.x, tol=TOL, steps=3)
        batched = model.deq.batched
        assert answer.check() is answer
        exact = alone(model, taught.x, tol=1e-13)
        assert float(relative_error(answer.z, exact.z, batched=batched).max()) < 1e-6


def parabola(device: torch.device) -> tuple[FunctionModel, Tensor, Rows]:
    """z ↦ z²/4 + x: beyond its second fixed point, 2 + √(4 - 4x), Picard runs off to infinity."""
    rows = Rows(lambda z, x: z * z / 4 + x)
    model = FunctionModel(rows, (1,), solver=Picard()).to(torch.float64)
    x = torch.tensor([[0.5], [0.3], [0.1], [0.4]], dtype=torch.float64, device=device)
    return model.to(device), x, rows


def test_who_is_led_astray_starts_again_and_nobody_else(device) -> None:
    model, x, rows = parabola(device)
    expected = alone(model, x)
    start = torch.tensor([[0.6], [50.0], [0.1], [-9.0]]).to(x)
    astray = solve(model.bind(x), start, Picard(), max_steps=100, tol=TOL).steps
    rows.sizes.clear()
    answer = certify(model, Jump(start), x, tol=TOL, steps=1)
    assert answer.fallback.tolist() == [False, True, False, True]
    assert answer.check() is answer
    torch.testing.assert_close(answer.z, expected.z)
    assert torch.equal(answer.z[[1, 3]], expected.z[[1, 3]])
    again = torch.where(answer.fallback, expected.steps, 0)
    assert torch.equal(answer.steps, 1 + astray + again)
    assert sum(rows.sizes) == int((answer.steps - 1).sum())


def test_one_lost_sample_is_its_own_trouble(device) -> None:
    for make in problems.BATCHED:
        model, x, _ = modelled(make, torch.float64, device)
        expected, near = alone(model, x), scaled(alone(model, x).z, 0.9)
        clean = certify(model, Jump(near), x, tol=TOL, steps=2)
        kept = torch.tensor([True, False, True], device=device)
        answer = certify(model, Jump(only(near, kept)), x, tol=TOL, steps=2)
        assert answer.fallback.tolist() == [False, True, False]
        ours, without, solver = (Layout.of(z).pack(z) for z in (answer.z, clean.z, expected.z))
        torch.testing.assert_close(ours[kept], without[kept])
        torch.testing.assert_close(ours[1], solver[1])
        assert torch.equal(answer.steps[kept], clean.steps[kept])
        assert answer.steps[1] == 2 + expected.steps[1]
        assert answer.status is Status.CONVERGED


@pytest.mark.parametrize("solver", [Picard(), *SOLVERS.values()], ids=repr)
def test_no_answer_is_said_to_be_none(solver, device) -> None:
    """z + 1 has no fixed point: the budget of both runs is spent, the residual is what it is."""
    rows = Rows(lambda z, x: z + x)
    model = FunctionModel(rows, (2,), solver=solver).to(device, torch.float64)
    x = torch.ones(3, 2, dtype=torch.float64, device=device)
    for student, runs in ((None, 1), (Jump(5 * x), 2)):
        rows.sizes.clear()
        answer = certify(model, student, x, tol=1e-12, steps=1, max_steps=8)
        assert answer.statuses == (Status.MAX_STEPS,) * 3
        assert not answer.converged.any()
        assert bool(answer.fallback.all()) == (runs == 2)
        assert answer.steps.tolist() == [8 * runs + runs - 1] * 3
        assert rows.sizes == [3] * 8 * runs
        torch.testing.assert_close(answer.residual, residual_norm(model.bind(x), answer.z))
        assert bool((answer.residual > 1e-12).all())


def test_a_map_that_is_no_number_is_said_to_be_none(device) -> None:
    x = torch.tensor([[0.5], [torch.nan], [0.2]], dtype=torch.float64, device=device)
    model = FunctionModel(lambda z, x: z / 2 + x, (1,)).to(device)
    for student in (None, Jump(torch.ones_like(x))):
        answer = certify(model, student, x, tol=TOL, steps=1)
        ends = (Status.CONVERGED, Status.NONFINITE, Status.CONVERGED)
        assert answer.statuses == ends and answer.status is Status.NONFINITE
        assert answer.converged.tolist() == [True, False, True]
        torch.testing.assert_close(answer.z[::2], 2 * x[::2])


@pytest.mark.parametrize("make", problems.BATCHED)
@each_solver
def test_batch_mates_do_not_matter(make, solver, device) -> None:
    model, x, _ = modelled(make, torch.float64, device, solver=solver)
    near = scaled(alone(model, x).z, 0.9)
    together = certify(model, Jump(near), x, tol=TOL, steps=1)
    for i in range(3):
        row = torch.tensor([i], device=device)
        start = problems.rows(near, row)
        single = certify(model, Jump(start), model.select(x, row, 3), tol=TOL, steps=1)
        assert single.steps.tolist() == [int(together.steps[i])]
        assert single.fallback.tolist() == [bool(together.fallback[i])]
        assert float(relative_error(single.z, problems.rows(together.z, row))) < 1e-6


def test_a_graph_is_one_sample(device) -> None:
    model, x, _ = modelled(problems.propagation, torch.float64, device)
    exact = alone(model, x)
    spoilt = exact.z.clone()
    spoilt[2, 1] = torch.nan
    answer = certify(model, Jump(spoilt), x, tol=TOL, steps=3)
    assert answer.fallback.tolist() == [True]
    assert answer.steps.tolist() == [3 + exact.nfe]
    assert torch.equal(answer.z, exact.z)


def test_nobody_is_certified_at_once(device) -> None:
    model = FunctionModel(lambda z, x: torch.cos(z), (3,))
    for student in (None, ConsistencyDEQ.from_teacher(model)):
        answer = certify(model, student, torch.zeros(0, 3), tol=1e-3, steps=1)
        assert answer.z.shape == (0, 3)
        assert answer.check() is answer
        assert (answer.nfe, answer.statuses) == (0, ())


def test_the_student_of_another_teacher_is_noticed(device) -> None:
    first, second = (as_model(problems.vector_teacher(torch.float64, device)) for _ in "ab")
    x = problems.vector_teacher(torch.float64, device).x
    for kind in (ConsistencyDEQ, UntiedDEQ):
        student = kind.from_teacher(second)
        with pytest.raises(StoreError, match=f"{kind.__name__} is the student of another teach"):
            certify(first, student, x, tol=TOL, steps=2)
        answer = certify(first, student, x, tol=TOL, steps=2, check=False).check()
        torch.testing.assert_close(answer.z, alone(first, x, tol=1e-12).z, atol=1e-7, rtol=0)


SHAPES = [
    (lambda z: z[:, :2], r"\[\(3, 5\)\] of torch.float64; got \[\(3, 2\)\] of"),
    (lambda z: z[:2], r"got \[\(2, 5\)\]"),
    (lambda z: (z, z), r"got \[\(3, 5\), \(3, 5\)\]"),
    (lambda z: z.float(), r"of torch.float64; got \[\(3, 5\)\] of torch.float32"),
]


@pytest.mark.parametrize(("change", "says"), SHAPES)
def test_a_state_of_another_form_is_refused(change, says, device) -> None:
    taught = problems.vector_teacher(torch.float64, device)
    with pytest.raises(ValueError, match=f"form of the teacher's .*{says}.* another model's stud"):
        certify(as_model(taught), Jump(change(taught.start)), taught.x, tol=TOL, steps=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tol": 0.0}, "`tol` is a positive residual norm"),
        ({"tol": -1.0}, "`tol` is a positive residual norm"),
        ({"tol": 1e-30}, "resolves down to"),
        ({"steps": -1}, "student's evaluations, at least 0; got -1"),
        ({"max_steps": 0}, "`max_steps` is the number of evaluations"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_done(settings, says, device) -> None:
    model, x, rows = modelled(problems.tanh, torch.float64, device)
    with pytest.raises(ValueError, match=says):
        certify(model, Jump(None), x, **{"tol": TOL, "steps": 1, **settings})
    assert rows.sizes == []
