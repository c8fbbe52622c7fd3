"""The Jacobian at the equilibrium: its size as a penalty, its spectral radius as a diagnosis."""

import torch
from torch import Tensor

from cdeq.core.state import Layout, detach
from cdeq.typing import Map, PerSample, State


def jacobian_penalty(
    f: Map,
    z: State,
    *,
    probes: int = 1,
    batched: bool = True,
    generator: torch.Generator | None = None,
) -> PerSample:
    r"""Hutchinson's estimate of the squared Frobenius norm of the Jacobian, a feature.

    .. math:: \frac1d \|J\|_F^2 = \frac1d \, \mathbb{E}_\epsilon \|J^\top \epsilon\|^2 ,
        \qquad \epsilon \sim \mathcal N(0, I)

    Differentiable with respect to f's parameters, not z. Costs one evaluation of f and one
    vector-Jacobian product a probe; f must be twice differentiable (no fused attention).

    References:
        | Stabilizing Equilibrium Models by Jacobian Regularization (Bai, Koltun & Kolter, 2021)
        | https://arxiv.org/abs/2106.14342

    Arguments:
        f: The map z ↦ f(z, x), with gradients.
        z: Where to linearise, usually the equilibrium.
        probes: How many random vectors ε to average over.
        batched: Whether the first dimension counts samples.
        generator: The source of ε.

    Raises:
        ValueError: When `probes` < 1.

    Example:
        >>> bool(jacobian_penalty(lambda z: 0.5 * z, torch.zeros(1, 1000)).sub(0.25).abs() < 0.05)
        True
    """
    if probes < 1:
        raise ValueError(
            f"`probes` counts the random vectors that are averaged, ≥ 1; got {probes}."
        )
    start, value = _linearised(f, z, batched)
    total = torch.zeros(start.shape[0], dtype=start.dtype, device=start.device)
    for _ in range(probes):
        probe = _drawn(start, generator)
        (product,) = torch.autograd.grad(
            value, start, probe, retain_graph=True, create_graph=torch.is_grad_enabled()
        )
        total = total + product.square().mean(1)
    return total / probes


def spectral_radius(
    f: Map,
    z: State,
    *,
    steps: int = 50,
    batched: bool = True,
    generator: torch.Generator | None = None,
) -> PerSample:
    r"""The spectral radius of :math:`J = \partial f / \partial z` at z, by power iteration on Jᵀ.

    The estimate is the geometric mean of ‖Jᵀv‖ over the second half of the steps, which also
    settles when the dominant eigenvalues are a complex pair. Below 1, Picard iteration converges
    near z.

    Arguments:
        f: The map z ↦ f(z, x).
        z: Where to linearise, usually the equilibrium.
        steps: Vector-Jacobian products to spend, at least 2.
        batched: Whether the first dimension counts samples.
        generator: The source of the first vector.

    Raises:
        ValueError: When `steps` < 2.

    Example:
        >>> rotation = torch.tensor([[0.0, -0.9], [0.9, 0.0]])
        >>> spectral_radius(lambda z: z @ rotation.T, torch.zeros(1, 2))
        tensor([0.9000])
    """
    if steps < 2:
        raise ValueError(
            f"`steps` counts power iterations, half of which are averaged: ≥ 2; got {steps}."
        )
    start, value = _linearised(f, z, batched)
    v = _drawn(start, generator)
    growth: list[Tensor] = []
    for _ in range(steps):
        (v,) = torch.autograd.grad(value, start, _unit(v), retain_graph=True)
        growth.append(torch.linalg.vector_norm(v, dim=1))
    return torch.stack(growth[steps // 2 :]).log().mean(0).exp()


def radius_penalty(
    f: Map,
    z: State,
    *,
    limit: float,
    steps: int = 8,
    batched: bool = True,
    generator: torch.Generator | None = None,
) -> PerSample:
    r"""How far the spectral radius of the Jacobian exceeds a limit, squared.

    .. math:: \max(0, \|J^\top v\| - \text{limit})^2

    with v the unit vector that a few power iterations on Jᵀ lead to, constant in the derivative.
    The Frobenius norm of `jacobian_penalty` is a mean over directions; where f averages over many
    neighbours it stays small while one direction grows without bound, and this is about that one.

    Differentiable with respect to f's parameters, not z. Costs one evaluation of f and
    `steps` + 1 vector-Jacobian products.

    Arguments:
        f: The map z ↦ f(z, x), with gradients.
        z: Where to linearise, usually the equilibrium.
        limit: The spectral radius that costs nothing, > 0.
        steps: Power iterations.
        batched: Whether the first dimension counts samples.
        generator: The source of the first vector.

    Raises:
        ValueError: When the limit is not positive, or `steps` < 1.

    Example:
        >>> radius_penalty(lambda z: 1.5 * z, torch.zeros(1, 4), limit=1.0)
        tensor([0.2500])
    """
    if not limit > 0.0 or steps < 1:
        raise ValueError(
            f"`limit` is a spectral radius > 0 and `steps` ≥ 1; got {limit} and {steps}."
        )
    start, value = _linearised(f, z, batched)
    v = _unit(_drawn(start, generator))
    for _ in range(steps):
        v = _unit(torch.autograd.grad(value, start, v, retain_graph=True)[0])
    tracked = torch.is_grad_enabled()
    (product,) = torch.autograd.grad(value, start, v, create_graph=tracked, retain_graph=tracked)
    return (torch.linalg.vector_norm(product, dim=1) - limit).clamp_min(0.0).square()


def _drawn(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    """As many normal numbers, drawn where the generator is: those of a CPU's are the same for all
    devices."""
    device = rows.device if generator is None else generator.device
    drawn = torch.randn(rows.shape, dtype=rows.dtype, device=device, generator=generator)
    return drawn.to(rows.device)


def _unit(rows: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / length.clamp_min(torch.finfo(rows.dtype).tiny)


def _linearised(f: Map, z: State, batched: bool) -> tuple[Tensor, Tensor]:
    layout = Layout.of(z, batched=batched)
    start = layout.pack(detach(z)).requires_grad_()
    with torch.enable_grad():  # a diagnosis is also wanted where no gradient is
        return start, layout.lift(f)(start)
