"""Choosing how small a student's own step must be for a sample to rest."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cdeq.consistency.refine import Student, refine, refine_adaptively, step_size
from cdeq.consistency.time import ExponentialSchedule, Schedule
from cdeq.core.state import Layout
from cdeq.data.indexed import IndexedData
from cdeq.evaluation.metrics import Metric
from cdeq.evaluation.sweep import batches
from cdeq.models.base import EquilibriumModel


@dataclass(frozen=True)
class Calibration:
    """A value for `refine(…, stop=…)`, and what it gave on the data it was chosen on."""

    stop: float
    evaluations: float
    """Evaluations that a sample needed before it rested, on average."""
    score: float
    """The task's score with it."""
    full_score: float
    """The task's score when every sample takes all steps."""


@torch.no_grad()
def calibrate(
    model: EquilibriumModel,
    student: Student,
    data: IndexedData,
    metric: Metric,
    *,
    steps: int,
    slack: float = 0.002,
    schedule: Schedule = ExponentialSchedule.from_ratio(0.5),
    candidates: int = 64,
    batch_size: int = 512,
) -> Calibration:
    r"""The threshold with the fewest evaluations whose score is nearly that of all steps.

    Candidates are quantiles of the steps that occur. Among those whose score is at least that of
    all steps less `slack`, relative to its size, the largest is taken; where there is none, that
    at which only samples that do not move at all rest. A score for which lower is better counts
    with its sign turned.

    Arguments:
        model: The teacher.
        student: Its student.
        data: Validation data: the test set selects nothing.
        metric: The task's score.
        steps: The budget, ≥ 1.
        slack: How much of the score may be given away, ≥ 0.
        schedule: The virtual times of the steps.
        candidates: How many thresholds are tried.
        batch_size: Samples at a time.

    Raises:
        ValueError: When a setting is outside its range.
    """
    if not slack >= 0.0 or candidates < 1:
        raise ValueError(
            f"`slack` is at least 0 and `candidates` at least 1; got {slack} and {candidates}."
        )
    model.eval()
    sizes, scores = _observed(model, student, data, metric, schedule.times(steps), batch_size)
    full = _mean(scores[-1], metric)

    def at(stop: float) -> Calibration:
        taken = _steps_taken(sizes, stop)
        columns = (taken - 1).expand(1, scores.shape[1])  # a sample may have several scores
        score = _mean(scores.gather(0, columns)[0], metric)
        return Calibration(stop, float(taken.double().mean()), score, full)

    tried = [at(stop) for stop in _thresholds(sizes[:-1], candidates)]
    lost = [full - one.score if metric.higher else one.score - full for one in tried]
    good = [one for one, loss in zip(tried, lost, strict=True) if loss <= slack * abs(full)]
    return [tried[0], *good][-1]


class Stopped(NamedTuple):
    """What stopping early gave."""

    evaluations: float
    """Evaluations that a sample needed before it rested, on average; a batch takes the most."""
    score: float


@torch.no_grad()
def stopped_at(
    model: EquilibriumModel,
    student: Student,
    data: IndexedData,
    metric: Metric,
    stop: float,
    *,
    steps: int,
    schedule: Schedule = ExponentialSchedule.from_ratio(0.5),
    batch_size: int = 512,
) -> Stopped:
    """Evaluations and score of `refine(…, stop=stop)` on a data set.

    Arguments:
        model: The teacher.
        student: Its student.
        data: What to score on.
        metric: The task's score.
        stop: The threshold.
        steps: The budget, ≥ 1.
        schedule: The virtual times of the steps.
        batch_size: Samples at a time.
    """
    model.eval()
    spent, scores = [], []
    for batch in batches(data, batch_size, model.device):
        x = model.encode(batch)
        z0, batched = model.initial(x), model.deq.batched
        run = refine_adaptively(student, x, z0, schedule.times(steps), stop, batched=batched)
        *_, last = points = list(run)
        spent.append(torch.stack([point.moved for point in points]).sum(0))
        scores.append(metric.of(model)(model.decode(last.z, x), batch))
    return Stopped(float(torch.cat(spent).double().mean()), _mean(torch.cat(scores), metric))


def _observed(
    model: EquilibriumModel,
    student: Student,
    data: IndexedData,
    metric: Metric,
    times: Tensor,
    batch_size: int,
) -> tuple[Float[Tensor, "j n"], Float[Tensor, "j n"]]:
    """How far each step moved each sample, and its score there."""
    sizes, scores = [], []
    for batch in batches(data, batch_size, model.device):
        x = model.encode(batch)
        z0 = model.initial(x)
        layout = Layout.of(z0, batched=model.deq.batched)
        states = [z0, *refine(student, x, z0, times)]
        rows = [layout.pack(z) for z in states]
        sizes.append(torch.stack([step_size(b, a) for a, b in pairwise(rows)]))
        answers = (metric.of(model)(model.decode(z, x), batch) for z in states[1:])
        scores.append(torch.stack(list(answers)))
    return torch.cat(sizes, dim=1).cpu(), torch.cat(scores, dim=1).cpu()


def _steps_taken(sizes: Float[Tensor, "j n"], stop: float) -> Tensor:
    """The first step of each sample that is small enough, counted from 1; else all."""
    small = sizes <= stop
    small[-1] = True
    return small.int().argmax(0) + 1


def _thresholds(sizes: Tensor, candidates: int) -> list[float]:
    """Quantiles of the steps that occur, after a number so small that whoever moves goes on."""
    moves, least = sizes[(sizes > 0.0) & sizes.isfinite()], torch.finfo(sizes.dtype).tiny
    if not len(moves):
        return [least]
    places = torch.linspace(0, len(moves) - 1, candidates, dtype=torch.float64).long()
    return [least, *moves.sort().values[places].tolist()]


def _mean(scores: Tensor, metric: Metric) -> float:
    return float(metric.finish(scores.double().mean()))
