"""Algorithm 1: as many evaluations as times, and nothing kept on the way."""

from collections.abc import Callable

import pytest
import torch
from problems import Counted, each_teacher, vector_teacher
from torch import Tensor

from cdeq import Boundary, ConsistencyDEQ, ExponentialSchedule, refine
from cdeq.core.cell import bind
from cdeq.core.state import tensors


@each_teacher
@pytest.mark.parametrize("accelerate", (True, False))
@pytest.mark.parametrize("steps", (1, 2, 5))
def test_each_time_costs_one_evaluation(
    make, accelerate, steps, dtype, device, monkeypatch
) -> None:
    taught = make(dtype, device)
    student = ConsistencyDEQ.from_teacher(taught, accelerate=accelerate)
    counted = Counted(student.cell.forward)
    monkeypatch.setattr(student.cell, "forward", counted)
    states = list(refine(student, taught.x, taught.start, ExponentialSchedule().times(steps)))
    assert counted.calls == len(states) == steps


def test_nothing_is_evaluated_before_it_is_asked_for(dtype, device, monkeypatch) -> None:
    taught = vector_teacher(dtype, device)
    student = ConsistencyDEQ.from_teacher(taught)
    counted = Counted(student.cell.forward)
    monkeypatch.setattr(student.cell, "forward", counted)
    run = refine(student, taught.x, taught.start, ExponentialSchedule().times(9))
    assert counted.calls == 0
    next(run)
    assert counted.calls == 1


@each_teacher
def test_it_is_algorithm_1_written_out(make, device) -> None:
    taught = make(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught, boundary=Boundary(power=1.5))
    times = ExponentialSchedule.from_ratio(0.6).times(4).to(device)
    z, history, expected = taught.start, None, []
    for t in times:
        z, history = student(z, t, taught.x, history)
        expected.append(z)
    for ours, theirs in zip(refine(student, taught.x, taught.start, times), expected, strict=True):
        assert all(map(torch.equal, tensors(ours), tensors(theirs)))


def test_longer_runs_begin_like_shorter_ones(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught)
    schedule = ExponentialSchedule()
    long = list(refine(student, taught.x, taught.start, schedule.times(6)))
    for steps in range(1, 6):
        *_, short = refine(student, taught.x, taught.start, schedule.times(steps))
        assert torch.equal(short, long[steps - 1])


def test_the_start_is_left_alone(device) -> None:
    taught = vector_teacher(torch.float64, device)
    start = taught.start.clone()
    list(
        refine(
            ConsistencyDEQ.from_teacher(taught),
            taught.x,
            taught.start,
            torch.linspace(0.002, 1, 4),
        )
    )
    assert torch.equal(taught.start, start)


def test_any_student_with_a_memory_of_its_own_is_refined(device) -> None:
    class Adding:
        def bind(self, x: Tensor) -> Callable:
            return lambda z, t, memory: (z + x * t, (memory or 0) + 1)

    one = torch.ones((), device=device)
    states = list(refine(Adding(), 2 * one, one, torch.tensor([1.0, 2.0, 3.0])))
    assert [z.item() for z in states] == [3.0, 7.0, 13.0]


def test_binding_a_cell_evaluates_it_alike(device) -> None:
    taught = vector_teacher(torch.float64, device)
    assert torch.equal(bind(taught.deq.cell, taught.x)(taught.start), taught.f(taught.start))
