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
        probe = torch.randn(
            start.shape, dtype=start.dtype, device=start.device, generator=generator
        )
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
    v = torch.randn(start.shape, dtype=start.dtype, device=start.device, generator=generator)
    growth: list[Tensor] = []
    for _ in range(steps):
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(
            torch.finfo(v.dtype).tiny
        )
        (v,) = torch.autograd.grad(value, start, v, retain_graph=True)
        growth.append(torch.linalg.vector_norm(v, dim=1))
    return torch.stack(growth[steps // 2 :]).log().mean(0).exp()


def _linearised(f: Map, z: State, batched: bool) -> tuple[Tensor, Tensor]:
    layout = Layout.of(z, batched=batched)
    start = layout.pack(detach(z)).requires_grad_()
    with torch.enable_grad():  # a diagnosis is also wanted where no gradient is
        return start, layout.lift(f)(start)
