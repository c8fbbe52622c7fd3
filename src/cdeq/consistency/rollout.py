"""On-policy distillation: the loss on the states the student itself visits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from cdeq.consistency.refine import Student
from cdeq.core.state import Layout, detach, tensors
from cdeq.typing import Context, PerSample, State

Judge: TypeAlias = Callable[[State], PerSample]
"""How bad the task head's answer at a state is, a sample: by its answer at z*, or by labels."""


class RolloutLosses(NamedTuple):
    """The terms, averaged over the steps of the run, and their weighted sum."""

    total: Tensor
    latent: Tensor
    """The squared distance to z*, relative to ‖z*‖²."""
    head: Tensor
    """The divergence of the head's answer from its answer at z*; 0 where nobody judges."""
    task: Tensor
    """The task's loss; 0 where it has no weight."""


@dataclass(frozen=True, kw_only=True)
class RolloutLoss:
    r"""The loss along a run of the student's own, from z_0.

    .. math:: L = \frac1J \sum_{j=1}^{J} \Big( \frac{\|z_j - z^*\|^2}{\|z^*\|^2}
        + w \, D\big( \text{head}(z_j) , \text{head}(z^*) \big)
        + \lambda_2 \, \ell\big( \text{head}(z_j) , y \big) \Big) , \qquad
        z_j = g(z_{j-1}, t_{j-1}, x)

    with D the task's own divergence, Kullback-Leibler for logits, and ℓ its own loss. Trained on
    the teacher's states alone, a student stands after its first jump on states that it has never
    seen. No labels are needed unless λ₂ asks for them. Goes beyond the paper.

    Arguments:
        head_weight: w ≥ 0.
        task_weight: λ₂ ≥ 0, the weight of the labels; where a teacher's answer is no better than
            what can be had in few steps, they say what it does not.
        detach: Cut the gradient where a step's state goes into the next. What a student's memory
            holds (`History.h`, a window) keeps its gradient.

    Raises:
        ValueError: When a weight is negative.
    """

    head_weight: float = 1.0
    task_weight: float = 0.0
    detach: bool = True

    def __post_init__(self) -> None:
        for name in ("head_weight", "task_weight"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(
                    f"`{name}` weighs a term of the loss, ≥ 0; got {getattr(self, name)}."
                )

    def __call__(
        self,
        student: Student,
        x: Context,
        z0: State,
        endpoint: State,
        times: Iterable[Tensor],
        judge: Judge | None = None,
        task: Judge | None = None,
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
            judge: D at a state; without it that term is 0.
            task: ℓ at a state; without it that term is 0.
            visit: What stands in place of z_j as the point the run goes on from, j ≥ 1; a mixture
                with the teacher's states, say.
            batched: Whether the first dimension counts samples.
        """
        layout = Layout.of(endpoint, batched=batched)
        goal = layout.pack(endpoint)
        size = goal.square().sum(1).clamp_min(torch.finfo(goal.dtype).tiny)
        judge, task = self._weighed(judge, self.head_weight), self._weighed(task, self.task_weight)
        step = student.bind(x)
        z, memory, terms = z0, None, []
        for j, t in enumerate(times):
            z = visit(j, z) if j else z
            z, memory = step(z, t, memory)
            distance = (layout.pack(z) - goal).square().sum(1) / size
            terms.append((distance.mean(), judge(z).mean(), task(z).mean()))
            z = detach(z) if self.detach else z
        latent, head, labelled = (torch.stack(part).mean() for part in zip(*terms, strict=True))
        total = latent + self.head_weight * head + self.task_weight * labelled
        return RolloutLosses(total, latent, head, labelled)

    @staticmethod
    def _weighed(judge: Judge | None, weight: float) -> Judge:
        """The judge, or one that costs nothing where its answer has no weight."""
        return judge if judge is not None and weight else nothing


def nothing(z: State) -> PerSample:
    """0 for any state."""
    return tensors(z)[0].new_zeros(1)
