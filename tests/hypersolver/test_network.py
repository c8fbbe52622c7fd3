"""Codes and weights: what they sum to, what they do not depend on, and what is refused."""

import pytest
import torch
from problems import image_teacher, pair_teacher, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.state import like, tensors
from cdeq.hypersolver.network import Compression, WindowNetwork
from cdeq.hypersolver.scope import PerPosition, Pooled, Scope

each_scope = pytest.mark.parametrize("scope", (Pooled(), PerPosition()), ids=str)
each_length = pytest.mark.parametrize("states", (1, 2, 4, 6, 9))


def trained(width: int = 10) -> WindowNetwork:
    """With random heads."""
    network = WindowNetwork(width).double()
    for parameter in network.heads.parameters():
        nn.init.normal_(parameter)
    return network


def codes(units: int, states: int, seed: int = 1) -> Tensor:
    return seeded(units, 10, states, seed=seed, dtype=torch.float64)


@each_length
def test_the_weights_of_a_window_sum_to_one(states: int) -> None:
    alpha, beta = trained()(codes(50, states))
    torch.testing.assert_close(alpha.sum(1), torch.ones(50, dtype=torch.float64))
    assert bool((beta > 0.5).all()) and bool((beta < 1.5).all())
    assert len(beta.unique()) == 50


@each_length
def test_untrained_it_takes_the_newest_state_undamped(states: int) -> None:
    alpha, beta = WindowNetwork(10).double()(codes(7, states))
    newest = F.one_hot(torch.tensor(states - 1), states)
    assert torch.equal(alpha, newest.expand(7, -1).to(alpha))
    assert torch.equal(beta, torch.ones_like(beta))


@each_length
def test_it_is_a_convolution_over_the_window(states: int) -> None:
    """By torch's own layers."""
    network, given = trained(), codes(8, states)
    h = given / given.abs().amax((1, 2), keepdim=True)
    h = h + F.relu(F.group_norm(F.conv1d(h, network.kernel, padding=2), 5, *affine(network)))
    a, b = network.heads(h.transpose(1, 2)).unbind(2)
    a = a + F.one_hot(torch.tensor(states - 1), states)
    alpha, beta = network(given)
    torch.testing.assert_close(alpha, a + (1 - a.sum(1, keepdim=True)) / states)
    torch.testing.assert_close(beta, 1 + 0.5 * torch.tanh(b.mean(1)))


def affine(network: WindowNetwork) -> tuple[Tensor, Tensor]:
    return network.norm.weight, network.norm.bias


@each_length
@pytest.mark.parametrize("size", (1e-8, 1e5))
def test_the_size_of_residuals_does_not_matter(states: int, size: float) -> None:
    network, given = trained(), codes(8, states)
    for ours, theirs in zip(network(size * given), network(given), strict=True):
        torch.testing.assert_close(ours, theirs)


@each_length
def test_a_window_of_zeros_has_weights(states: int) -> None:
    """At the equilibrium itself."""
    given = codes(3, states).zero_().requires_grad_()
    alpha, beta = trained()(given)
    (alpha.square().sum() + beta.sum()).backward()
    assert bool(alpha.isfinite().all()) and bool(given.grad.isfinite().all())


@each_length
def test_units_do_not_hear_of_each_other(states: int) -> None:
    network, given = trained(), codes(6, states)
    whole = network(given)
    for ours, theirs in zip(network(given[2:3]), whole, strict=True):
        torch.testing.assert_close(ours, theirs[2:3])


CASES = {"images": (image_teacher, (2,), 1), "pairs": (pair_teacher, (2, 4), -1)}
each_case = pytest.mark.parametrize("case", CASES)


def compressed(case: str, scope: Scope) -> tuple[Compression, object]:
    make, features, axis = CASES[case]
    compression = Compression(features, axis=axis, width=10, scope=scope).double()
    return compression, make(torch.float64).x


@each_scope
@each_case
def test_codes_scale_with_the_residual(case: str, scope: Scope) -> None:
    compression, residual = compressed(case, scope)
    scaled = like(residual, tuple(1e-6 * part for part in tensors(residual)))
    torch.testing.assert_close(compression(scaled), 1e-6 * compression(residual))


@each_case
def test_a_sample_s_code_is_made_of_the_means_over_positions(case: str) -> None:
    compression, residual = compressed(case, Pooled())
    total = torch.zeros(len(tensors(residual)[0]), 10, dtype=torch.float64)
    for part, layer in zip(tensors(residual), compression.inward, strict=True):
        rows = part.movedim(compression.axis, -1).flatten(1, -2)
        total += torch.stack([layer(row).relu().mean(0) for row in rows])
    torch.testing.assert_close(compression(residual), compression.outward(total))


@each_case
def test_a_position_s_code_is_made_of_that_position(case: str) -> None:
    """Each is the sample's code, were there no other position."""
    compression, residual = compressed(case, PerPosition())
    found = compression(residual)
    last = [part.movedim(compression.axis, -1) for part in tensors(residual)]
    alone = like(residual, tuple(part.reshape(-1, part.shape[-1]) for part in last))
    torch.testing.assert_close(found, compression(alone))
    assert len(found) == last[0][..., 0].numel()


def test_positions_that_do_not_match_are_refused() -> None:
    compression = Compression([3, 3], axis=1, width=10, scope=PerPosition())
    with pytest.raises(ValueError, match=r"positions in common; got \[\(2, 8, 8\), \(2, 4, 4\)\]"):
        compression((torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)))
    pooled = Compression([3, 3], axis=1, width=10, scope=Pooled())
    assert pooled((torch.ones(2, 3, 8, 8), torch.ones(2, 3, 4, 4))).shape == (2, 10)


@pytest.mark.parametrize("width", (0, 5, 12))
def test_a_width_that_is_not_of_groups_is_refused(width: int) -> None:
    for make in (WindowNetwork, lambda w: Compression([2], axis=1, width=w, scope=Pooled())):
        with pytest.raises(ValueError, match=f"a multiple of 5 from 10 up; got {width}"):
            make(width)
