"""On-policy distillation: the loss on the states the student itself visits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from cdeq.consistency.refine import Student
from cdeq.core.state import Layout, detach
from cdeq.typing import Context, PerSample, State

Judge: TypeAlias = Callable[[State], PerSample]
"""How far the task head's answer at a state is from its answer at z*, a sample."""


class RolloutLosses(NamedTuple):
    """The terms, averaged over the steps of the run, and their weighted sum."""

    total: Tensor
    latent: Tensor
    """The squared distance to z*, relative to ‖z*‖²."""
    head: Tensor
    """The divergence of the head's answer from its answer at z*; 0 where nobody judges."""


@dataclass(frozen=True, kw_only=True)
class RolloutLoss:
    r"""The loss along a run of the student's own, from z_0.

    .. math:: L = \frac1J \sum_{j=1}^{J} \Big( \frac{\|z_j - z^*\|^2}{\|z^*\|^2}
        + w \, D\big( \text{head}(z_j) , \text{head}(z^*) \big) \Big) , \qquad
        z_j = g(z_{j-1}, t_{j-1}, x)

    with D the task's own divergence: Kullback-Leibler for logits. Trained on the teacher's states
    alone, a student stands after its first jump on states that it has never seen. No labels are
    needed. Goes beyond the paper.

    Arguments:
        head_weight: w ≥ 0.
        detach: Cut the gradient where a step's state goes into the next. What a student's memory
            holds (`History.h`, a window) keeps its gradient.

    Raises:
        ValueError: When w is negative.
    """

    head_weight: float = 1.0
    detach: bool = True

    def __post_init__(self) -> None:
        if not self.head_weight >= 0.0:
            raise ValueError(f"`head_weight` weighs the head's term, ≥ 0; got {self.head_weight}.")

    def __call__(
        self,
        student: Student,
        x: Context,
        z0: State,
        endpoint: State,
        times: Iterable[Tensor],
        judge: Judge | None = None,
        *,
        visit: Callable[[int, State], State] = lambda j, z: z,
        batched: bool = True,
    ) -> RolloutLosses:
        """The losses of one run.

        Arguments:
            student: The map g.
            x: The context.
            z0: Where the run starts.
            endpoint: z*.
            times: The virtual times of its steps.
            judge: D at a state; without it the loss is the latent term alone.
            visit: What stands in place of z_j as the point the run goes on from, j ≥ 1; a mixture
                with the teacher's states, say.
            batched: Whether the first dimension counts samples.
        """
        layout = Layout.of(endpoint, batched=batched)
        goal = layout.pack(endpoint)
        size = goal.square().sum(1).clamp_min(torch.finfo(goal.dtype).tiny)
        step = student.bind(x)
        z, memory, latent, head = z0, None, [], []
        for j, t in enumerate(times):
            z = visit(j, z) if j else z
            z, memory = step(z, t, memory)
            latent.append(((layout.pack(z) - goal).square().sum(1) / size).mean())
            if judge is not None and self.head_weight:
                head.append(judge(z).mean())
            z = detach(z) if self.detach else z
        mean_latent = torch.stack(latent).mean()
        mean_head = torch.stack(head).mean() if head else torch.zeros_like(mean_latent)
        return RolloutLosses(mean_latent + self.head_weight * mean_head, mean_latent, mean_head)
