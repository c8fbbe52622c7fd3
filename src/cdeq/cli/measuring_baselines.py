"""What a run measures of networks that were trained on labels: scores and costs."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn

from cdeq.cli.measuring import own_score, size_of, split_of
from cdeq.cli.stages import Run
from cdeq.core.solvers import Picard
from cdeq.data.indexed import IndexedData
from cdeq.evaluation.costs import cost_of, costs, measurements
from cdeq.evaluation.explicit import AnyExplicit, explicit_scores, typical_batch
from cdeq.evaluation.sweep import Measurement, batches, few_step_scores, truncated
from cdeq.models.base import EquilibriumModel
from cdeq.models.graph.explicit import ExplicitModel


class Baselines(NamedTuple):
    """What was trained on labels."""

    few_step: Mapping[int, EquilibriumModel]
    """Networks trained for few steps, by their steps."""
    explicit: Mapping[str, AnyExplicit]
    """Networks without an equilibrium, by name."""

    def named(self) -> dict[str, nn.Module]:
        """All of them."""
        return {**{str(steps): model for steps, model in self.few_step.items()}, **self.explicit}


def measure_baselines(
    run: Run, teacher: EquilibriumModel, baselines: Baselines, part: IndexedData
) -> Iterator[Measurement]:
    """Everything about what was trained on labels, on one part of the data.

    Arguments:
        run: Its recipe says what to look at.
        teacher: Whose evaluation is the unit of time.
        baselines: What was trained.
        part: What to measure on.
    """
    split = split_of(run, part)
    own = {
        name: getattr(run.recipe.explicit_data(name, run.data), split)
        for name in baselines.explicit
    }
    if run.recipe.evaluation.only != "costs":
        yield from _baseline_scores(run, baselines, part, own)
    for name, network in baselines.explicit.items():
        yield Measurement(name, None, "parameters", float(size_of(network)))
    if run.recipe.evaluation.only == "scores":
        return
    probed = run.told(split, teacher, run.recipe.evaluation.probed)
    yield from _costs_of_few_step(run, teacher, baselines.few_step, probed)
    for name, network in baselines.explicit.items():
        yield from _cost_of_explicit(run, teacher, name, network, (probed, own[name]))


def score_baselines(run: Run, baselines: Baselines, part: IndexedData) -> Iterator[Measurement]:
    """The same of what was trained on labels."""
    return _baseline_scores(run, baselines, part, dict.fromkeys(baselines.explicit, part))


def _baseline_scores(
    run: Run, baselines: Baselines, part: IndexedData, own: Mapping[str, IndexedData]
) -> Iterator[Measurement]:
    """Of what was trained on labels; explicit networks take data of their own form."""
    interval = run.recipe.evaluation.intervals
    for metric in (run.recipe.metric, *run.recipe.further_metrics):
        for steps, model in baselines.few_step.items():
            scores = few_step_scores(model, steps, part, metric)
            for kind, value in metric.summarised(scores, interval=interval):
                yield Measurement("few-step", steps, kind, value)
        for name, network in baselines.explicit.items():
            scores = explicit_scores(network, own[name], metric)
            for kind, value in metric.summarised(scores, interval=interval):
                yield Measurement(name, None, kind, value)


def _costs_of_few_step(
    run: Run,
    teacher: EquilibriumModel,
    networks: Mapping[int, EquilibriumModel],
    part: IndexedData,
) -> Iterator[Measurement]:
    """The same of networks for few steps, at their own."""
    settings = run.recipe.evaluation
    if not settings.cost_budgets:
        return
    batch = next(batches(part, settings.batch_size, teacher.device))
    for steps, network in networks.items():
        unrolled, rounds = {"few-step": truncated(Picard())}, settings.cost_rounds
        score = own_score(run, network)
        yield from costs(network, unrolled, batch, (steps,), rounds=rounds, score=score)


def _cost_of_explicit(
    run: Run,
    teacher: EquilibriumModel,
    name: str,
    network: AnyExplicit,
    parts: tuple[IndexedData, IndexedData],
) -> Iterator[Measurement]:
    """What its answers to one batch cost, beside one evaluation of f on the teacher's."""
    settings = run.recipe.evaluation
    if not settings.cost_budgets:
        return
    size = min(settings.batch_size, len(parts[0]))  # as many samples as f answers
    batch = next(batches(parts[0], size, teacher.device))
    own = typical_batch(network, parts[1], size)
    x = teacher.encode(batch)
    f, z = teacher.bind(x), teacher.initial(x)
    on_graph = isinstance(network, ExplicitModel)
    answer = network.answers if on_graph else network.forward
    score = own_score(run, network)
    judged = None if score is None else lambda: score(answer(own), own)
    with torch.no_grad():
        cost = cost_of(
            lambda: answer(own), lambda: f(z), rounds=settings.cost_rounds, scored=judged
        )
    products = round(network.products) if on_graph else 0
    yield from measurements(name, None, cost._replace(products=products))
