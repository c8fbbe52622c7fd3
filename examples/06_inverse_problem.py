"""An inverse problem: images from the pixels that are left, as a fixed point; no labels needed."""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import conv2d, conv_transpose2d

import cdeq


class Restorer(torch.nn.Module):
    """f(z, (y, mask)) = D(z - mask (z - y)): a gradient step on the seen pixels, then a denoiser.

    D(z) = 0.99 (z - Wᵀ φ(W z)) with φ(u) = tanh(8 u) / 8 is a contraction while ‖W‖ ≤ 1.
    """

    def __init__(self):
        super().__init__()
        self.W = torch.nn.Parameter(0.1 * torch.randn(16, 1, 3, 3))

    def denoise(self, z):
        seen = torch.tanh(8 * conv2d(z, self.W, padding=1)) / 8
        return 0.99 * (z - conv_transpose2d(seen, self.W, padding=1))

    def forward(self, z, x):
        y, mask = x
        return self.denoise(z - mask * (z - y))


torch.manual_seed(0)
digits = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
train, test = digits[:1500], digits[1500:]
restorer = Restorer()
optimizer = torch.optim.Adam(restorer.parameters(), lr=1e-2)
for _ in range(200):  # D learns to take noise out of digits
    images = train[torch.randint(len(train), (64,))]
    loss = (restorer.denoise(images + 0.1 * torch.randn_like(images)) - images).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        rows = conv2d(torch.eye(64).view(64, 1, 8, 8), restorer.W, padding=1).flatten(1)
        restorer.W /= torch.linalg.matrix_norm(rows @ rows.T, 2).sqrt().clamp(min=1)


def camera(images):
    """What is left of images, y and a mask: six pixels in ten, with noise."""
    mask = (torch.rand_like(images) < 0.6).float()
    return mask * (images + 0.05 * torch.randn_like(images)), mask


model = cdeq.FunctionModel(restorer, (1, 8, 8))
student = cdeq.distill(model, [camera(images) for images in 2 * train.split(75)], label="")

x = camera(test)  # digits and masks never trained on
with torch.no_grad():
    z0, times = model.initial(x), cdeq.ExponentialSchedule.from_ratio(0.5).times(8)
    teacher = cdeq.solve(model.bind(x), z0, max_steps=100, record=True)
    runs = {"Anderson": teacher.trajectory[1:], "student": [*cdeq.refine(student, x, z0, times)]}
    print("evaluations, and after them the error to z* and the PSNR in dB")
    for name, run in runs.items():
        for k in (1, 2, 4, 8):
            error = float(cdeq.relative_error(run[k - 1], teacher.z).median())
            psnr = -10 * (run[k - 1] - test).square().mean((1, 2, 3)).log10()
            print(f"{name:<10}{k:>2}{error:>10.4f}{float(psnr.mean()):>8.1f}")

print("\nevaluations a sample until the residual is certified to be at most 1e-3")
for name, start in {"Anderson": None, "student": student}.items():
    steps = cdeq.certify(model, start, x, tol=1e-3, steps=2).check().steps
    print(f"{name:<12}{float(steps.double().mean()):>10.1f}")
