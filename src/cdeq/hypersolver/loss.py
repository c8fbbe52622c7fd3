"""The losses of a learned solver: where it gets, where it starts, how short its residual is."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cdeq.core.norms import relative
from cdeq.core.state import Layout, detach
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.typing import Context, State


class HyperLosses(NamedTuple):
    """The terms, averaged over samples, and their weighted sum."""

    total: Tensor
    path: Tensor
    """The error on the way, Σ w_k ‖z_k - z*‖ / ‖z*‖."""
    start: Tensor
    """The squared error of the initializer's guess, relative to ‖z*‖²; 0 without one."""
    alpha: Tensor
    """The mean length of the mixed residuals, relative to ‖z*‖; 0 once it has no weight."""


@dataclass(frozen=True, kw_only=True)
class HyperLoss:
    r"""The three losses of a learned solver, along a run of K steps of its own.

    .. math:: L = \lambda_1 \sum_{k=1}^{K} w_k \frac{\|z_k - z^*\|}{\|z^*\|}
        + \lambda_2 \frac{\|\mathrm{init}(x) - z^*\|^2}{\|z^*\|^2}
        + \frac{\lambda_3}{K} \sum_{k=1}^{K} \frac{\|G_k \alpha_k\|}{\|z^*\|} , \qquad
        w_k = \frac{2 k}{K (K + 1)}

    with the residuals of the window as the columns of G. λ_3 falls to 0 during training: the last
    term only shows the way to weights like Anderson's. Neither labels nor the task's head are
    needed.

    Deviates from its paper in the units: there lengths are absolute and the second term is a mean
    over entries. Here all are relative to z*, which leaves their proportions as they are where the
    entries of z* are of size one, and makes λ mean the same for any teacher.

    References:
        | Neural Deep Equilibrium Solvers (Bai et al., 2022), Section 4.2
        | https://openreview.net/forum?id=B0oHOwT5ENL

    Arguments:
        path_weight: λ_1 ≥ 0, of the error on the way.
        start_weight: λ_2 ≥ 0, of the initializer's error.
        alpha_weight: λ_3 ≥ 0, of the mixed residuals, where it begins.
        detach: Cut the gradient where a step's state goes into the next, so that nothing is
            differentiated through f but the first step; the paper goes through all of them.

    Raises:
        ValueError: When a weight is negative.
    """

    path_weight: float = 0.1
    start_weight: float = 5.0
    alpha_weight: float = 1e-4
    detach: bool = False

    def __post_init__(self) -> None:
        for name in ("path_weight", "start_weight", "alpha_weight"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"`{name}` weighs a loss, ≥ 0; got {getattr(self, name)}.")

    def __call__(
        self,
        student: HyperDEQ,
        x: Context,
        z0: State,
        endpoint: State,
        steps: int,
        *,
        alpha_share: float = 1.0,
    ) -> HyperLosses:
        """The losses of one run.

        Arguments:
            student: The solver.
            x: The context.
            z0: Where the run starts, unless the solver has an initializer.
            endpoint: z*.
            steps: K ≥ 1.
            alpha_share: The share of λ_3 that is left.

        Raises:
            ValueError: When K is below 1.
        """
        if steps < 1:
            raise ValueError(f"`steps` counts the steps K ≥ 1 of a run; got {steps}.")
        layout = Layout.of(endpoint, batched=student.batched)
        goal, now = layout.pack(endpoint), torch.zeros((), device=layout.device)
        step, z, memory = student.bind(x), z0, None
        start = path = alpha = goal.new_zeros(())
        for k in range(1, steps + 1):
            z, memory = step(z, now, memory)
            if k == 1 and student.initializer is not None:
                guess = layout.pack(memory.points[0])
                start = relative(guess - goal, goal).square().mean()
            path = path + k * relative(layout.pack(z) - goal, goal).mean()
            if self.alpha_weight * alpha_share:
                residual = layout.pack(student.mixed_residual(memory))
                alpha = alpha + relative(residual, goal).mean() / steps
            z = detach(z) if self.detach else z
        path = 2 * path / (steps * (steps + 1))
        total = self.path_weight * path + self.start_weight * start
        return HyperLosses(total + self.alpha_weight * alpha_share * alpha, path, start, alpha)
