"""Scores of explicit networks: those of their answers about the nodes that are asked about."""

import pytest
import torch
from torch import Tensor

from cdeq.data.chains import chains
from cdeq.data.graph import GraphPart, split_parts
from cdeq.data.streams import Streams
from cdeq.data.subgraphs import SubgraphSet
from cdeq.evaluation.explicit import score_explicit, typical_batch
from cdeq.evaluation.metrics import NODE_ACCURACY, Metric
from cdeq.evaluation.sweep import Measurement
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.convolutional import GATSpec, GCNIISpec, GCNSpec
from cdeq.models.graph.explicit import ExplicitModel
from cdeq.models.graph.gpm import GPMSpec
from cdeq.models.language.qrnn import QRNN
from cdeq.models.language.transformer_xl import TransformerXL
from cdeq.recipes.graph_explicit import ExplicitRecipe, GraphExplicitSpec
from cdeq.training.plan import Plan

DATA = chains(classes=3, per_class=4, length=6, features=12, noise=0.5)
PARTS = split_parts(DATA)._asdict()
SPECS: dict[str, GraphExplicitSpec] = {
    "gcn": GCNSpec(hidden=4, dropout=0.5),
    "gat": GATSpec(hidden=4, heads=2, dropout=0.5),
    "gcnii": GCNIISpec(hidden=4, layers=3, dropout=0.5),
    "gpm": GPMSpec(hidden=4, heads=2, dropout=0.5),
}
each_network = pytest.mark.parametrize("name", SPECS)


def network(name: str) -> ExplicitModel:
    torch.manual_seed(0)
    return ExplicitRecipe(network=SPECS[name], plan=Plan(steps=1)).build(inputs=12, classes=3)


def right(model: ExplicitModel, batch: GraphBatch) -> Tensor:
    """Whether each answer is the label, by the logits of all nodes."""
    with torch.no_grad():
        everywhere = model.eval()(batch).argmax(1)
    return (everywhere == batch.label)[batch.nodes].double()


@each_network
@pytest.mark.parametrize("part", PARTS)
def test_the_score_is_the_share_of_right_answers(name: str, part: str) -> None:
    model = network(name).train()
    found = score_explicit(name, model, PARTS[part], NODE_ACCURACY)
    share = float(right(model, PARTS[part].graph).mean())
    assert found == Measurement(name, None, "accuracy", pytest.approx(share))


@each_network
def test_scoring_repeats_and_leaves_no_training_mode(name: str) -> None:
    """No dropout, and the same walks each time."""
    model = network(name).train()
    first, again = (score_explicit(name, model, PARTS["test"], NODE_ACCURACY) for _ in range(2))
    assert first == again
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_other_node_is_answered_or_scored() -> None:
    """Labels of other nodes may be anything, and the order of the questions is kept."""
    model, graph = network("gcn"), PARTS["test"].graph
    seen: list[Tensor] = []
    score = Metric("accuracy", lambda output, batch: seen.append(output) or torch.zeros(1))
    some = graph.nodes[torch.tensor([5, 0, 3])]
    score_explicit("gcn", model, GraphPart(graph._replace(nodes=some)), score)
    with torch.no_grad():
        answers = model.answers(graph)
    others = torch.ones(len(graph.label), dtype=torch.bool)
    others[some] = False
    assert torch.equal(seen[0][some], answers[torch.tensor([5, 0, 3])])
    assert not seen[0][others].any()


def test_several_graphs_are_scored_by_node() -> None:
    """A sub-graph with more questions counts for more."""
    model = network("gcn")
    parts = SubgraphSet(graph=PARTS["test"].graph, roots=3, length=2, count=4)
    batches = [parts.take(torch.tensor([k])) for k in range(4)]
    assert len({len(batch.nodes) for batch in batches}) > 1
    share = float(torch.cat([right(model, batch) for batch in batches]).mean())
    found = score_explicit("gcn", model, parts, NODE_ACCURACY)
    assert found.value == pytest.approx(share)


def test_a_metric_is_finished_once_after_averaging() -> None:
    model = network("gcn")
    loss = Metric("perplexity", model.loss, torch.exp, higher=False)
    plain = Metric("nll", model.loss, higher=False)
    finished, mean = (score_explicit("gcn", model, PARTS["test"], m) for m in (loss, plain))
    assert finished.value == pytest.approx(torch.tensor(mean.value).exp().item(), rel=1e-5)
    assert (finished.metric, finished.nfe) == ("perplexity", None)


@pytest.mark.parametrize(("kind", "own"), [(TransformerXL, {"memory": 4}), (QRNN, {})])
def test_the_typical_batch_of_a_text_goes_on_from_the_segments_before(kind, own) -> None:
    """It costs what reading on costs: as many samples as asked for, each with its own memory."""
    torch.manual_seed(0)
    data = Streams(torch.randint(0, 30, (4 * 17,)), streams=4, length=4, past=4, types=30)
    model = kind(kind.Spec(vocabulary=30, features=8, layers=2, **own)).eval()
    with torch.no_grad():
        first, then = (data.take(torch.arange(4) + shift) for shift in (0, 4))
        expected = model(model.recall(then, model.run(first).memory))
        batch = typical_batch(model, data, 10)
        assert batch.tokens.shape == (10, 4)
        torch.testing.assert_close(model(batch)[:4], expected)
        assert not torch.allclose(model(then), expected)


def test_the_typical_batch_of_a_short_text_wraps_around() -> None:
    data = Streams(torch.randint(0, 30, (2 * 9,)), streams=2, length=4, past=4, types=30)
    model = QRNN(QRNN.Spec(vocabulary=30, features=8, layers=1)).eval()
    assert len(data) == 4
    assert typical_batch(model, data, 4).tokens.equal(data.take(torch.tensor([2, 3, 0, 1])).tokens)
