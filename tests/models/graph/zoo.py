"""Small graphs with every oddity, and small models with every splitting, on them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from problems import CPU, seeded
from torch import Tensor

from cdeq.models.graph.adjacency import Normalisation, normalised
from cdeq.models.graph.base import GraphDEQ
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.eignn import EIGNN, EIGNNSpec
from cdeq.models.graph.ignn import IGNN, IGNNSpec
from cdeq.models.graph.mignn import MIGNN, MIGNNSpec
from cdeq.models.graph.resolvent import Direct, Neumann
from cdeq.models.graph.sparse import SparseMatrix
from cdeq.models.graph.splitting import DouglasRachford, ForwardBackward, PeacemanRachford

Spec = IGNNSpec | EIGNNSpec | MIGNNSpec

INPUTS, CLASSES = 5, 3

GRAPHS: dict[str, tuple[list[tuple[int, int]], int]] = {
    "ring": ([(i, (i + 1) % 7) for i in range(7)], 7),
    "star": ([(0, i) for i in range(1, 6)], 6),
    # an edge twice, one both ways, a self-loop at 2, and node 8 without any
    "odd": ([(0, 1), (0, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 4), (5, 3), (6, 0), (7, 1)], 9),
    "apart": ([(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 6)], 7),
    "alone": ([], 1),
}
each_graph = pytest.mark.parametrize("graph", GRAPHS)


def edges_of(graph: str, device: torch.device = CPU) -> tuple[Tensor, int]:
    """The edge list, and how many nodes there are."""
    pairs, nodes = GRAPHS[graph]
    return torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2).T, nodes


def adjacency_of(
    graph: str, *, normalisation: Normalisation = "symmetric", undirected: bool = True
) -> SparseMatrix:
    return normalised(
        *edges_of(graph),
        normalisation=normalisation,
        undirected=undirected,
        dtype=torch.float64,
    )


def batch_of(graph: str, adjacency: SparseMatrix | None = None) -> GraphBatch:
    """The graph with features and classes; every other node is asked about."""
    adjacency = adjacency_of(graph) if adjacency is None else adjacency
    nodes = adjacency.shape[0]
    features = seeded(nodes, INPUTS, seed=1, dtype=torch.float64)
    return GraphBatch(
        features, adjacency, torch.arange(nodes) % CLASSES, torch.arange(0, nodes, 2)
    )


def sparse(dense: Tensor) -> SparseMatrix:
    """The same matrix, only what is not zero stored."""
    rows, columns = dense.nonzero(as_tuple=True)
    return SparseMatrix.of(rows, columns, dense[rows, columns], shape=tuple(dense.shape))


SMALL = {"inputs": INPUTS, "hidden": 4, "classes": CLASSES}
EXACT = {**SMALL, "max_steps": 600, "tol": 1e-12, "adjoint_steps": 600}
"""Solved to the last digits."""

SPLITTINGS = {
    "forward-backward": ForwardBackward(step=0.7),
    "peaceman-rachford": PeacemanRachford(resolvent=Neumann(terms=3)),
    "douglas-rachford": DouglasRachford(step=0.8, resolvent=Neumann(terms=2)),
    "direct": PeacemanRachford(step=2.0, resolvent=Direct()),
    "cold": DouglasRachford(resolvent=Neumann(terms=2, warm=False)),
}
SPECS: dict[str, Spec] = {
    "ignn": IGNNSpec(**EXACT, kappa=0.9),
    "eignn": EIGNNSpec(**EXACT, gamma=0.8),
    "eignn-raw": replace(EIGNNSpec(**EXACT, gamma=0.7), hidden=None),
    **{name: MIGNNSpec(**EXACT, kappa=1.0, splitting=s) for name, s in SPLITTINGS.items()},
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))

KINDS: dict[type, Callable[..., GraphDEQ]] = {
    IGNNSpec: IGNN,
    EIGNNSpec: EIGNN,
    MIGNNSpec: MIGNN,
}


def model_of(spec: Spec, *, seed: int = 1) -> GraphDEQ:
    """The model in float64 with weights large enough that its bounds are felt."""
    torch.manual_seed(seed)
    model = KINDS[type(spec)](spec).double().eval()
    stretched(model)
    return model


@torch.no_grad()
def stretched(model: GraphDEQ) -> None:
    model.deq.cell.weight *= 3.0
    if isinstance(model, MIGNN):
        model.deq.cell.scale.fill_(1.0)


@torch.no_grad()
def spiky(model: GraphDEQ) -> None:
    model.deq.cell.weight *= 1e-3
    model.deq.cell.weight[0, 1] = 1e3


@torch.no_grad()
def _filled(model: GraphDEQ, value: float) -> None:
    model.deq.cell.weight.fill_(value)


@torch.no_grad()
def _scaled(model: GraphDEQ, factor: float) -> None:
    for parameter in model.deq.cell.parameters():
        parameter *= factor


WEIGHTS: dict[str, Callable[[GraphDEQ], None]] = {
    "stretched": stretched,
    "spiky": spiky,
    "zero": partial(_filled, value=0.0),
    "alike": partial(_filled, value=0.5),
    "huge": partial(_scaled, factor=20.0),
    "tiny": partial(_scaled, factor=1e-20),
}
each_weight = pytest.mark.parametrize("change", WEIGHTS.values(), ids=list(WEIGHTS))
