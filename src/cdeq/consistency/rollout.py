"""On-policy distillation: the loss on the states the student itself visits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cdeq.consistency.refine import Student
from cdeq.core.state import Layout, detach
from cdeq.typing import Context, State


class RolloutLosses(NamedTuple):
    """The terms, averaged over the steps of the run, and their weighted sum."""

    total: Tensor
    latent: Tensor
    """The squared distance to z*, relative to ‖z*‖²."""
    head: Tensor
    """KL from the teacher's answer at z* to its head's answer at the student's state."""


@dataclass(frozen=True, kw_only=True)
class RolloutLoss:
    r"""The loss along a run of the student's own, from z_0.

    .. math:: L = \frac1J \sum_{j=1}^{J} \Big( \frac{\|z_j - z^*\|^2}{\|z^*\|^2}
        + w \, \mathrm{KL}\big( \text{head}(z^*) \,\|\, \text{head}(z_j) \big) \Big) , \qquad
        z_j = g(z_{j-1}, t_{j-1}, x)

    Trained on the teacher's states alone, a student stands after its first jump on states that it
    has never seen. No labels are needed.

    Arguments:
        head_weight: w ≥ 0.
        detach: Cut the gradient between steps, which costs less memory and works as well.

    Raises:
        ValueError: When w is negative.
    """

    head_weight: float = 1.0
    detach: bool = True

    def __post_init__(self) -> None:
        if not self.head_weight >= 0.0:
            raise ValueError(f"`head_weight` weighs the KL term, ≥ 0; got {self.head_weight}.")

    def __call__(
        self,
        student: Student,
        x: Context,
        z0: State,
        endpoint: State,
        times: Iterable[Tensor],
        head: Callable[[State], Tensor],
        *,
        batched: bool = True,
    ) -> RolloutLosses:
        """The losses of one run.

        Arguments:
            student: The map g; its memory must be None while steps are cut off from each other.
            x: The context.
            z0: Where the run starts.
            endpoint: z*.
            times: The virtual times of its steps.
            head: The teacher's task head: logits over the last dimension.
            batched: Whether the first dimension counts samples.
        """
        layout = Layout.of(endpoint, batched=batched)
        goal = layout.pack(endpoint)
        size = goal.square().sum(1).clamp_min(torch.finfo(goal.dtype).tiny)
        with torch.no_grad():
            answer = head(endpoint).log_softmax(-1)
        step = student.bind(x)
        z, memory, latent, divergence = z0, None, [], []
        for t in times:
            z, memory = step(z, t, memory)
            latent.append(((layout.pack(z) - goal).square().sum(1) / size).mean())
            logits = head(z).log_softmax(-1)
            divergence.append(F.kl_div(logits, answer, log_target=True, reduction="batchmean"))
            z = detach(z) if self.detach else z
        mean_latent, mean_head = torch.stack(latent).mean(), torch.stack(divergence).mean()
        return RolloutLosses(mean_latent + self.head_weight * mean_head, mean_latent, mean_head)
