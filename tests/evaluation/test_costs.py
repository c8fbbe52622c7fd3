"""Costs of answers: products counted exactly, time on a clock of its own, memory by law."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from models.graph.zoo import (
    CLASSES,
    INPUTS,
    SMALL,
    SPECS,
    Spec,
    batch_of,
    each_spec,
    model_of,
    sparse,
)
from torch import Tensor, nn

from cdeq import Anderson, ExponentialSchedule, FunctionModel, Picard
from cdeq.consistency.untied import UntiedDEQ
from cdeq.data.images import load_digits
from cdeq.evaluation.costs import Cost, cost_of, cost_of_teacher, costs, measurements
from cdeq.evaluation.memory import peak_bytes
from cdeq.evaluation.sweep import Measurement, Method, distilled, truncated
from cdeq.hypersolver.scope import PerPosition
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.base import GraphDEQ
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.convolutional import GAT, GCN, GCNII, GATSpec, GCNIISpec, GCNSpec
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.graph.gpm import GPM, GPMSpec
from cdeq.models.graph.ignn import IGNN, IGNNSpec
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec

BUDGETS = (1, 2, 7)
PICARD: dict[str, Method] = {"picard": truncated(Picard())}
TIMES = ExponentialSchedule()


def numbers(found: list[Measurement], metric: str) -> list[tuple[str, int | None, float]]:
    return [(row.model, row.nfe, row.value) for row in found if row.metric == metric]


def cost(
    model: GraphDEQ, methods: dict[str, Method], metric: str, batch: GraphBatch | None = None
) -> list[tuple[str, int | None, float]]:
    batch = batch_of("odd") if batch is None else batch
    return numbers(list(costs(model, methods, batch, BUDGETS, rounds=1)), metric)


# Products


@each_spec
def test_an_evaluation_costs_the_products_that_its_model_says(spec: Spec) -> None:
    """One for IGNN and EIGNN, k for Neumann's series; a direct solve has none."""
    model = model_of(spec)
    expected = [("picard", nfe, model.products * nfe) for nfe in BUDGETS]
    assert cost(model, PICARD, "products") == (expected if model.products else [])


def test_the_zoo_has_models_of_none_one_and_several_products() -> None:
    assert {model_of(spec).products for spec in SPECS.values()} == {0.0, 1.0, 2.0, 3.0}


def test_a_solver_adds_no_product_and_a_smoothing_one_adds_one() -> None:
    teacher = model_of(SPECS["peaceman-rachford"])
    smoothed = HyperDEQ.from_teacher(teacher, scope=PerPosition(), neighbours=teacher.neighbours())
    methods = {
        "anderson": truncated(Anderson()),
        "untied": distilled(UntiedDEQ.from_teacher(teacher), TIMES),
        "plain": distilled(HyperDEQ.from_teacher(teacher), TIMES),
        "smoothed": distilled(smoothed, TIMES),
    }
    each = {"anderson": 3, "untied": 3, "plain": 3, "smoothed": 4}
    expected = [(name, nfe, each[name] * nfe) for name in methods for nfe in BUDGETS]
    assert cost(teacher, methods, "products") == expected


def identity_features() -> GraphBatch:
    """A graph without features has a one-hot vector a node: a sparse matrix of the same size."""
    batch = batch_of("odd")
    return batch._replace(features=sparse(torch.eye(9, dtype=torch.float64)))


def directed() -> GraphBatch:
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 0, 1]])
    adjacency = normalised(edges, 9, normalisation="row", undirected=False, dtype=torch.float64)
    return batch_of("odd")._replace(adjacency=adjacency)


@pytest.mark.parametrize("make", [identity_features, directed])
def test_only_products_of_the_graph_count(make: Callable[[], GraphBatch]) -> None:
    batch = make()
    model = IGNN(IGNNSpec(**{**SMALL, "inputs": batch.features.shape[1]})).double()
    expected = [("picard", nfe, float(nfe)) for nfe in BUDGETS]
    assert cost(model, PICARD, "products", batch) == expected


SIZES = {"inputs": INPUTS, "classes": CLASSES, "hidden": 4}
NETWORKS: dict[str, Callable[[], ExplicitModel]] = {
    "gcn": lambda: GCN(GCNSpec(**SIZES)),
    "gat": lambda: GAT(GATSpec(**SIZES, heads=2)),
    "gcnii": lambda: GCNII(GCNIISpec(**SIZES, layers=5)),
    "gpm": lambda: GPM(GPMSpec(**SIZES, heads=2)),
}


def explicit(name: str) -> tuple[ExplicitModel, GraphBatch]:
    torch.manual_seed(3)
    return NETWORKS[name]().double().eval(), batch_of("odd")


@pytest.mark.parametrize("name", ["gcn", "gcnii"])
def test_explicit_networks_cost_the_products_that_they_say(name: str) -> None:
    model, batch = explicit(name)
    with torch.no_grad():
        found = cost_of(lambda: model.answers(batch), nothing, rounds=1, of=batch.adjacency)
    assert found.products == model.products > 1


def nothing() -> None:
    """Takes next to no time."""


@pytest.mark.parametrize("name", NETWORKS)
def test_every_explicit_network_can_be_measured(name: str) -> None:
    """Also one that makes sparse matrices on its way; its answers are alive at the end."""
    model, batch = explicit(name)
    with torch.no_grad():
        found = cost_of(lambda: model.answers(batch), nothing, rounds=1)
        answers = model.answers(batch)
    assert found.products == 0
    assert found.mebibytes * 2**20 >= answers.numel() * answers.element_size()
    assert found.ratio > 0


def test_no_graph_has_no_products() -> None:
    torch.manual_seed(0)
    model = ContractionDEQ(ContractionSpec(channels=2))
    batch = load_digits(limit=4).test.take(torch.arange(4))
    found = list(costs(model, PICARD, batch, (1, 2), rounds=1))
    assert [row[:3] for row in found] == [
        ("picard", nfe, metric) for nfe in (1, 2) for metric in ("time", "memory")
    ]


# Time


def ticking(clock: list[float]) -> FunctionModel:
    """Half a second to encode, a second an evaluation, a quarter to decode."""

    def spend(seconds: float, value: Tensor) -> Tensor:
        clock[0] += seconds
        return value

    return FunctionModel(
        lambda z, x: spend(1.0, 0.5 * z + x),
        (3,),
        encode=lambda x: spend(0.5, x),
        decode=lambda z, x: spend(0.25, z),
    )


@pytest.mark.parametrize("rounds", [1, 4])
def test_time_is_from_the_batch_to_the_answer_over_one_evaluation(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    methods = {"picard": truncated(Picard()), "anderson": truncated(Anderson())}
    found = list(costs(ticking(clock), methods, torch.ones(2, 3), BUDGETS, rounds=rounds))
    expected = [(name, nfe, nfe + 0.75) for name in methods for nfe in BUDGETS]
    assert numbers(found, "time") == expected


def test_every_answer_is_computed_as_often_as_it_is_timed_and_once_for_its_size() -> None:
    calls: list[str] = []

    def noting(z: Tensor, x: Tensor) -> Tensor:
        calls.append("f")
        return 0.5 * z + x

    model = FunctionModel(noting, (3,))
    list(costs(model, PICARD, torch.ones(2, 3), (4,), rounds=3))
    timed = 3 + 1  # with the warm-up
    assert len(calls) == 4 * (1 + timed) + timed


# Memory


def ring(nodes: int, model: GraphDEQ) -> GraphBatch:
    here = torch.arange(nodes)
    adjacency = normalised(torch.stack([here, here.roll(1)]), nodes, dtype=torch.float64)
    features = torch.ones(nodes, model.inputs, dtype=torch.float64)
    return GraphBatch(features, adjacency, here % CLASSES, here)


def memory(model: GraphDEQ, method: Method, batch: GraphBatch) -> dict[int | None, float]:
    found = list(costs(model, {"it": method}, batch, (1, 2, 9, 40), rounds=1))
    return {nfe: value * 2**20 for _, nfe, value in numbers(found, "memory")}


def test_memory_may_be_that_of_the_answer_and_its_score() -> None:
    model = model_of(next(iter(SPECS.values())))
    batch = ring(60, model)

    def score(output: Tensor, batch: GraphBatch) -> Tensor:
        return torch.ones(2**18).sum()  # a MiB

    found = list(costs(model, PICARD, batch, (1, 40), rounds=1, score=score))
    alone, scored = (numbers(found, name) for name in ("memory", "memory_scored"))
    assert len(scored) == len(alone) == 2
    assert all(1 < value < 1.5 for _, _, value in scored)
    assert all(value < 0.5 for _, _, value in alone)
    plain = list(costs(model, PICARD, batch, (1,), rounds=1))
    assert not numbers(plain, "memory_scored")


@pytest.mark.parametrize("name", SPECS)
def test_picard_remembers_no_earlier_state(name: str) -> None:
    """Not one of forty: from the second evaluation on, memory does not depend on their number."""
    model = model_of(SPECS[name])
    used = memory(model, truncated(Picard()), ring(60, model))
    assert used[1] <= used[2] == used[9] == used[40]


def test_learned_steps_remember_no_earlier_state() -> None:
    model = model_of(SPECS["ignn"])
    student = UntiedDEQ.from_teacher(model, steps=40, readout=False).merged()
    used = memory(model, distilled(student, TIMES), ring(60, model))
    assert used[40] - used[2] <= 38 * 8, "no more than the times"


def test_anderson_remembers_its_window() -> None:
    """Two rows a slot, in memory that is there from the start."""
    model = model_of(SPECS["ignn"])
    small, large = (
        memory(model, truncated(Anderson(window=m)), ring(2000, model)) for m in (2, 6)
    )
    assert small[9] == small[40] and large[9] == large[40]
    state = 2000 * 4 * 8
    assert 8 * state <= large[40] - small[40] <= 8.1 * state


def test_memory_is_linear_in_nodes() -> None:
    model = model_of(SPECS["ignn"])
    used = [memory(model, truncated(Picard()), ring(n, model))[9] for n in (100, 200, 400)]
    assert used[2] - used[1] == 2 * (used[1] - used[0]) > 0


# The rows


def test_a_cost_is_three_rows_or_two() -> None:
    assert list(measurements("gcn", None, Cost(3, 1.5, 0.25))) == [
        Measurement("gcn", None, "products", 3.0),
        Measurement("gcn", None, "time", 1.5),
        Measurement("gcn", None, "memory", 0.25),
    ]
    metrics = [row.metric for row in measurements("gpm", 2, Cost(0, 1.5, 0.25))]
    assert metrics == ["time", "memory"]


def test_a_mebibyte_is_two_to_the_twenty_bytes() -> None:
    def run() -> Tensor:
        return torch.zeros(2**20, dtype=torch.uint8)

    assert cost_of(run, run, rounds=1).mebibytes * 2**20 == peak_bytes(run) == 2**20


def test_measuring_leaves_no_graph_and_no_training_mode() -> None:
    model = model_of(replace(SPECS["ignn"], dropout=0.5)).train()
    seen: list[Tensor] = []
    inner = model.head

    class Noting(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            seen.append(inner(z))
            return seen[-1]

    model.head = Noting()
    model.head.weight = inner.weight
    list(costs(model, PICARD, batch_of("ring"), (1,), rounds=1))
    assert not model.training
    assert seen and not any(answer.requires_grad for answer in seen)
    assert all(torch.equal(answer, seen[0]) for answer in seen), "no dropout"


def test_the_teachers_own_answer_costs_the_evaluations_that_it_takes() -> None:
    model, batch = model_of(SPECS["peaceman-rachford"]).eval(), batch_of("odd")
    x = model.encode(batch)
    spent = model.deq(x, model.initial(x)).nfe
    found = cost_of_teacher(model, batch, rounds=1)
    assert found.products == spent * model.products > 0
