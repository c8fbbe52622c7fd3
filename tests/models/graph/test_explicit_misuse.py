"""Explicit networks refuse what they cannot answer."""

import sys

import pytest
from models.graph.explicit_zoo import (
    ARXIV,
    ODD,
    each_model,
    model_of,
)
from models.graph.zoo import adjacency_of, edges_of

from cdeq.errors import CDEQError
from cdeq.models.graph.adjacency import normalised
from cdeq.models.graph.convolutional import GAT, GCN, GCNII, GATSpec, GCNIISpec, GCNSpec
from cdeq.models.graph.geometric import convolutions
from cdeq.models.graph.gpm import GPM, GPMSpec


@each_model
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ODD.features[:, 1:]}, "built for 5 features a node; got 4"),
        ({"features": ODD.features.float()}, r"float64 on cpu; got features in torch\.float32"),
        ({"adjacency": adjacency_of("ring")}, r"adjacency of 9 by 9; got one of shape \(7, 7\)"),
        (
            {"adjacency": normalised(*edges_of("odd"))},
            r"float64 on cpu; got adjacency in torch\.float32",
        ),
    ],
    ids=["width", "precision", "nodes", "adjacency"],
)
def test_a_graph_that_does_not_fit_is_refused(name: str, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(name).answers(ODD._replace(**change))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (GCNSpec, {"layers": 0}, "`layers` is a count of at least 1; got 0"),
        (GCNSpec, {"inputs": 0}, "`inputs` is a count of at least 1; got 0"),
        (GCNSpec, {"dropout": 1.0}, r"`dropout` is a share in \[0, 1\); got 1.0"),
        (GATSpec, {"heads": 0}, "`heads` is a count of at least 1; got 0"),
        (GATSpec, {"hidden": 6}, "shared equally by `heads`; got 6 and 4"),
        (GATSpec, {"attention_dropout": -0.1}, "`attention_dropout` is a share"),
        (GCNIISpec, {"alpha": 1.1}, r"`alpha` mixes two states, so it is in \[0, 1\]; got 1.1"),
        (GCNIISpec, {"alpha": float("nan")}, "`alpha` mixes two states"),
        (GCNIISpec, {"theta": 0.0}, "`theta` is above 0"),
        (GPMSpec, {"hidden": 6}, "shared equally by `heads`; got 6 and 4"),
        (GPMSpec, {"steps": 0}, "`steps` is a count of at least 1; got 0"),
        (GPMSpec, {"answer_patterns": 0}, "`answer_patterns` is a count of at least 1; got 0"),
        (GPMSpec, {"seed": -1}, "`seed` is a whole number from 0"),
    ],
)
def test_settings_outside_their_range_are_refused(kind, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize("kind", [GCN, GAT, GCNII, GPM])
def test_sizes_left_to_the_data_are_filled_in_first(kind) -> None:
    with pytest.raises(ValueError, match="built for known `inputs` and `classes`"):
        kind(kind.Spec())


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    convolutions.cache_clear()
    monkeypatch.setitem(sys.modules, "torch_geometric.nn", None)
    with pytest.raises(CDEQError, match=r"PyTorch Geometric.*install cdeq\[graph\]"):
        GCN(GCNSpec(**ARXIV))
