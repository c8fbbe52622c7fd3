"""Solve one fixed point with every solver, and watch what an evaluation buys."""

import torch

from cdeq import RK4, Anderson, Broyden, Euler, Picard, solve

torch.manual_seed(0)
A = torch.randn(20, 20, dtype=torch.float64)
A = 0.95 * A / torch.linalg.eigvals(A).abs().max()  # spectral radius .95: Picard is slow
b = torch.randn(4, 20, dtype=torch.float64)  # four samples


def f(z):
    return z @ A.T + b


z0 = torch.zeros_like(b)
exact = torch.linalg.solve(torch.eye(20, dtype=torch.float64) - A, b.T).T

print(f"{'evaluations':<14}" + "".join(f"{k:>10}" for k in (1, 5, 10, 20, 40)))
for solver in (Picard(), Euler(size=0.5), RK4(size=1.0), Broyden(), Anderson(window=5)):
    path = solve(f, z0, solver, max_steps=40, record=True).trajectory
    errors = [float((path[k] - exact).norm() / exact.norm()) for k in (1, 5, 10, 20, 40)]
    name = getattr(solver, "tableau", None) and f"RungeKutta×{len(solver.tableau.weights)}"
    print(f"{name or type(solver).__name__:<14}" + "".join(f"{error:>10.1e}" for error in errors))

solution = solve(f, z0, Anderson(window=10), max_steps=100, tol=1e-10).check()
print(f"\nAnderson(window=10): {solution.status.name} after {solution.nfe} evaluations,")
print(f"per sample {solution.steps.tolist()}")
