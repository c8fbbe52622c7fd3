"""Training of a learned solver: one step on runs of its own, towards the teacher's equilibria."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from cdeq.core.state import tensors
from cdeq.data.indexed import Indices
from cdeq.hypersolver.loss import HyperLoss
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.models.base import Batch, EquilibriumModel
from cdeq.training.distill import place
from cdeq.training.objective import Objective
from cdeq.training.plan import require_count
from cdeq.trajectories.source import TrajectorySource, ends


@dataclass(frozen=True, kw_only=True)
class Unrolling:
    r"""How the runs are that a learned solver is trained on.

    Arguments:
        shortest: The smallest number of steps K, drawn anew for each batch.
        longest: The largest.
        loss: What is minimised.
        decay: Updates over which the weight λ_3 of the mixed residuals falls to 0, in equal steps.

    Raises:
        ValueError: When 1 ≤ shortest ≤ longest does not hold, or `decay` is below 1.

    Example:
        >>> [Unrolling(decay=4).alpha_share(update) for update in (0, 1, 9)]
        [1.0, 0.75, 0.0]
    """

    shortest: int = 2
    longest: int = 8
    loss: HyperLoss = HyperLoss()
    decay: int = 500

    def __post_init__(self) -> None:
        require_count("shortest", self.shortest)
        require_count("decay", self.decay)
        if self.longest < self.shortest:
            raise ValueError(
                f"a run has `shortest` … `longest` steps; got {self.shortest} … {self.longest}."
            )

    def alpha_share(self, update: int) -> float:
        """What is left of λ_3 at an update, counted from 0."""
        return max(0.0, 1.0 - update / self.decay)


class HyperObjective(Objective):
    """A learned solver that is compared with the ends of its teacher's trajectories.

    Labels and the task's head are not used.

    Arguments:
        student: The solver, whose trainable parameters are optimised.
        teacher: Gives contexts; its parameters stop requiring gradients.
        trajectories: Where z* comes from.
        unrolling: How the runs are.
    """

    def __init__(
        self,
        student: HyperDEQ,
        teacher: EquilibriumModel,
        trajectories: TrajectorySource,
        *,
        unrolling: Unrolling = Unrolling(),
    ) -> None:
        super().__init__()
        self.student, self.unrolling = student, unrolling
        self.teacher, self.trajectories = teacher.requires_grad_(False).eval(), trajectories
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.updates: Tensor

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        settings = self.unrolling
        with torch.no_grad():
            x = self.teacher.encode(batch)
        z0 = self.teacher.initial(x)
        with torch.autocast(tensors(z0)[0].device.type, enabled=False):  # the same as from a cache
            endpoint = place(ends(self.trajectories, indices), z0)
        steps = torch.randint(settings.shortest, settings.longest + 1, (), generator=generator)
        share = settings.alpha_share(int(self.updates))
        losses = settings.loss(self.student, x, z0, endpoint, int(steps), alpha_share=share)
        terms = losses._asdict()
        return {"loss": terms.pop("total"), **terms}

    def train(self, mode: bool = True) -> Self:
        """Only the student trains: its teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def after_step(self) -> None:
        self.updates += 1
