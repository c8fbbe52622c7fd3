"""How gradients re-enter at the equilibrium; independent of how the equilibrium was found.

Every adjoint evaluates f with gradients at the solver's answer and returns a state that equals it
up to the residual. To unroll the solver instead, call `solve` with gradients enabled.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cdeq.core.norms import relative
from cdeq.core.solve import Solution, require_budget, require_tolerance, solve
from cdeq.core.solvers import Anderson, Solver
from cdeq.core.solvers.base import require_fraction
from cdeq.core.state import Layout, detach, tensors
from cdeq.typing import Flat, Map, State


class Adjoint(ABC):
    """A way to differentiate z* = f(z*, x) with respect to whatever f depends on."""

    @abstractmethod
    def attach(self, f: Map, z: State, *, batched: bool = True) -> State:
        """The state z, connected to f's parameters and context.

        Arguments:
            f: The map z ↦ f(z, x), with gradients.
            z: The solver's answer; no gradient flows into it.
            batched: Whether the first dimension counts samples.
        """


@dataclass(frozen=True, kw_only=True)
class Implicit(Adjoint):
    r"""The implicit function theorem.

    For a loss gradient g at z*, the vector u that is sent on into :math:`\partial f /
    \partial\theta` solves

    .. math:: u = J^\top u + g , \qquad J = \partial f / \partial z \,|_{z^*} ,

    a fixed point again, found by any solver. It starts at u = g, so that no evaluation is wasted
    on
    Jᵀ0: with `max_steps` vector-Jacobian products Picard sums as many more terms of the Neumann
    series than `JacobianFree`, which is the case of none.

    Arguments:
        solver: The backward solver.
        max_steps: Its budget of vector-Jacobian products, at least 1.
        tol: Its tolerance; None spends the budget to the last product.
        on_backward: Called with the backward `Solution`, for those who log its residuals.

    Raises:
        ValueError: When `max_steps` < 1, or, on attaching, when `tol` cannot be met in the state's
            precision.

    References:
        | Deep Equilibrium Models (Bai, Kolter & Koltun, 2019), Theorem 1
        | https://arxiv.org/abs/1909.01377

    Example:
        >>> from cdeq import Implicit
        >>> a = torch.tensor(0.5, requires_grad=True)
        >>> z = Implicit(tol=1e-6).attach(lambda z: a * z + 1, torch.full((1, 1), 2.0))
        >>> z.sum().backward()
        >>> a.grad                                       # z* = 1 / (1 - a), dz*/da = 1 / (1 - a)²
        tensor(4.0000)
    """

    solver: Solver = Anderson()
    max_steps: int = 30
    tol: float | None = 1e-6
    on_backward: Callable[[Solution], None] | None = None

    def __post_init__(self) -> None:
        require_budget(self.max_steps)

    def attach(self, f: Map, z: State, *, batched: bool = True) -> State:
        layout = Layout.of(z, batched=batched)
        # Here, not in the middle of a backward pass.
        require_tolerance(self.tol, relative, layout.dtype)
        start = layout.pack(detach(z)).requires_grad_()
        value = layout.lift(f)(start)
        return layout.unpack(_SolveBackward.apply(value, start, self))


class _SolveBackward(torch.autograd.Function):
    """The identity whose backward pass solves u = Jᵀu + g on the graph of `value`."""

    @staticmethod
    def forward(ctx: Any, value: Flat, start: Flat, adjoint: Implicit) -> Flat:  # noqa: ANN401
        ctx.link, ctx.adjoint = (value, start), adjoint
        return value.view_as(value)

    @staticmethod
    @once_differentiable  # its result has lost the signature that the base class asks for
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401 - torch's own
        *grad_outputs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        (grad,), adjoint = grad_outputs, ctx.adjoint
        value, start = ctx.link

        def transposed(u: State) -> State:
            (product,) = torch.autograd.grad(value, start, u, retain_graph=True, allow_unused=True)
            return grad if product is None else product + grad

        solution = solve(
            transposed, grad, adjoint.solver, max_steps=adjoint.max_steps, tol=adjoint.tol
        )
        if adjoint.on_backward is not None:
            adjoint.on_backward(solution)
        return tensors(solution.z)[0], None, None


@dataclass(frozen=True, kw_only=True)
class JacobianFree(Adjoint):
    """One evaluation with gradients: the implicit gradient with (I - Jᵀ)⁻¹ replaced by I.

    References:
        | JFB: Jacobian-Free Backpropagation for Implicit Networks (Fung et al., 2022)
        | https://arxiv.org/abs/2103.12803
    """

    def attach(self, f: Map, z: State, *, batched: bool = True) -> State:
        layout = Layout.of(z, batched=batched)
        return layout.unpack(layout.lift(f)(layout.pack(detach(z))))


@dataclass(frozen=True, kw_only=True)
class Phantom(Adjoint):
    r"""A few damped evaluations with gradients, :math:`z \leftarrow z + \lambda (f(z) - z)`.

    Arguments:
        steps: How many, at least 1. One with damping 1 is `JacobianFree`.
        damping: The step size λ in (0, 1].

    Raises:
        ValueError: When a setting is outside its range.

    References:
        | On Training Implicit Models (Geng et al., 2021)
        | https://arxiv.org/abs/2111.05177
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        require_fraction("damping", self.damping, "the step size of the phantom steps")
        if self.steps < 1:
            raise ValueError(
                f"`steps` counts the evaluations with gradients, ≥ 1; got {self.steps}."
            )

    def attach(self, f: Map, z: State, *, batched: bool = True) -> State:
        layout = Layout.of(z, batched=batched)
        rows, lifted = layout.pack(detach(z)), layout.lift(f)
        for _ in range(self.steps):
            rows = torch.lerp(rows, lifted(rows), self.damping)
        return layout.unpack(rows)
