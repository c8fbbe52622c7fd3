"""Metric versus evaluations of f, for solvers and students by the same rule.

A method yields its state after each evaluation; nothing else is known of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from cdeq.consistency.refine import Student, refine
from cdeq.consistency.time import Schedule
from cdeq.core.solve import iterate, relative_error, residual_norm, solve
from cdeq.core.solvers import Anderson, Solver
from cdeq.core.state import tensors
from cdeq.data.indexed import IndexedData, OrderedData, to_device
from cdeq.evaluation.metrics import Metric
from cdeq.models.base import Batch, EquilibriumModel, Memory
from cdeq.typing import Context, Map, PerSample, State

Method = Callable[[EquilibriumModel, Context, State], Iterator[State]]
"""Yields the state after each evaluation of f, without end."""


class Measurement(NamedTuple):
    """One number of a sweep."""

    model: str
    nfe: int | None
    metric: str
    value: float


def truncated(solver: Solver) -> Method:
    """The teacher's own iteration, stopped early."""

    def run(model: EquilibriumModel, x: Context, z0: State) -> Iterator[State]:
        return (point.z for point in iterate(model.bind(x), z0, solver, batched=model.deq.batched))

    return run


def distilled(student: Student, schedule: Schedule) -> Method:
    """A student's multi-step inference (Algorithm 1), at the times of the schedule."""

    def run(model: EquilibriumModel, x: Context, z0: State) -> Iterator[State]:
        return refine(student, x, z0, _endless(schedule))

    return run


def _endless(schedule: Schedule) -> Iterator[Tensor]:
    k = torch.zeros(())
    while True:
        yield schedule(k)
        k = k + 1


def batches(
    data: IndexedData, size: int, device: torch.device = torch.device("cpu")
) -> Iterator[Batch]:
    """The data in order, in batches of at most `size`, or of as many as go on side by side, on a
    device.

    Example:
        >>> from cdeq.data.images import ImageSet
        >>> images = ImageSet(torch.zeros(5, 1, 1, 1), torch.arange(5))
        >>> [batch.label.tolist() for batch in batches(images, 2)]
        [[0, 1], [2, 3], [4]]
    """
    size = data.streams if isinstance(data, OrderedData) else size
    for indices in torch.arange(len(data)).split(size):
        yield to_device(data.take(indices), device)


class _Samples:
    """The numbers of every sample, by model, budget and metric."""

    def __init__(self) -> None:
        self.parts: dict[tuple[str, int | None, str], list[Tensor]] = {}

    def add(self, key: tuple[str, int | None, str], values: Tensor) -> None:
        self.parts.setdefault(key, []).append(values.flatten().cpu())

    def look(
        self,
        model: EquilibriumModel,
        metrics: Sequence[Metric],
        batch: Batch,
        name: str,
        nfe: int | None,
        z: State,
        x: Context,
    ) -> None:
        """The scores of an answer, and how far it is from solving the teacher's equation."""
        output = model.decode(z, x)
        for each in metrics:
            self.add((name, nfe, each.name), each.of(model)(output, batch))
        for kind, residual in residuals(model.bind(x), z, batched=model.deq.batched):
            self.add((name, nfe, kind), residual)

    def finish(self, *metrics: Metric, intervals: bool = False) -> Iterator[Measurement]:
        """Means of the task's metrics, medians of everything else."""
        scores = {metric.name: metric for metric in metrics}
        for (model, nfe, name), parts in self.parts.items():
            values = torch.cat(parts).double()
            if name not in scores:
                yield Measurement(model, nfe, name, float(_median(values)))
                continue
            for kind, value in scores[name].summarised(values, interval=intervals):
                yield Measurement(model, nfe, kind, value)


def _median(values: Tensor) -> Tensor:
    """The middle value, or the mean of the middle two; NaN if any is NaN, infinite values sort."""
    lower, upper = values.median(), -(-values).median()  # torch takes the lower of the middle two
    return (lower + upper) / 2


@torch.no_grad()
def sweep(
    model: EquilibriumModel,
    methods: Mapping[str, Method],
    data: IndexedData,
    metric: Metric,
    budgets: Sequence[int],
    *,
    reference_steps: int = 200,
    reference_tol: float | None = 1e-6,
    batch_size: int = 512,
    advance: Callable[[], None] = lambda: None,
    also: Sequence[Metric] = (),
    intervals: bool = False,
) -> list[Measurement]:
    """Score every method at every budget against the teacher's equilibrium.

    A method has at each budget the mean of the task metric, and medians of the relative error to
    z* and of the relative residual of the *teacher's* equation (whose evaluation is measurement,
    and not counted): a few samples far from their equilibrium would be all that a mean shows.
    Where one is NaN, so are they. The teacher's own row is z*, found by Anderson.

    Where samples go on from one another (`OrderedData`), each method at each budget remembers its
    own answers, and its error is to the z* that the teacher finds with memories of its own.

    Arguments:
        model: The teacher.
        methods: By name.
        data: What to score on.
        metric: The task's score.
        budgets: Evaluations of f at which to look, ascending.
        reference_steps: The budget for finding z*.
        reference_tol: Its tolerance; None spends the budget.
        batch_size: Samples at a time.
        advance: Called after each method on each batch.
        also: More scores of the same answers.
        intervals: Also `interval_…`, see `Metric.summarised`.
    """
    model.eval()
    samples, metrics, batched = _Samples(), (metric, *also), model.deq.batched
    ordered, memory = isinstance(data, OrderedData), None
    memories = {name: _Memories() for name in methods}
    for batch in batches(data, batch_size, model.device):
        x = model.encode(model.recall(batch, memory))
        exact = _equilibrium(model, x, reference_steps, reference_tol)
        look = partial(samples.look, model, metrics, batch)
        memory = model.remember(exact, x) if ordered else None
        look("teacher", None, exact, x)
        for name, method in methods.items():
            run = partial(_alone, x=x) if memory is None else partial(_going_on, batch=batch)
            for nfe, z, own in run(model, method, budgets, memories[name]):
                look(name, nfe, z, own)
                error = relative_error(z, exact, batched=batched)
                samples.add((name, nfe, "relative_error"), error)
            advance()
    return list(samples.finish(*metrics, intervals=intervals))


def _equilibrium(model: EquilibriumModel, x: Context, steps: int, tol: float | None) -> State:
    f, z0, batched = model.bind(x), model.initial(x), model.deq.batched
    return solve(f, z0, Anderson(), max_steps=steps, tol=tol, batched=batched).z


_Memories: TypeAlias = dict[int, Memory]
"""What the answers after so many evaluations left to the next batch."""


def _alone(
    model: EquilibriumModel, method: Method, budgets: Sequence[int], _: _Memories, *, x: Context
) -> Iterator[tuple[int, State, Context]]:
    """One run, seen at every budget."""
    for nfe, z in _at(method(model, x, model.initial(x)), budgets):
        yield nfe, z, x


def _going_on(
    model: EquilibriumModel,
    method: Method,
    budgets: Sequence[int],
    memories: _Memories,
    *,
    batch: Batch,
) -> Iterator[tuple[int, State, Context]]:
    """A run for each budget, told of what the one of that budget left behind: whoever answers with
    one evaluation remembers answers of one evaluation."""
    for nfe in budgets:
        x = model.encode(model.recall(batch, memories.get(nfe)))
        ((_, z),) = _at(method(model, x, model.initial(x)), [nfe])
        memories[nfe] = model.remember(z, x)
        yield nfe, z, x


def residuals(f: Map, z: State, *, batched: bool) -> Iterator[tuple[str, PerSample]]:
    """The relative residual of each sample and, where a single sample has rows common to all of
    its tensors (the nodes of a graph), also that of each row, by the name of the metric; one
    evaluation of f.

    Example:
        >>> f, z = torch.zeros_like, torch.ones(3, 2)
        >>> [(name, len(values)) for name, values in residuals(f, z, batched=False)]
        [('relative_residual', 1), ('relative_residual_nodes', 3)]
    """
    value = f(z)
    yield "relative_residual", residual_norm(lambda _: value, z, batched=batched)
    rows = {part.shape[:1] for part in tensors(z)}
    if not batched and len(rows) == 1 and rows != {torch.Size()}:
        yield "relative_residual_nodes", residual_norm(lambda _: value, z)


@torch.no_grad()
def score_few_step(
    model: EquilibriumModel,
    steps: int,
    data: IndexedData,
    metric: Metric,
    *,
    batch_size: int = 512,
) -> Measurement:
    """Score a network that was trained with `steps` unrolled evaluations, at that many."""
    values = few_step_scores(model, steps, data, metric, batch_size=batch_size)
    ((name, value),) = metric.summarised(values, interval=False)
    return Measurement("few-step", steps, name, value)


@torch.no_grad()
def few_step_scores(
    model: EquilibriumModel,
    steps: int,
    data: IndexedData,
    metric: Metric,
    *,
    batch_size: int = 512,
) -> PerSample:
    """The score of every sample by itself."""
    model.eval()
    scores, ordered, memory = [], isinstance(data, OrderedData), None
    for batch in batches(data, batch_size, model.device):
        x = model.encode(model.recall(batch, memory))
        f, z = model.bind(x), model.initial(x)
        for _ in range(steps):
            z = f(z)
        memory = model.remember(z, x) if ordered else None
        score = metric.of(model)(model.decode(z, x), batch)
        scores.append(score.flatten().cpu())
    return torch.cat(scores)


def _at(states: Iterable[State], budgets: Sequence[int]) -> Iterator[tuple[int, State]]:
    """The states after so many evaluations."""
    wanted = set(budgets)
    for nfe, z in enumerate(islice(states, max(budgets)), start=1):
        if nfe in wanted:
            yield nfe, z
