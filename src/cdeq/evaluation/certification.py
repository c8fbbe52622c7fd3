"""What a certified answer costs, with a student and without."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdeq.consistency.certified import Certificate, certify
from cdeq.consistency.refine import Student
from cdeq.consistency.time import ExponentialSchedule, Schedule
from cdeq.core.solve import solve
from cdeq.core.solvers import Anderson, Solver
from cdeq.data.indexed import IndexedData
from cdeq.evaluation.metrics import Metric
from cdeq.evaluation.sweep import Measurement, batches
from cdeq.models.base import EquilibriumModel
from cdeq.typing import Context


class Start(NamedTuple):
    """Where the solver of a certified answer starts from."""

    student: Student | None
    """None is the solver alone, from z_0."""
    steps: int
    """The student's evaluations."""
    schedule: Schedule = ExponentialSchedule.from_ratio(0.5)
    """Their virtual times."""
    solver: Solver[Any] | None = None
    """None is the teacher's own."""

    def certify(
        self, model: EquilibriumModel, x: Context, *, tol: float, max_steps: int
    ) -> Certificate:
        """The certified answers of a batch from here."""
        return certify(
            model,
            self.student,
            x,
            tol=tol,
            steps=self.steps,
            max_steps=max_steps,
            solver=self.solver,
            schedule=self.schedule,
        )


@torch.no_grad()
def certification(
    model: EquilibriumModel,
    starts: Mapping[str, Start],
    data: IndexedData,
    metric: Metric,
    *,
    tol: float,
    max_steps: int = 100,
    reference_steps: int = 200,
    reference_tol: float | None = 1e-6,
    batch_size: int = 512,
) -> Iterator[Measurement]:
    """Certify every sample to `tol` from each start.

    Yields, for each start, the share of samples certified (`certified`), the mean evaluations a
    sample (`evaluations_certified`, the student's included), the task's score of the certified
    answers, and, where the metric knows when two answers are the same, the share that is the
    converged teacher's own answer (`agreement_certified`).

    Arguments:
        model: The teacher.
        starts: By name.
        data: What to certify.
        metric: The task's score.
        tol: The relative residual of the teacher's equation.
        max_steps: The solver's budget a run.
        reference_steps: The budget for the teacher's own answer.
        reference_tol: Its tolerance; None spends the budget.
        batch_size: Samples at a time.
    """
    model.eval()
    found: dict[tuple[str, str], list[Tensor]] = {}

    def add(name: str, kind: str, values: Tensor) -> None:
        found.setdefault((name, kind), []).append(values.double().cpu())

    for batch in batches(data, batch_size, model.device):
        x = model.encode(batch)
        f, z0, batched = model.bind(x), model.initial(x), model.deq.batched
        exact = solve(
            f, z0, Anderson(), max_steps=reference_steps, tol=reference_tol, batched=batched
        )
        truth = model.decode(exact.z, x)
        for name, start in starts.items():
            answer = start.certify(model, x, tol=tol, max_steps=max_steps)
            output = model.decode(answer.z, x)
            add(name, "certified", answer.converged)
            add(name, "evaluations_certified", answer.steps)
            add(name, f"{metric.name}_certified", metric.of(model)(output, batch))
            if metric.same is not None:
                add(name, "agreement_certified", metric.same(output, truth))
    for (name, kind), values in found.items():
        mean = torch.cat(values).mean()
        own = kind == f"{metric.name}_certified"
        yield Measurement(name, None, kind, float(metric.finish(mean) if own else mean))
