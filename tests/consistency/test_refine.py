"""Algorithm 1: as many evaluations as times, and nothing kept on the way."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from consistency.toys import close, disturb, equal
from problems import Counted, each_teacher, pair_teacher, vector_teacher
from torch import Tensor

from cdeq import Boundary, ConsistencyDEQ, ExponentialSchedule, UntiedDEQ, refine
from cdeq.consistency.refine import refine_adaptively, step_size
from cdeq.core.cell import bind
from cdeq.core.state import Layout, tensors

TIMES = ExponentialSchedule().times(8)
KINDS = {"paper": ConsistencyDEQ, "untied": UntiedDEQ}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


class Halving:
    """Every sample halves its distance to where x says, each from a start of its own."""

    def bind(self, x: Tensor) -> Callable:
        return lambda z, t, memory: ((z + x) / 2, memory)


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


# Stopping


@each_teacher
@each_kind
def test_a_tiny_threshold_stops_nobody(make, kind, dtype, device) -> None:
    taught = make(dtype, device)
    student, batched = kind.from_teacher(taught), taught.deq.batched
    disturb(student)
    with torch.no_grad():
        plain = list(refine(student, taught.x, taught.start, TIMES[:4]))
        stopped = refine(student, taught.x, taught.start, TIMES[:4], stop=1e-30, batched=batched)
        assert all(close(a, b) for a, b in zip(stopped, plain, strict=True))


@each_teacher
@each_kind
@pytest.mark.parametrize("quantile", (0.0, 0.3, 0.7, 1.0))
def test_who_moved_little_rests_for_good(make, kind, quantile, device) -> None:
    """Each sample's run is its own, up to its first step that is small enough; then it stays."""
    taught = make(torch.float64, device)
    student, batched = kind.from_teacher(taught), taught.deq.batched
    disturb(student)
    layout = Layout.of(taught.start, batched=batched)
    with torch.no_grad():
        free = [taught.start, *refine(student, taught.x, taught.start, TIMES)]
        path = torch.stack([layout.pack(z) for z in free])
        sizes = torch.stack([step_size(b, a) for a, b in pairwise(path)])
        stop = float(sizes[:-1].quantile(quantile)) * (1 + 1e-9)
        found = list(
            refine_adaptively(student, taught.x, taught.start, TIMES, stop, batched=batched)
        )
    small = sizes <= stop
    small[-1] = True
    last = small.int().argmax(0)
    assert len(found) == int(last.max()) + 1
    for j, point in enumerate(found):
        assert torch.equal(point.moved, last >= j)
        reached = path[last.clamp_max(j) + 1, torch.arange(layout.samples)]
        torch.testing.assert_close(layout.pack(point.z), reached, rtol=1e-9, atol=1e-12)
    for before, after in pairwise(found):
        still = ~after.moved
        assert torch.equal(layout.pack(before.z)[still], layout.pack(after.z)[still])


@pytest.mark.parametrize("make", (vector_teacher, pair_teacher))
def test_the_states_are_those_of_the_points(make, device) -> None:
    taught = make(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught)
    with torch.no_grad():
        states = list(refine(student, taught.x, taught.start, TIMES, stop=0.05))
        points = list(refine_adaptively(student, taught.x, taught.start, TIMES, 0.05))
    assert 1 < len(states) < len(TIMES)
    assert all(equal(z, point.z) for z, point in zip(states, points, strict=True))


def test_resting_by_hand(device) -> None:
    """|z_{j+1} - z_j| / |z_{j+1}| is 1/3, 1/7, 1/15 … from 0, and smaller from nearby."""
    goal, start = torch.tensor([[8.0], [8.0], [8.0]]), torch.tensor([[0.0], [7.0], [8.0]])
    run = refine_adaptively(Halving(), goal.to(device), start.to(device), TIMES, stop=0.1)
    points = list(run)
    assert [point.moved.tolist() for point in points] == [
        [True, True, True],
        [True, False, False],
        [True, False, False],
        [True, False, False],
    ]
    assert points[-1].z.flatten().tolist() == [7.5, 7.5, 8.0]


def test_no_evaluation_is_spent_once_all_rest(device, monkeypatch) -> None:
    taught = vector_teacher(torch.float64, device)
    student = ConsistencyDEQ.from_teacher(taught)
    counted = Counted(student.cell.forward)
    monkeypatch.setattr(student.cell, "forward", counted)
    with torch.no_grad():
        states = list(refine(student, taught.x, taught.start, TIMES, stop=0.05))
    assert counted.calls == len(states) < len(TIMES)
    assert len(list(refine(student, taught.x, taught.start, TIMES, stop=2.0))) == 1


def test_a_step_that_is_no_number_is_not_small(device) -> None:
    goal = torch.tensor([[8.0], [torch.nan], [torch.inf]], device=device)
    points = list(refine_adaptively(Halving(), goal, torch.zeros_like(goal), TIMES, stop=0.5))
    assert len(points) == len(TIMES)
    assert [point.moved.tolist() for point in points[1:]] == [[True, True, True]] + [
        [False, True, True]
    ] * (len(TIMES) - 2)
    assert points[-1].z[0] == points[1].z[0] == 6.0


@pytest.mark.parametrize("stop", (0.0, -1.0, float("nan")))
def test_a_threshold_is_positive(stop: float, device) -> None:
    with pytest.raises(ValueError, match=r"`stop` is a positive relative step, or None .*; got"):
        list(refine(Halving(), torch.zeros(1, 1), torch.zeros(1, 1), TIMES, stop=stop))
