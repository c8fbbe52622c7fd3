"""Anybody's fixed point: a map that somebody wrote, its student in three lines, a certificate."""

import torch
from torch import nn

import cdeq


class Layer(nn.Module):
    """Somebody's implicit layer, z = tanh(W z + U x + b), written without a thought of cdeq."""

    def __init__(self, inputs, width):
        super().__init__()
        self.W = nn.Parameter(0.97 * torch.linalg.qr(torch.randn(width, width)).Q)
        self.U = nn.Parameter(0.5 * torch.randn(width, inputs) / inputs**0.5)
        self.b = nn.Parameter(0.1 * torch.randn(width))

    def forward(self, z, x):
        return torch.tanh(z @ self.W.T + x @ self.U.T + self.b)


torch.manual_seed(0)
layer = Layer(inputs=16, width=64)
batches = [torch.randn(256, 16) for _ in range(40)]
test = torch.randn(256, 16)  # never trained on

model = cdeq.FunctionModel(
    layer, (64,)
)  # a state has 64 numbers a sample; the batch is the context
student = cdeq.distill(model, batches, label="")

# A function works as well. Its weights are out of sight, so its student trains a readout alone.
plain = cdeq.FunctionModel(lambda z, x: layer(z, x), (64,))
simpler = cdeq.distill(plain, batches, label="")

z0, times = model.initial(test), cdeq.ExponentialSchedule.from_ratio(0.5).times(8)
with torch.no_grad():
    teacher = cdeq.solve(model.bind(test), z0, max_steps=100, record=True)
    runs = {
        "Anderson": teacher.trajectory[1:],
        "student": list(cdeq.refine(student, test, z0, times)),
        "readouts alone": list(cdeq.refine(simpler, test, z0, times)),
    }
    print(f"{'error to z* after':<18}" + "".join(f"{k:>8}" for k in (1, 2, 4, 8)))
    for name, run in runs.items():
        errors = [float(cdeq.relative_error(run[k - 1], teacher.z).median()) for k in (1, 2, 4, 8)]
        print(f"{name:<18}" + "".join(f"{error:>8.4f}" for error in errors))

print("\nevaluations a sample until the residual is certified to be at most 1e-4")
starts = {"Anderson": (model, None), "student": (model, student), "readouts": (plain, simpler)}
for name, start in starts.items():
    answer = cdeq.certify(*start, test, tol=1e-4, steps=2).check()
    print(f"{name:<18}{float(answer.steps.double().mean()):>8.1f}")
