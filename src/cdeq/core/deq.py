"""A deep equilibrium layer: cell + solver + adjoint."""

from dataclasses import replace

import torch
from torch import nn

from cdeq.core.adjoint import Adjoint, Implicit
from cdeq.core.cell import bind
from cdeq.core.solve import Solution, require_budget, solve
from cdeq.core.solvers import Anderson, Solver
from cdeq.typing import Context, Map, State


class DEQ(nn.Module):
    r"""The layer whose output is the fixed point :math:`z^* = f_\theta(z^*, x)`.

    The solve runs without gradients, so memory does not grow with the number of evaluations; the
    adjoint re-attaches the answer when gradients are enabled.

    Paper: Eq. (1).

    Arguments:
        cell: The map f, called as `cell(z, x)`; a `Cell` may prepare x once a solve.
        solver: How to find the fixed point.
        adjoint: How to differentiate it.
        max_steps: The budget of evaluations of f.
        tol: Stop a sample at this relative residual; None spends the budget.
        batched: Whether the first dimension of a state counts samples.

    Raises:
        ValueError: When `max_steps` < 1.

    Example:
        >>> from cdeq import DEQ
        >>> class Cell(nn.Module):
        ...     def forward(self, z, x):
        ...         return torch.tanh(0.5 * z + x)
        >>> solution = DEQ(Cell(), max_steps=30, tol=1e-6)(torch.ones(1, 1), torch.zeros(1, 1))
        >>> solution.z.detach(), solution.status.name
        (tensor([[0.8952]]), 'CONVERGED')
    """

    def __init__(
        self,
        cell: nn.Module,
        *,
        solver: Solver = Anderson(),
        adjoint: Adjoint = Implicit(),
        max_steps: int = 30,
        tol: float | None = None,
        batched: bool = True,
    ) -> None:
        super().__init__()
        require_budget(max_steps)
        self.cell = cell
        self.solver, self.adjoint = solver, adjoint
        self.max_steps, self.tol, self.batched = max_steps, tol, batched

    def forward(
        self, x: Context, z0: State, *, max_steps: int | None = None, record: bool = False
    ) -> Solution:
        """Solve for the context x from z0, within `max_steps` evaluations or the layer's own."""
        return self.solve(bind(self.cell, x), z0, max_steps=max_steps, record=record)

    def solve(
        self, f: Map, z0: State, *, max_steps: int | None = None, record: bool = False
    ) -> Solution:
        """The same for a map whose context is bound already, once: what is drawn anew with every
        context, as dropout masks are, then stays what it was."""
        with torch.no_grad():
            solution = solve(
                f,
                z0,
                self.solver,
                max_steps=self.max_steps if max_steps is None else max_steps,
                tol=self.tol,
                record=record,
                batched=self.batched,
            )
        if not torch.is_grad_enabled():
            return solution
        z = self.adjoint.attach(f, solution.z, batched=self.batched)
        return replace(solution, z=z)
