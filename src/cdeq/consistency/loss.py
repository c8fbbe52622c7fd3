"""The distillation loss: anchored at the end, consistent between neighbours, task-aware."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cdeq.consistency.pairs import Window
from cdeq.consistency.student import ConsistencyDEQ, StudentStep
from cdeq.consistency.time import TimeSpan
from cdeq.core.state import Layout
from cdeq.typing import Context, PerSample, State

Distance = Callable[[Tensor, Tensor], Tensor]
"""d(·, ·) between packed states, a scalar."""

Task = Callable[[State], PerSample]
"""The task loss of each sample, given its state."""


class Losses(NamedTuple):
    """The terms of Eq. (11), unweighted, and their weighted sum."""

    total: Tensor
    anchor: Tensor
    """L_global, Eq. (9)."""
    local: Tensor
    """L_local, Eq. (10)."""
    task: Tensor
    """L_task, Eq. (14)."""


@dataclass(frozen=True, kw_only=True)
class DistillationLoss:
    r"""The loss of consistency distillation.

    .. math::
        L &= \lambda_1 L_\text{global} + (1 - \lambda_1) L_\text{local}
            + \lambda_2 L_\text{task} \\
        L_\text{global} &= d\big( g_\phi(z_{t_k}, t_k, x), \; z_K \big) \\
        L_\text{local} &= d\big( g_\phi(z_{t_k}, t_k, x), \;
            g_{\phi^-}(z_{t_{k-1}}, t_{k-1}, x) \big) \\
        L_\text{task} &= \mathrm{CE}\big( \text{head}(g_\phi(z_{t_k}, t_k, x)), \; y \big)

    The target φ⁻ gets no gradient. Distances are taken between packed states. The task term
    averages over the samples that are early on their path; a batch without any contributes 0.

    Paper: Eqs. (9)-(11), (14), Appendix B.4.

    Arguments:
        anchor_weight: λ₁ in [0, 1].
        task_weight: λ₂ ≥ 0.
        distance: d.
        task_horizon: The normalised time τ in [0, 1] up to which a point counts as early; the
            paper restricts the task term to "small t" without a number.
        reverse_pair: Give the student the earlier point of the local pair and the target the later
            one, as later commits of the released code do.

    Raises:
        ValueError: When a setting is outside its range.
    """

    anchor_weight: float = 0.8
    task_weight: float = 0.05
    distance: Distance = F.mse_loss
    task_horizon: float = 1.0
    reverse_pair: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.anchor_weight <= 1.0:
            raise ValueError(
                f"`anchor_weight` is a mixing weight in [0, 1] (λ₁ of Eq. 11); got "
                f"{self.anchor_weight}."
            )
        if not self.task_weight >= 0.0:
            raise ValueError(f"`task_weight` is λ₂ ≥ 0 of Eq. (11); got {self.task_weight}.")
        if not 0.0 <= self.task_horizon <= 1.0:
            raise ValueError(
                f"`task_horizon` is a normalised time in [0, 1]; got {self.task_horizon}."
            )

    def __call__(
        self,
        student: ConsistencyDEQ,
        target: ConsistencyDEQ,
        window: Window,
        x: Context,
        task: Task | None = None,
    ) -> Losses:
        """The losses of one batch.

        Arguments:
            student: g_φ.
            target: g_φ⁻, the running average.
            window: The points, from `pairs.window`.
            x: The context.
            task: The task loss of each sample; needed unless λ₂ = 0.

        Raises:
            ValueError: When λ₂ > 0 and no task loss came.
        """
        if self.task_weight > 0.0 and task is None:
            raise ValueError(
                "`task_weight` > 0 weighs a task loss (λ₂ of Eq. 11), and none came; pass "
                "`task`, or set `task_weight=0` to distil without labels."
            )
        step = student.bind(x)
        later = _consistency(step, student.accelerate, window, 2)
        earlier = _consistency(step, student.accelerate, window, 1) if self.reverse_pair else later
        with torch.no_grad():
            at = 2 if self.reverse_pair else 1
            goal = _consistency(target.bind(x), target.accelerate, window, at)
        layout = Layout.of(later, batched=student.batched)
        anchor = self.distance(layout.pack(later), layout.pack(window.endpoint))
        local = self.distance(layout.pack(earlier), layout.pack(goal))
        task_loss = self._task(task, later, window.t[2], student.boundary.span, anchor)
        total = self.anchor_weight * anchor + (1 - self.anchor_weight) * local
        return Losses(total + self.task_weight * task_loss, anchor, local, task_loss)

    def _task(
        self, task: Task | None, z: State, t: Tensor, span: TimeSpan, like: Tensor
    ) -> Tensor:
        if task is None or self.task_weight == 0.0:
            return torch.zeros_like(like)
        early = (span.normalize(t) <= self.task_horizon).to(like)
        losses = task(z) * early
        return losses.sum() / early.expand(losses.shape).sum().clamp_min(1.0)


def _consistency(step: StudentStep, accelerate: bool, window: Window, at: int) -> State:
    """g at point `at` of the window; with acceleration, the point before it is its history."""
    history = step(window.z[at - 1], window.t[at - 1], None)[1] if accelerate else None
    return step(window.z[at], window.t[at], history)[0]
