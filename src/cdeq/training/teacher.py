"""Training a teacher that is right at its equilibrium, not at its training budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cdeq.core.regularize import jacobian_penalty, radius_penalty
from cdeq.core.state import like, tensors, widened
from cdeq.data.indexed import Indices
from cdeq.models.base import Batch, EquilibriumModel, Memory
from cdeq.training.carry import Carry
from cdeq.training.objective import Objective
from cdeq.typing import Context, Map, State

Augment = Callable[[Batch, torch.Generator], Batch]
"""A random change of a batch that keeps its labels right."""


class Judgement(NamedTuple):
    """What came of one batch."""

    terms: dict[str, Tensor]
    """The loss and its parts."""
    memory: Memory
    """What the next batch of the same samples is told; None where samples stand alone."""


@dataclass(frozen=True, kw_only=True)
class TeacherLoss:
    r"""The task loss at the equilibrium, from random starts and under random budgets.

    .. math:: L = L_\text{task}(z^*) + w \, \tfrac1d \|\partial f / \partial z\|_F^2
        + w_\rho \, \max \big( 0, \rho(\partial f / \partial z) - \rho_0 \big)^2

    A fixed budget becomes part of the model: the answer is then wrong at convergence. Drawing the
    budget and the start anew each step makes the equilibrium the only thing that can be learned.

    References:
        | Path Independent Equilibrium Models Can Better Exploit Test-Time Computation (Anil et
        al., 2022)
        | https://arxiv.org/abs/2211.09961

    Arguments:
        shortest: The smallest budget drawn, ≥ 1.
        longest: The largest budget drawn.
        random_start: The probability of starting at Gaussian noise instead of the model's z_0.
        jacobian_weight: w ≥ 0; 0 leaves the penalty out.
        jacobian_share: The probability p in (0, 1] that an update has this penalty, with w / p,
            since it takes a third of its time; None has it always.
        radius_weight: w_ρ ≥ 0; 0 leaves the penalty out.
        radius_limit: ρ_0 > 0, the spectral radius that costs nothing (see `radius_penalty`).

    Raises:
        ValueError: When a setting is outside its range.
    """

    shortest: int = 8
    longest: int = 35
    random_start: float = 0.5
    jacobian_weight: float = 0.0
    jacobian_share: float | None = None
    radius_weight: float = 0.0
    radius_limit: float = 0.9

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                "budgets are drawn from `shortest` … `longest`, both ≥ 1; got "
                f"{self.shortest} … {self.longest}."
            )
        if not 0.0 <= self.random_start <= 1.0:
            raise ValueError(
                f"`random_start` is a probability in [0, 1]; got {self.random_start}."
            )
        for name in ("jacobian_weight", "radius_weight"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(
                    f"`{name}` weighs a penalty, so it is ≥ 0; got {getattr(self, name)}."
                )
        if self.jacobian_share is not None and not 0.0 < self.jacobian_share <= 1.0:
            raise ValueError(
                "`jacobian_share` is the probability in (0, 1] of a penalty, or None for always; "
                f"got {self.jacobian_share}."
            )
        if not self.radius_limit > 0.0:
            raise ValueError(
                f"`radius_limit` is a spectral radius above 0; got {self.radius_limit}."
            )

    def __call__(
        self, model: EquilibriumModel, batch: Batch, generator: torch.Generator
    ) -> Judgement:
        """The loss of one batch: `loss`, and its parts `task`, `jacobian` and `radius`, where
        there are such; and what the batch leaves to the next."""
        x = model.encode(batch)
        budget = torch.randint(self.shortest, self.longest + 1, (), generator=generator)
        f = model.bind(x)  # once: what is penalised is the very map that was solved
        solution = model.deq.solve(f, self._start(model, x, generator), max_steps=int(budget))
        task = model.loss(model.decode(solution.z, x), batch).mean()
        parts = {"task": task, **self._penalties(f, solution.z, model, generator)}
        memory = model.remember(solution.z, x)
        if len(parts) == 1:
            return Judgement({"loss": task}, memory)
        jacobian_weight = self.jacobian_weight / (self.jacobian_share or 1.0)
        weights = {"task": 1.0, "jacobian": jacobian_weight, "radius": self.radius_weight}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return Judgement({"loss": total, **parts}, memory)

    def _penalties(
        self, f: Map, z: State, model: EquilibriumModel, generator: torch.Generator
    ) -> dict[str, Tensor]:
        batched, parts = model.deq.batched, {}
        if self.jacobian_weight and self._struck(generator):
            penalty = jacobian_penalty(f, z, batched=batched, generator=generator)
            parts["jacobian"] = penalty.mean()
        if self.radius_weight:
            limit = self.radius_limit
            penalty = radius_penalty(f, z, limit=limit, batched=batched, generator=generator)
            parts["radius"] = penalty.mean()
        return parts

    def _struck(self, generator: torch.Generator) -> bool:
        """Whether this update has the Jacobian's penalty."""
        share = self.jacobian_share
        return share is None or float(torch.rand((), generator=generator)) < share

    def _start(self, model: EquilibriumModel, x: Context, generator: torch.Generator) -> State:
        z0 = model.initial(x)
        if float(torch.rand((), generator=generator)) >= self.random_start:
            return z0
        return like(z0, tuple(_noise(part, generator) for part in tensors(z0)))


def _noise(part: Tensor, generator: torch.Generator) -> Tensor:
    """Drawn on the CPU, so that the numbers do not depend on the device."""
    return torch.randn(part.shape, generator=generator).to(part)


class TeacherObjective(Objective):
    """A teacher in training.

    Arguments:
        model: The teacher.
        loss: What is minimised.
        augment: A random change of each batch.
    """

    def __init__(
        self, model: EquilibriumModel, loss: TeacherLoss, augment: Augment | None = None
    ) -> None:
        super().__init__()
        self.model, self.teacher_loss, self.augment = model, loss, augment
        self.carry = Carry()

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        if self.augment is not None:
            batch = self.augment(batch, generator)
        told = self.carry.recall(self.model, batch)
        terms, memory = self.teacher_loss(self.model, told, generator)
        self.carry.leave(memory)
        return terms


class FewStepObjective(Objective):
    """The honest baseline: the same f, trained on labels with a fixed number of unrolled steps.

    Arguments:
        model: A model of the teacher's architecture; its solver is not used.
        steps: Evaluations of f, in training as in inference.
        augment: A random change of each batch.
    """

    def __init__(
        self, model: EquilibriumModel, steps: int, augment: Augment | None = None
    ) -> None:
        super().__init__()
        self.model, self.steps, self.augment = model, steps, augment
        self.carry = Carry()

    def forward(
        self, batch: Batch, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        if self.augment is not None:
            batch = self.augment(batch, generator)
        x = self.model.encode(self.carry.recall(self.model, batch))
        f, z = self.model.bind(x), self.model.initial(x)
        dtype = tensors(z)[0].dtype
        for _ in range(self.steps):
            z = widened(f(z), dtype)
        self.carry.leave(self.model.remember(z, x))
        return {"loss": self.model.loss(self.model.decode(z, x), batch).mean()}
