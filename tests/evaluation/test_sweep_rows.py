"""Residuals of samples that have rows, as a graph has nodes."""

import statistics

import pytest
import torch
from consistency.toys import modelled
from evaluation.sweeps import BUDGETS, SOLVERS, images, methods, model, rows
from problems import BATCHED, Counted, Problem, coupled, propagation
from torch import Tensor

from cdeq import (
    solve,
)
from cdeq.core.solve import residual_norm
from cdeq.core.state import tensors
from cdeq.evaluation.metrics import ACCURACY, Metric
from cdeq.evaluation.sweep import (
    residuals,
    sweep,
)


def somewhere(problem: Problem) -> Tensor | tuple[Tensor, ...]:
    """Halfway to the solution."""
    halves = tuple(0.5 * part for part in tensors(problem.solution))
    return halves if isinstance(problem.solution, tuple) else halves[0]


@pytest.mark.parametrize("make", BATCHED)
def test_a_sample_of_a_batch_has_one_residual(make) -> None:
    problem = make(torch.float64)
    z = somewhere(problem)
    [(name, found)] = residuals(problem, z, batched=True)
    assert name == "relative_residual"
    assert torch.equal(found, residual_norm(problem, z))


def test_a_graph_has_one_residual_and_each_node_its_own() -> None:
    problem = propagation(torch.float64)
    z, counted = somewhere(problem), Counted(problem)
    found = dict(residuals(counted, z, batched=False))
    change, value = problem(z) - z, problem(z)
    assert counted.calls == 1
    assert [*found] == ["relative_residual", "relative_residual_nodes"]
    torch.testing.assert_close(found["relative_residual"], (change.norm() / value.norm()).view(1))
    torch.testing.assert_close(
        found["relative_residual_nodes"], change.norm(dim=1) / value.norm(dim=1)
    )


def test_nodes_are_rows_of_all_tensors_of_a_state() -> None:
    """Three nodes, each with numbers in two tensors: the residuals of three samples."""
    problem = coupled(torch.float64)
    z = somewhere(problem)
    found = dict(residuals(problem, z, batched=False))
    assert torch.equal(found["relative_residual_nodes"], residual_norm(problem, z))


@pytest.mark.parametrize(
    "shapes", [((3, 2), (4,)), ((), (3,)), ((), ())], ids=["unlike", "one number", "numbers"]
)
def test_a_state_without_common_rows_has_no_nodes(shapes: tuple[tuple[int, ...], ...]) -> None:
    z = tuple(torch.ones(shape) for shape in shapes)
    found = residuals(lambda z: tuple(0.5 * part for part in z), z, batched=False)
    assert [(name, values.tolist()) for name, values in found] == [("relative_residual", [1.0])]


class Whole:
    """A data set of one sample."""

    def __init__(self, batch: Tensor) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def take(self, indices: Tensor) -> Tensor:
        return self.batch


def test_a_sweep_takes_the_median_over_nodes() -> None:
    batched = model()
    graph, x, _ = modelled(propagation, torch.float64, torch.device("cpu"))
    score = Metric("accuracy", lambda output, batch: torch.ones(len(output)))
    found = sweep(graph, methods(), Whole(x), score, BUDGETS, reference_steps=100)
    with torch.no_grad():
        f, z0 = graph.bind(x), graph.initial(x)
        for name, solver in SOLVERS.items():
            states = [solve(f, z0, solver, max_steps=n, batched=False).z for n in BUDGETS]
            for nfe, z in zip(BUDGETS, states, strict=True):
                each = ((f(z) - z).norm(dim=1) / f(z).norm(dim=1)).tolist()
                whole = float((f(z) - z).norm() / f(z).norm())
                nodes = rows(found, name, "relative_residual_nodes")[nfe]
                assert nodes == pytest.approx(statistics.median(each), rel=1e-9)
                assert rows(found, name, "relative_residual")[nfe] == pytest.approx(whole)
    assert rows(found, "teacher", "relative_residual_nodes")[None] < 1e-6
    assert "relative_residual_nodes" not in {
        row.metric for row in sweep(batched, methods(), images(), ACCURACY, (1,))
    }
