"""A threshold is chosen by what `refine` will do with it, exactly."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from consistency.toys import disturb
from torch import Tensor, nn

from cdeq import ConsistencyDEQ, ExponentialSchedule, UntiedDEQ, refine
from cdeq.data.images import ImageSet
from cdeq.evaluation.adaptive import Calibration, calibrate, stopped_at
from cdeq.evaluation.metrics import ACCURACY, Metric
from cdeq.models.function import FunctionModel
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec

STEPS, COUNT = 6, 40
SCHEDULE = ExponentialSchedule.from_ratio(0.5)
SPEC = ContractionSpec(channels=6, size=4, classes=10)
LOSS = Metric(
    "perplexity",
    lambda output, batch: nn.functional.cross_entropy(output, batch.label, reduction="none"),
    finish=torch.exp,
    higher=False,
)
SURENESS = Metric(
    "sureness",
    lambda output, batch: output.softmax(1).gather(1, batch.label.unsqueeze(1)).squeeze(1),
)
METRICS = {metric.name: metric for metric in (ACCURACY, LOSS, SURENESS)}
each_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
each_kind = pytest.mark.parametrize("kind", (ConsistencyDEQ, UntiedDEQ))


def built(kind: type) -> tuple[ContractionDEQ, nn.Module, ImageSet]:
    """A teacher, its student, and images whose class is what the student says in the end."""
    torch.manual_seed(0)
    model = ContractionDEQ(SPEC).eval()
    model.head.weight.data *= 100  # so sure of its answers that another state has another score
    student = kind.from_teacher(model)
    disturb(student, 0.15)
    data = ImageSet(torch.rand(COUNT, 1, 4, 4), torch.zeros(COUNT, dtype=torch.long))
    return model, student, replace(data, label=final(model, student, data).argmax(1))


@torch.no_grad()
def final(model: ContractionDEQ, student: nn.Module, data: ImageSet) -> Tensor:
    x = model.encode(data.take(torch.arange(COUNT)))
    *_, z = refine(student, x, model.initial(x), SCHEDULE.times(STEPS))
    return model.decode(z, x)


@each_kind
@each_metric
@pytest.mark.parametrize("slack", (0.0, 0.01, 0.3))
@pytest.mark.parametrize("batch_size", (7, 512))
def test_what_is_promised_is_what_happens(kind, metric: Metric, slack, batch_size) -> None:
    model, student, images = built(kind)
    options = {"steps": STEPS, "batch_size": batch_size}
    found = calibrate(model, student, images, metric, slack=slack, **options)
    stopped = stopped_at(model, student, images, metric, found.stop, **options)
    assert stopped == (found.evaluations, found.score)
    patient = stopped_at(model, student, images, metric, 1e-37, **options)
    assert patient.score == found.full_score
    assert found.evaluations <= patient.evaluations <= STEPS


@each_kind
@each_metric
def test_the_full_score_is_that_of_all_steps(kind, metric: Metric) -> None:
    model, student, images = built(kind)
    batch = images.take(torch.arange(COUNT))
    scores = metric.score(final(model, student, images), batch)
    found = calibrate(model, student, images, metric, steps=STEPS)
    assert found.full_score == float(metric.finish(scores.double().mean()))


def lost(found: Calibration, metric: Metric) -> float:
    return (found.full_score - found.score) * (1 if metric.higher else -1)


@each_kind
@each_metric
def test_no_more_is_lost_than_allowed_and_more_slack_costs_less(kind, metric: Metric) -> None:
    model, student, images = built(kind)
    spent = []
    for slack in (0.0, 1e-4, 0.01, 0.1, 0.5, 2.0):
        found = calibrate(model, student, images, metric, steps=STEPS, slack=slack)
        assert lost(found, metric) <= slack * abs(found.full_score)
        assert 1.0 <= found.evaluations <= STEPS
        spent.append((found.evaluations, -found.stop))
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > spent[-1]
    assert spent[-1][0] < STEPS


@each_kind
@each_metric
@pytest.mark.parametrize("slack", (0.0, 0.05))
def test_no_step_that_occurs_would_have_been_better(kind, metric: Metric, slack: float) -> None:
    """Every step that occurs is a candidate, if there are as many candidates as steps."""
    model, student, images = built(kind)
    options = {"steps": STEPS, "slack": slack, "candidates": COUNT * (STEPS - 1)}
    found = calibrate(model, student, images, metric, **options)
    for factor in (1.001, 1.05, 1.5, 4.0):
        more = stopped_at(model, student, images, metric, factor * found.stop, steps=STEPS)
        cheaper = more.evaluations < found.evaluations
        worse = (found.full_score - more.score) * (1 if metric.higher else -1)
        assert not cheaper or worse > slack * abs(found.full_score)


class Fixed:
    """A student whose steps are given in advance, a row a step."""

    def __init__(self, *states: Tensor) -> None:
        self.states = states

    def bind(self, x: Tensor) -> Callable:
        return lambda z, t, memory: (self.states[memory or 0], (memory or 0) + 1)


class Rows:
    """Data that is the tensor itself."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Tensor) -> Tensor:
        return torch.zeros(len(indices), 1)


def identity(shape: tuple[int, ...] = (1,), *, batched: bool = True) -> FunctionModel:
    return FunctionModel(lambda z, x: z, shape, batched=batched)


VALUE = Metric("value", lambda output, batch: output.flatten())


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def test_the_choice_by_hand() -> None:
    """Steps of 1, then of 1/2 and 0, then of 1/3 and 1/2; the score is the state."""
    student = Fixed(column(1, 1), column(2, 1), column(3, 2))
    found = [
        calibrate(identity(), student, Rows(2), VALUE, steps=3, slack=slack)
        for slack in (0.0, 0.21, 0.41, 1.0)
    ]
    tiny = torch.finfo(torch.float32).tiny
    assert found[0] == Calibration(tiny, 2.5, 2.0, 2.5)  # at rest for a step: it loses 1/2
    assert found[1] == Calibration(tiny, 2.5, 2.0, 2.5)
    assert found[2] == Calibration(0.5, 2.0, 1.5, 2.5)
    assert found[3] == Calibration(1.0, 1.0, 1.0, 2.5)


def test_a_single_step_leaves_nothing_to_choose() -> None:
    model, student, images = built(UntiedDEQ)
    found = calibrate(model, student, images, ACCURACY, steps=1)
    assert found.evaluations == 1.0 and found.score == found.full_score
    stopped = stopped_at(model, student, images, ACCURACY, found.stop, steps=1)
    assert stopped == (1.0, found.score)


def test_samples_at_rest_from_the_start_cost_one_step() -> None:
    """A blank image, say: its threshold is a positive number none the less."""
    student = Fixed(*[column(0, 1 + j, 0, 0) for j in range(3)])
    found = calibrate(identity(), student, Rows(4), VALUE, steps=3, slack=0.0)
    assert found == Calibration(torch.finfo(torch.float32).tiny, (3 + 3) / 4, 0.75, 0.75)
    assert stopped_at(identity(), student, Rows(4), VALUE, found.stop, steps=3) == (1.5, 0.75)


def test_a_sample_that_is_no_number_spends_all_and_breaks_no_threshold() -> None:
    student = Fixed(*[column(math.nan, 1 + j) for j in range(3)])
    rest = Metric("rest", lambda output, batch: torch.ones(len(output)))
    found = calibrate(identity(), student, Rows(2), rest, steps=3)
    assert found == Calibration(1.0, 2.0, 1.0, 1.0)
    assert stopped_at(identity(), student, Rows(2), rest, found.stop, steps=3) == (2.0, 1.0)


def test_a_graph_has_one_step_and_many_scores() -> None:
    """All nodes rest together, and each has its score."""
    student = Fixed(column(1, 1, 4), column(1, 2, 4), column(1, 2, 4.25))
    model = FunctionModel(
        lambda z, x: z, (3, 1), initial=lambda x: torch.zeros(3, 1), batched=False
    )
    for slack in (0.0, 0.1, 1.0):
        found = calibrate(model, student, Rows(1), VALUE, steps=3, slack=slack)
        stopped = stopped_at(model, student, Rows(1), VALUE, found.stop, steps=3)
        assert stopped == (found.evaluations, found.score)
        assert found.full_score == pytest.approx(7.25 / 3)
        assert found.evaluations == {0.0: 3.0, 0.1: 2.0, 1.0: 1.0}[slack]


@pytest.mark.parametrize(
    "settings", [{"slack": -0.1}, {"slack": math.nan}, {"candidates": 0}], ids=str
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="`slack` is at least 0 and `candidates` at least 1; got"):
        calibrate(identity(), Fixed(), Rows(2), VALUE, **{"steps": 3, **settings})
