"""Train a small DEQ with three adjoints: the same layer, three ways to differentiate it."""

import torch
from torch import nn

from cdeq import DEQ, Anderson, Implicit, JacobianFree, Phantom


class Cell(nn.Module):
    """f(z, x) = tanh(W z + x), a contraction as long as W is small."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.orthogonal_(self.linear.weight, gain=0.7)

    def forward(self, z, x):
        return torch.tanh(self.linear(z) + x)


torch.manual_seed(0)
inputs = torch.randn(256, 8)
targets = torch.sin(3 * inputs.sum(1, keepdim=True))

for adjoint in (Implicit(tol=1e-3), JacobianFree(), Phantom(steps=3)):
    torch.manual_seed(1)
    encoder, head = nn.Linear(8, 32), nn.Linear(32, 1)
    deq = DEQ(Cell(32), solver=Anderson(), adjoint=adjoint, max_steps=60, tol=1e-3)
    parameters = [*encoder.parameters(), *deq.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(60):
        x = encoder(inputs)
        solution = deq(x, torch.zeros_like(x))
        loss = nn.functional.mse_loss(head(solution.z), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{type(adjoint).__name__:<14} loss {loss.item():.4f}   {solution.status.name}")
