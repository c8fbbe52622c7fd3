"""Small objectives for the engine, and the loop that it should be the same as."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdeq import Anderson, ConsistencyDEQ, ExponentialSchedule
from cdeq.consistency.untied import UntiedDEQ
from cdeq.data.images import ImageSet
from cdeq.data.indexed import Indices, step_indices
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.training.distill import DistillationObjective
from cdeq.training.engine import Score, fit
from cdeq.training.objective import Objective
from cdeq.training.on_policy import RolloutObjective
from cdeq.training.plan import Hardware, Plan
from cdeq.training.teacher import FewStepObjective, TeacherLoss, TeacherObjective
from cdeq.trajectories import OnlineTrajectories

CPU = Hardware(accelerator="cpu")
PLAN = Plan(
    steps=9, batch_size=4, learning_rate=0.02, warmup=3, weight_decay=0.1, checkpoint_every=2
)
SPEC = ContractionSpec(channels=3, size=4, classes=3, max_steps=8, adjoint_steps=4)


class Points(NamedTuple):
    """Inputs and what a line should make of them."""

    x: Tensor
    y: Tensor


class Cloud:
    """Eleven points, so that an epoch of batches of four leaves three out."""

    def __init__(self) -> None:
        draw = torch.randn(11, 4, generator=torch.Generator().manual_seed(1))
        self.points = Points(draw[:, :3], draw[:, 3:])

    def __len__(self) -> int:
        return len(self.points.x)

    def take(self, indices: Indices) -> Points:
        return Points(*(part[indices] for part in self.points))


class Line(Objective):
    """A line with a running average; random in both ways, by dropout and by the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 1), nn.Dropout(0.3)
        self.register_buffer("average", torch.zeros(1, 3))

    def forward(
        self, batch: Points, indices: Indices, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        noise = 0.1 * torch.randn(batch.x.shape, generator=generator)
        value = self.linear(self.dropout(batch.x + noise))
        error = (value - batch.y).square().mean()
        return {"loss": error + 0.01 * self.linear.bias.square().sum(), "error": error}

    def after_step(self) -> None:
        self.get_buffer("average").lerp_(self.linear.weight.detach(), 0.1)


def line() -> Line:
    torch.manual_seed(5)
    return Line()


def images(count: int = 12) -> ImageSet:
    draw = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return ImageSet(draw, (4 * draw.mean((1, 2, 3))).long().remainder(3))


def teacher() -> ContractionDEQ:
    torch.manual_seed(6)
    return ContractionDEQ(SPEC)


def taught() -> TeacherObjective:
    loss = TeacherLoss(shortest=2, longest=8, jacobian_weight=0.1)
    return TeacherObjective(teacher(), loss)


def unrolled() -> FewStepObjective:
    return FewStepObjective(teacher(), steps=2)


def online(model: ContractionDEQ) -> OnlineTrajectories:
    return OnlineTrajectories(
        teacher=model, contexts=images().take, solver=Anderson(), max_steps=6
    )


def on_policy() -> RolloutObjective:
    model = teacher()
    return RolloutObjective(UntiedDEQ.from_teacher(model, steps=2), model, online(model))


def distilled() -> DistillationObjective:
    model = teacher()
    student = ConsistencyDEQ.from_teacher(model)
    for parameter in student.parameters():  # fresh it is nearly perfect: its teacher is tame
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return DistillationObjective(student, model, online(model), ExponentialSchedule())


OBJECTIVES: dict[str, tuple[Callable[[], Objective], Callable[[], Cloud | ImageSet]]] = {
    "line": (line, Cloud),
    "teacher": (taught, images),
    "few-step": (unrolled, images),
    "distillation": (distilled, images),
    "on-policy": (on_policy, images),
}
"""How to make an objective, and its data."""


def run(
    name: str,
    folder: Path,
    plan: Plan = PLAN,
    *,
    objective: Objective | None = None,
    identity: str = "a" * 64,
    hardware: Hardware = CPU,
    score: Score | None = None,
) -> Objective:
    """Train one of the `OBJECTIVES`; it comes back."""
    make, data = OBJECTIVES[name]
    trained = make() if objective is None else objective
    fit(
        trained,
        data(),
        plan,
        folder,
        seed=3,
        identity=identity,
        label=name,
        hardware=hardware,
        score=score,
    )
    return trained


def by_hand(name: str, plan: Plan = PLAN) -> tuple[Objective, list[Mapping[str, Tensor]]]:
    """The same training as plain PyTorch, and the losses of each update."""
    make, data_of = OBJECTIVES[name]
    objective, data, history = make(), data_of(), list[Mapping[str, Tensor]]()
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=plan.weight_decay)
    for step in range(plan.steps):
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        seed = (3 * 1_000_003 + step) * 1_009
        indices = step_indices(step, samples=len(data), batch_size=plan.batch_size, seed=3)
        torch.manual_seed(seed)
        losses = objective.train()(
            data.take(indices), indices, torch.Generator().manual_seed(seed)
        )
        optimizer.zero_grad()
        losses["loss"].backward()
        if plan.clip:
            nn.utils.clip_grad_norm_(trained, plan.clip)
        optimizer.step()
        objective.after_step()
        history.append({key: value.detach() for key, value in losses.items()})
    return objective, history


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether all parameters and buffers have the same bits."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


def stopped_at(objective: Objective, step: int, stop: Callable[[], None]) -> Objective:
    """The objective, which calls `stop` in the middle of an update: before its after-step."""
    after, done = objective.after_step, [0]

    def after_step() -> None:
        done[0] += 1
        if done[0] == step:
            stop()
        after()

    objective.after_step = after_step  # type: ignore[method-assign]
    return objective


def short(steps: int) -> Plan:
    return replace(PLAN, steps=steps)


class Killed(BaseException):
    """As sudden as a signal that nobody can catch."""


def die() -> None:
    raise Killed
