"""Students of graph models: a graph is one sample, its state unbatched."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from models.graph.zoo import Spec, batch_of, each_spec, model_of
from torch import Tensor

from cdeq import (
    Anderson,
    ConsistencyDEQ,
    Full,
    LowRank,
    Shared,
    TimeSpan,
    UntiedDEQ,
    refine,
    relative_error,
    solve,
)
from cdeq.models.graph.base import GraphDEQ

ODD = batch_of("odd")
EPS = torch.tensor(TimeSpan().eps)
FORMS = {
    "full": Full(),
    "free": Full(free=True),
    "low-rank": LowRank(rank=1),
    "shared": Shared(decay=0.5),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))


@torch.no_grad()
def path(student, model: GraphDEQ, steps: int) -> list[Tensor]:
    x = model.encode(ODD)
    return list(refine(student, x, model.initial(x), EPS.expand(steps), batched=False))


@torch.no_grad()
def run(model: GraphDEQ, solver: Anderson, steps: int, start: Tensor | None = None) -> list:
    x = model.encode(ODD)
    z0 = model.initial(x) if start is None else start
    found = solve(model.bind(x), z0, solver, max_steps=steps, record=True, batched=False)
    return [*found.trajectory[1:]]


def same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-8) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def disturbed(student: torch.nn.Module, size: float = 0.05) -> torch.nn.Module:
    """As if trained."""
    torch.manual_seed(3)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.add_(size * torch.randn_like(parameter))
    return student


@each_spec
def test_a_fresh_student_is_anderson_with_window_1(spec: Spec) -> None:
    """t = ε everywhere makes c_out = 1."""
    model = model_of(spec)
    student = ConsistencyDEQ.from_teacher(model)
    assert not student.batched
    same(path(student, model, 6), run(model, Anderson(window=1), 6), 1e-6)


@each_spec
@each_form
def test_an_untrained_one_is_picard_and_then_the_teachers_solver(spec: Spec, form) -> None:
    model = model_of(spec)
    student = UntiedDEQ.from_teacher(model, steps=2, increments=form)
    first = run(model, Anderson(window=0), 2)
    rest = run(model, Anderson(), 3, start=first[-1])
    same(path(student, model, 5), [*first, *rest])


@each_spec
@each_form
def test_whatever_was_learned_the_limit_is_the_teachers(spec: Spec, form) -> None:
    model = model_of(spec)
    student = disturbed(UntiedDEQ.from_teacher(model, steps=2, increments=form))
    states = path(student, model, 40)
    x = model.encode(ODD)
    with torch.no_grad():
        exact = model.deq(x, model.initial(x)).check().z
    assert float(relative_error(states[0], exact, batched=False)) > 1e-3
    assert float(relative_error(states[-1], exact, batched=False)) < 1e-6


@each_spec
@each_form
def test_merging_changes_no_run(spec: Spec, form) -> None:
    model = model_of(spec)
    student = disturbed(UntiedDEQ.from_teacher(model, steps=2, increments=form))
    same(path(student.merged(), model, 4), path(student, model, 4))


@each_spec
@pytest.mark.parametrize("form", (Full(), Full(free=True)), ids=("held", "free"))
def test_students_come_back(spec: Spec, form: Full, tmp_path: Path) -> None:
    model = model_of(spec)
    for kind, options in ((ConsistencyDEQ, {}), (UntiedDEQ, {"steps": 2, "increments": form})):
        student = disturbed(kind.from_teacher(model, **options))
        student.save_pretrained(tmp_path / kind.__name__)
        read = kind.from_pretrained(tmp_path / kind.__name__, model)
        assert all(map(torch.equal, path(read, model, 3), path(student, model, 3)))


@each_spec
def test_a_student_learns_from_the_teachers_endpoint(spec: Spec) -> None:
    """A few gradient steps on ‖z_2 - z*‖² bring it down, at the same number of evaluations."""
    model = model_of(spec)
    x = model.encode(ODD)
    with torch.no_grad():
        exact = model.deq(x, model.initial(x)).z
    student = UntiedDEQ.from_teacher(model, steps=2, increments=Full(free=True))
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=1e-2)
    errors = []
    for _ in range(40):
        *_, z = refine(student, x, model.initial(x), EPS.expand(2), batched=False)
        loss = (z - exact).square().mean()
        errors.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert errors[-1] < 0.2 * errors[0]
    assert all(later <= earlier for earlier, later in pairwise(errors[::10]))
