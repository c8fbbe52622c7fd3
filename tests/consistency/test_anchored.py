"""Any student's steps, then the teacher's solver: the student's run, then the solver's."""

from copy import deepcopy

import pytest
import torch
from consistency.toys import FORMS, TIMES, close, disturb, equal, run
from problems import Counted, each_dtype, each_teacher, vector_teacher
from torch import nn

from cdeq import (
    Anderson,
    Broyden,
    ConsistencyDEQ,
    Picard,
    refine,
    relative_error,
    solve,
)
from cdeq.consistency.anchored import AnchoredDEQ
from cdeq.consistency.student import teacher_digest
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.state import detach, tensors

TAILS = {"anderson": Anderson(), "broyden": Broyden(), "damped": Picard(damping=0.5)}
each_tail = pytest.mark.parametrize("tail", TAILS.values(), ids=list(TAILS))


def learned(taught, *, accelerate: bool = True, size: float = 0.3) -> ConsistencyDEQ:
    """A student that does not know its teacher any more."""
    student = ConsistencyDEQ.from_teacher(taught, accelerate=accelerate)
    disturb(student, size)
    return student


@each_teacher
@each_tail
@pytest.mark.parametrize("accelerate", (True, False))
@pytest.mark.parametrize("steps", (0, 1, 3))
def test_it_is_the_student_and_then_the_solver(make, tail, accelerate, steps, device) -> None:
    """The solver starts where the student stopped, and knows nothing of how it got there."""
    taught = make(torch.float64, device)
    student = learned(taught, accelerate=accelerate)
    states = run(AnchoredDEQ(student, taught, steps=steps, tail=tail), taught, steps + 5)
    own = run(student, taught, steps)
    assert all(equal(ours, theirs) for ours, theirs in zip(states[:steps], own, strict=True))
    start = own[-1] if own else taught.start
    options = {"record": True, "batched": taught.deq.batched}
    after = solve(taught.f, start, tail, max_steps=5, **options).trajectory[1:]
    assert all(close(ours, theirs) for ours, theirs in zip(states[steps:], after, strict=True))


@each_teacher
@each_dtype
@pytest.mark.parametrize("size", (0.1, 1.0))
def test_the_limit_is_the_teachers_fixed_point(make, size, dtype, device) -> None:
    taught = make(dtype, device)
    batched = taught.deq.batched
    exact = solve(taught.f, taught.start, Picard(), max_steps=400, batched=batched).z
    exact = detach(exact)
    student = learned(taught, size=size)
    *_, z = run(AnchoredDEQ(student, taught, steps=3), taught, 40)
    accuracy = 100 * torch.finfo(dtype).eps
    assert float(relative_error(z, exact, batched=batched).max()) < accuracy
    *_, far = run(student, taught, 3)
    assert float(relative_error(far, exact, batched=batched).max()) > 1e-3


@each_teacher
@pytest.mark.parametrize("steps", (0, 2, 9))
def test_each_step_costs_one_evaluation(make, steps, device, monkeypatch) -> None:
    taught = make(torch.float64, device)
    student = AnchoredDEQ(learned(taught), taught, steps=steps)
    first, after = (Counted(cell.forward) for cell in (student.learned.cell, student.cell))
    monkeypatch.setattr(student.learned.cell, "forward", first)
    monkeypatch.setattr(student.cell, "forward", after)
    for total in range(1, 7):
        first.calls = after.calls = 0
        run(student, taught, total)
        assert (first.calls, after.calls) == (min(total, steps), max(0, total - steps))


def test_a_run_can_be_taken_step_by_step(device) -> None:
    """All that a run needs goes through its memory: two runs may take turns."""
    taught = vector_teacher(torch.float64, device)
    student = AnchoredDEQ(learned(taught), taught, steps=2)
    whole, other = run(student, taught, 5), taught.start + 1
    z, memory, z2, memory2 = taught.start, None, other, None
    with torch.no_grad():
        for t, expected in zip(TIMES[:5], whole, strict=True):
            z, memory = student(z, t, taught.x, memory)
            z2, memory2 = student(z2, t, taught.x, memory2)
            assert close(z, expected)
        *_, alone = refine(student, taught.x, other, TIMES[:5])
    assert memory.j == 5 and close(z2, alone)


def test_the_teacher_is_copied_and_frozen(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = AnchoredDEQ(ConsistencyDEQ.from_teacher(taught), taught, steps=1)
    assert student.teacher == teacher_digest(taught)
    states, before = run(student, taught, 4), deepcopy(student.cell.state_dict())
    taught.deq.cell.mix.weight.data.zero_()
    assert all(map(equal, run(student, taught, 4), states))
    *_, z = refine(student, taught.x, taught.start + 1, TIMES[:4])
    sum(part.square().sum() for part in tensors(z)).backward()
    assert all(p.grad is None and not p.requires_grad for p in student.cell.parameters())
    assert all(p.requires_grad for p in student.learned.parameters())
    assert any(p.grad is not None for p in student.learned.parameters())
    assert torch.equal(before["mix.weight"], student.cell.mix.weight)


def test_only_the_learned_steps_have_a_training_mode(device) -> None:
    taught = vector_teacher(torch.float64, device)
    taught.deq.cell.dropout = nn.Dropout(0.5)
    student = AnchoredDEQ(ConsistencyDEQ.from_teacher(taught), taught, steps=1)
    for mode in (True, False, True):
        assert student.train(mode) is student
        assert student.learned.cell.dropout.training == mode
        assert not student.cell.dropout.training


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_students_can_be_chained(form, device) -> None:
    """Untied steps are an anchored student themselves: J of its run, then the solver anew."""
    taught = vector_teacher(torch.float64, device)
    untied = UntiedDEQ.from_teacher(taught, steps=2, increments=form)
    disturb(untied)
    states = run(AnchoredDEQ(untied, taught, steps=4), taught, 6)
    own = run(untied, taught, 4)
    after = solve(taught.f, own[-1], Anderson(), max_steps=2, record=True).trajectory[1:]
    expected = (*own, *after)
    assert all(close(ours, theirs) for ours, theirs in zip(states, expected, strict=True))


def test_a_negative_number_of_steps_is_refused(device) -> None:
    taught = vector_teacher(torch.float64, device)
    with pytest.raises(ValueError, match="counts the learned steps J ≥ 0; got -1"):
        AnchoredDEQ(ConsistencyDEQ.from_teacher(taught), taught, steps=-1)
