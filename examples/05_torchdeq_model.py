"""A model built and trained with torchdeq: wrapped, distilled, and not a bit of it changed."""

from copy import deepcopy

import torch
from torch import nn
from torchdeq import get_deq
from torchdeq.norm import apply_norm, remove_norm, reset_norm

import cdeq


class Layer(nn.Sequential):
    def forward(self, z, x):
        return x + super().forward(z)


class Theirs(nn.Module):
    """Somebody's classifier, in torchdeq's own idiom."""

    def __init__(self):
        super().__init__()
        self.encode, self.head = nn.Linear(16, 48), nn.Linear(48, 4)
        self.layer = Layer(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48))
        apply_norm(self.layer, "weight_norm")
        self.deq = get_deq(f_solver="broyden", f_max_iter=60, f_tol=1e-6, f_stop_mode="rel")

    def forward(self, inputs):
        reset_norm(self.layer)  # makes weights from lengths and directions, once a solve
        x = self.encode(inputs)
        states, _ = self.deq(lambda z: self.layer(z, x), torch.zeros_like(x))
        return self.head(states[-1])


torch.manual_seed(0)
theirs, rule = Theirs(), torch.randn(16, 4)
optimizer = torch.optim.Adam(theirs.parameters(), lr=3e-3)
for _ in range(80):
    inputs = torch.randn(128, 16)
    loss = nn.functional.cross_entropy(theirs(inputs), (inputs.sin() @ rule).argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
before = deepcopy(theirs.eval().state_dict())

# Students train copies of f's weights, so f is a copy with plain ones: what the norm makes.
with torch.no_grad():
    reset_norm(theirs.layer)  # without gradients, since torch copies no tensor that has a past
layer = deepcopy(theirs.layer)
remove_norm(layer)
model = cdeq.FunctionModel(layer, (48,), encode=theirs.encode, decode=lambda z, x: theirs.head(z))
student = cdeq.distill(model, [torch.randn(256, 16) for _ in range(40)], label="")

test = torch.randn(512, 16)  # never trained on
with torch.no_grad():
    answer, x = theirs(test), model.encode(test)
    print(f"largest difference of logits: {float((model(test) - answer).abs().max()):.0e}\n")
    z0, times = model.initial(x), cdeq.ExponentialSchedule.from_ratio(0.5).times(8)
    teacher = cdeq.solve(model.bind(x), z0, max_steps=60, record=True)
    runs = {"Anderson": teacher.trajectory[1:], "student": [*cdeq.refine(student, x, z0, times)]}
    print("evaluations, and after them the error to z* and the share of their decisions")
    for name, run in runs.items():
        for k in (1, 2, 4, 8):
            error = float(cdeq.relative_error(run[k - 1], teacher.z).median())
            same = theirs.head(run[k - 1]).argmax(1) == answer.argmax(1)
            print(f"{name:<10}{k:>2}{error:>10.5f}{float(same.double().mean()):>9.1%}")
unchanged = all(torch.equal(before[name], now) for name, now in theirs.state_dict().items())
print("\ntheir weights are", "the same, bit by bit" if unchanged else "changed")
