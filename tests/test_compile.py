"""torch.compile(fullgraph=True) takes the cell and the student's step, and changes no number."""

from collections.abc import Callable

import pytest
import torch
from problems import each_teacher, image_teacher, seeded, vector_teacher
from torch import Tensor

from cdeq import Anderson, ConsistencyDEQ, ExponentialSchedule, MLPReadout, refine, solve
from cdeq.core.state import like, tensors
from cdeq.typing import State

TIMES = (torch.tensor(0.2), torch.tensor(0.6))


def noisy(state: State, seed: int) -> State:
    parts = (
        seeded(*part.shape, seed=seed + i, dtype=part.dtype, device=part.device)
        for i, part in enumerate(tensors(state))
    )
    return like(state, tuple(parts))


def close(a: State, b: State) -> None:
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y)


def compiled(f: Callable, backend: str) -> Callable:
    torch.compiler.reset()
    return torch.compile(f, fullgraph=True, backend=backend)


def test_a_cell_and_a_step_in_generated_code(device) -> None:
    """The default backend, once; what it is given is the same for all models."""
    taught = vector_teacher(torch.float32, device)
    student = ConsistencyDEQ.from_teacher(taught)
    z0, z1 = noisy(taught.start, 601), noisy(taught.start, 602)
    with torch.no_grad():
        cell = compiled(taught.deq.cell, "inductor")
        close(cell(z0, taught.x), taught.f(z0))
        step = compiled(student, "inductor")
        _, history = student(z0, TIMES[0], taught.x)
        close(
            step(z1, TIMES[1], taught.x, history)[0], student(z1, TIMES[1], taught.x, history)[0]
        )


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # Dynamo looks at inputs'
@each_teacher
@pytest.mark.parametrize("accelerate", (True, False))
def test_a_step_is_one_graph(make, accelerate, device) -> None:
    """The first step and a later one, with gradients."""
    taught = make(torch.float32, device)
    student = ConsistencyDEQ.from_teacher(taught, accelerate=accelerate)
    step = compiled(student, "aot_eager")
    z, slopes = noisy(taught.start, 603), []
    for run in (student, step):
        first, history = run(z, TIMES[0], taught.x)
        second, _ = run(first, TIMES[1], taught.x, history)
        total = sum(part.square().sum() for part in tensors(second))
        slopes.append(torch.autograd.grad(total, tuple(student.parameters())))
        if run is student:
            expected = second
    close(second, expected)
    close(*slopes)


def test_one_time_a_sample_and_the_other_readout_are_one_graph(device) -> None:
    taught = image_teacher(torch.float32, device)
    readout = MLPReadout([2], axis=1).to(device)
    student = ConsistencyDEQ.from_teacher(taught, readout=readout)
    t: Tensor = torch.tensor([0.1, 0.5, 0.9], device=device)
    step = compiled(student, "aot_eager")
    close(step(taught.start, t, taught.x)[0], student(taught.start, t, taught.x)[0])


def test_refinement_compiles_twice_at_most(device) -> None:
    """Once without a history and once with one, however many steps there are."""
    taught = vector_teacher(torch.float32, device)
    student = ConsistencyDEQ.from_teacher(taught)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    step = compiled(student, backend)
    z, history = taught.start, None
    with torch.no_grad():
        *_, expected = refine(student, taught.x, taught.start, ExponentialSchedule().times(8))
        for t in ExponentialSchedule().times(8):
            z, history = step(z, t, taught.x, history)
    close(z, expected)
    assert len(graphs) == 2


def test_a_compiled_cell_is_solved_like_any_other(device) -> None:
    taught = vector_teacher(torch.float32, device)
    cell = compiled(taught.deq.cell, "aot_eager")
    with torch.no_grad():
        ours = solve(lambda z: cell(z, taught.x), taught.start, Anderson(), max_steps=6)
        close(ours.z, solve(taught.f, taught.start, Anderson(), max_steps=6).z)
