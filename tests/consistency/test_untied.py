"""Learned first steps, then the teacher's solver: exact at birth, exact in the limit."""

from copy import deepcopy

import pytest
import torch
from problems import Counted, each_teacher, vector_teacher

from cdeq import Anderson, ExponentialSchedule, Picard, refine, relative_error, solve
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.cell import bind
from cdeq.core.state import tensors


def run(student, taught, steps: int) -> list:
    times = ExponentialSchedule().times(steps)
    with torch.no_grad():
        return list(refine(student, taught.x, taught.start, times))


@each_teacher
@pytest.mark.parametrize("learned", (0, 1, 3))
def test_untrained_it_is_picard_and_then_the_teachers_solver(make, learned, device) -> None:
    taught = make(torch.float64, device)
    f, batched = bind(taught.deq.cell, taught.x), taught.deq.batched
    states = run(UntiedDEQ.from_teacher(taught, steps=learned), taught, learned + 4)
    z = taught.start
    for j in range(learned):
        z = f(z)
        assert all(map(torch.allclose, tensors(states[j]), tensors(z)))
    tail = solve(f, z, Anderson(), max_steps=4, record=True, batched=batched).trajectory[1:]
    for ours, theirs in zip(states[learned:], tail, strict=True):
        assert all(map(torch.allclose, tensors(ours), tensors(theirs)))


@pytest.mark.parametrize("learned", (0, 1, 3))
def test_each_step_costs_one_evaluation(learned, dtype, device) -> None:
    taught = vector_teacher(dtype, device)
    student = UntiedDEQ.from_teacher(taught, steps=learned)
    counters = []
    for cell in (*student.cells, student.cell):
        counters.append(Counted(cell.forward))
        cell.forward = counters[-1]
    run(student, taught, 5)
    assert [counter.calls for counter in counters] == [1] * learned + [5 - learned]


@each_teacher
def test_whatever_was_learned_the_limit_is_the_teachers(make, device) -> None:
    """Broken first steps cost evaluations, never correctness."""
    taught = make(torch.float64, device)
    student = UntiedDEQ.from_teacher(taught, steps=2)
    with torch.no_grad():
        for parameter in (*student.cells.parameters(), *student.readouts.parameters()):
            parameter.add_(0.3 * torch.randn_like(parameter))
    f, batched = bind(taught.deq.cell, taught.x), taught.deq.batched
    with torch.no_grad():
        exact = solve(f, taught.start, Anderson(), max_steps=200, tol=1e-12, batched=batched)
    *_, z = run(student, taught, 80)
    assert exact.status.name == "CONVERGED"
    assert float(relative_error(z, exact.z, batched=batched).max()) < 1e-8


def test_only_the_first_steps_learn(device) -> None:
    taught = vector_teacher(torch.float64, device)
    start = torch.ones_like(taught.start)  # at 0 no weight of the first step would matter
    before = deepcopy(taught.deq.cell.state_dict())
    student = UntiedDEQ.from_teacher(taught, steps=2)
    *_, z = refine(student, taught.x, start, ExponentialSchedule().times(4))
    sum(part.square().sum() for part in tensors(z)).backward()
    for cell in student.cells:
        assert any(bool(p.grad.abs().max() > 0) for p in cell.parameters() if p.grad is not None)
    assert all(p.grad is None for p in student.cell.parameters())
    assert all(torch.equal(before[k], v) for k, v in taught.deq.cell.state_dict().items())


def test_the_tail_can_be_any_solver(device) -> None:
    taught = vector_teacher(torch.float64, device)
    f = bind(taught.deq.cell, taught.x)
    *_, z = run(UntiedDEQ.from_teacher(taught, steps=1, tail=Picard(damping=0.5)), taught, 3)
    expected = solve(f, f(taught.start), Picard(damping=0.5), max_steps=2).z
    torch.testing.assert_close(z, expected)


def test_a_readout_for_every_cell(device) -> None:
    taught = vector_teacher(torch.float64, device)
    with pytest.raises(ValueError, match="1 cells and 0 readouts"):
        UntiedDEQ([deepcopy(taught.deq.cell)], [], taught.deq.cell)
