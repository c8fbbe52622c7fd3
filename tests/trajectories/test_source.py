"""Online trajectories: the solver's own, from a teacher in evaluation mode."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from trajectories.toys import DATA, STEPS, Toy, graph, online, pair, same, single

from cdeq import Anderson, Picard, solve
from cdeq.core.state import tensors
from cdeq.trajectories import OnlineTrajectories
from cdeq.trajectories.source import Indices

TEACHERS = pytest.mark.parametrize("make", [single, pair, graph])


@TEACHERS
@pytest.mark.parametrize("solver", [Picard(), Anderson(window=2)])
def test_it_is_what_solve_records(make: Callable[[], Toy], solver: Anderson) -> None:
    teacher = make().eval()
    rows = [2, 5] if teacher.deq.batched else [0]
    x = teacher.encode(DATA[rows] if teacher.deq.batched else DATA)
    found = solve(
        teacher.bind(x),
        teacher.initial(x),
        solver,
        max_steps=STEPS,
        record=True,
        batched=teacher.deq.batched,
    )
    assert found.trajectory is not None
    assert same(online(teacher, solver)(rows), found.trajectory)


@TEACHERS
def test_dropout_is_off_and_every_mode_is_put_back(make: Callable[[], Toy]) -> None:
    teacher = make().train()
    teacher.encoder.eval()
    assert same(online(teacher)([0]), online(make().eval())([0]))
    assert teacher.training and teacher.dropout.training and not teacher.encoder.training


def test_modes_are_put_back_when_the_solve_fails() -> None:
    teacher = single().train()
    source = OnlineTrajectories(
        teacher=teacher, contexts=DATA.__getitem__, solver=Picard(), max_steps=0
    )
    with pytest.raises(ValueError, match="max_steps"):
        source([0])
    assert all(module.training for module in teacher.modules())


@TEACHERS
def test_nothing_is_left_for_backward(make: Callable[[], Toy]) -> None:
    states = online(make())([0])
    assert not any(part.requires_grad for z in states for part in tensors(z))


@pytest.mark.parametrize("rows", [(3, 1, 3), torch.tensor([3, 1, 3], dtype=torch.int32)])
def test_indices_may_come_in_any_container(rows: Indices) -> None:
    source = online(single())
    assert same(source(rows), source([3, 1, 3]))
    assert same(source(range(2, 4)), source([2, 3]))


@pytest.mark.parametrize("rows", [[], [0.5], [True], [[1]], 3, [-1]])
def test_what_is_no_list_of_indices_is_refused(rows: Indices) -> None:
    with pytest.raises(ValueError, match="samples are"):
        online(single())(rows)


def test_graphs_are_asked_for_one_at_a_time() -> None:
    """Each is a sample: a whole data set of one, or a sub-graph of many."""
    with pytest.raises(ValueError, match=r"one sample at a time; got the samples \[0, 0\]"):
        online(graph())([0, 0])


@pytest.mark.parametrize("make", [single, graph])
def test_the_ends_alone_are_those_of_the_whole(make: Callable[[], Toy]) -> None:
    source = online(make())
    assert same((source.ends([0]),), source([0])[-1:])


def test_a_solve_for_the_end_alone_may_stop_where_it_is_found() -> None:
    teacher, tol = single().eval(), 1e-3
    whole, soon = online(teacher), replace(online(teacher), end_tol=tol, max_steps=50)
    x = teacher.encode(DATA[[2, 5]])
    found = solve(teacher.bind(x), teacher.initial(x), whole.solver, max_steps=50, tol=tol)
    assert found.nfe < 50
    assert same((soon.ends([2, 5]),), (found.z,))
    assert len(soon([2, 5])) == 51
