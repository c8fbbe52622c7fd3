"""Distil a fixed point into a consistency student with torch alone: no engine, no recipe."""

import torch

from cdeq import (
    Anderson,
    ConsistencyDEQ,
    DistillationLoss,
    ExponentialSchedule,
    refine,
    relative_error,
    sample_indices,
    solve,
    window,
)
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec

torch.manual_seed(0)
teacher = ContractionDEQ(ContractionSpec(channels=8)).eval()  # any EquilibriumModel
student = ConsistencyDEQ.from_teacher(teacher)  # h ≡ f to begin with
target = ConsistencyDEQ.from_teacher(teacher)
schedule, loss = ExponentialSchedule(rate=0.3), DistillationLoss(task_weight=0.0)
optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)


def trajectory(images):
    with torch.no_grad():
        x = teacher.encode(ImageBatch(images, torch.zeros(len(images), dtype=torch.long)))
        run = solve(teacher.bind(x), teacher.initial(x), Anderson(), max_steps=20, record=True)
    return x, run.trajectory


def errors(images, steps=4):
    x, path = trajectory(images)
    with torch.no_grad():
        run = refine(student, x, path[0], ExponentialSchedule.from_ratio(0.5).times(steps))
        return [float(relative_error(z, path[-1]).mean()) for z in run]


test = torch.rand(64, 1, 8, 8)
before = errors(test)
for _ in range(150):
    x, path = trajectory(torch.rand(32, 1, 8, 8))
    k = sample_indices(len(path) - 1, (32,))
    losses = loss(student, target, window(path, schedule, k), x)
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()
    with torch.no_grad():  # the running average φ⁻
        for slow, fast in zip(target.parameters(), student.parameters(), strict=True):
            slow.lerp_(fast, 0.02)

print("relative error to z* after 1 … 4 evaluations")
print("  before:", " ".join(f"{error:.3f}" for error in before))
print("  after: ", " ".join(f"{error:.3f}" for error in errors(test)))
