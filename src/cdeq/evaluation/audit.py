"""The convergence audit: does the teacher have an equilibrium, and is it right there?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdeq.core.regularize import spectral_radius
from cdeq.core.solve import residual_norm, solve
from cdeq.core.solvers import Anderson, Solver
from cdeq.data.indexed import IndexedData
from cdeq.evaluation.metrics import Metric
from cdeq.evaluation.sweep import batches
from cdeq.models.base import EquilibriumModel


@dataclass(frozen=True)
class Audit:
    """What a teacher's solver reaches on a data set.

    Residuals are relative, ‖f(z) - z‖ / ‖f(z)‖, measured by one further evaluation at the state
    that is the answer.
    """

    steps: int
    """Evaluations in the ordinary budget."""
    long_steps: int
    """Evaluations in the long budget."""
    tol: float
    """The residual that counts as converged."""
    converged_share: float
    """The share of samples whose residual after `steps` is at most `tol`."""
    residual_median: float
    residual_p95: float
    residual_max: float
    score: float
    """The task score after `steps` evaluations."""
    score_long: float
    """The task score after `long_steps` evaluations."""
    spectral_radius_median: float
    """Of the Jacobian at the answers of the first batch; below 1, Picard converges too."""
    spectral_radius_max: float

    @property
    def converges(self) -> bool:
        """Whether there is an endpoint to distil: the residual of 95 % of samples is at most 1e-2,
        the median at most 1e-3, and the score does not depend on the budget (half a point)."""
        steady = abs(self.score - self.score_long) <= 0.005 * max(abs(self.score), 1.0)
        return self.residual_median <= 1e-3 and self.residual_p95 <= 1e-2 and steady

    def summary(self) -> str:
        """The audit in a few lines."""
        verdict = (
            "converges" if self.converges else "does NOT converge: distilling it is pointless"
        )
        return (
            f"The teacher {verdict}.\n"
            f"  after {self.steps} Anderson evaluations  residual median "
            f"{self.residual_median:.1e}, "
            f"95 % {self.residual_p95:.1e}, worst {self.residual_max:.1e}\n"
            f"  converged to {self.tol:.0e}             {self.converged_share:.1%} of samples\n"
            f"  score after {self.steps} / {self.long_steps}        {self.score:.4f} / "
            f"{self.score_long:.4f}\n"
            f"  spectral radius at z*          median {self.spectral_radius_median:.3f}, "
            f"worst {self.spectral_radius_max:.3f}"
        )


@torch.no_grad()
def audit(
    model: EquilibriumModel,
    data: IndexedData,
    metric: Metric,
    *,
    solver: Solver = Anderson(),
    steps: int = 40,
    long_steps: int = 200,
    tol: float = 1e-3,
    batch_size: int = 512,
) -> Audit:
    """Run the teacher's solver with an ordinary and a long budget, and look at what it reached.

    Arguments:
        model: The teacher.
        data: Samples, of the test set for a report.
        metric: The task's score.
        solver: The solver to judge it by.
        steps: The ordinary budget.
        long_steps: The long budget.
        tol: The residual that counts as converged.
        batch_size: Samples at a time.
    """
    model.eval()
    residuals, scores, long_scores, radii = [], [], [], []
    for batch in batches(data, batch_size, model.device):
        x = model.encode(batch)
        f, z0, batched = model.bind(x), model.initial(x), model.deq.batched
        z = solve(f, z0, solver, max_steps=steps, batched=batched).z
        longer = solve(f, z0, solver, max_steps=long_steps, batched=batched).z
        residuals.append(residual_norm(f, z, batched=batched))
        scores.append(metric.of(model)(model.decode(z, x), batch))
        long_scores.append(metric.of(model)(model.decode(longer, x), batch))
        if not radii:
            radii.append(spectral_radius(f, longer, batched=batched))
    residual, radius = torch.cat(residuals), torch.cat(radii)
    return Audit(
        steps=steps,
        long_steps=long_steps,
        tol=tol,
        converged_share=float((residual <= tol).double().mean()),
        residual_median=float(residual.median()),
        residual_p95=float(residual.double().quantile(0.95)),
        residual_max=float(residual.max()),
        score=_mean(scores, metric),
        score_long=_mean(long_scores, metric),
        spectral_radius_median=float(radius.median()),
        spectral_radius_max=float(radius.max()),
    )


def _mean(scores: list[Tensor], metric: Metric) -> float:
    return float(metric.finish(torch.cat(scores).double().mean()))
