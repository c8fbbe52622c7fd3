"""What stays the same over one solve: masks of dropout, and weights with learned lengths."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from cdeq.models.repeatable import NormalisedLinear, dropout_mask, masked

RATES = (0.1, 0.5, 0.75)
each_bias = pytest.mark.parametrize("bias", [True, False])


def layer_of(*, bias: bool = True) -> NormalisedLinear:
    """In float64, and as if trained: lengths are no longer those of V."""
    torch.manual_seed(0)
    layer = NormalisedLinear(5, 4, bias=bias, deviation=0.3).double()
    for parameter in layer.parameters():
        parameter.data += torch.rand(parameter.shape)
    return layer


def inputs() -> Tensor:
    return torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# Masks


@pytest.mark.parametrize("rate", RATES)
def test_a_mask_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(2)
    mask = dropout_mask(torch.empty(400, 250, dtype=torch.float64), rate)
    kept = mask != 0.0
    assert torch.equal(mask[kept], torch.full_like(mask[kept], 1.0 / (1.0 - rate)))
    assert abs(float(kept.double().mean()) - (1.0 - rate)) < 0.01
    assert abs(float(mask.mean()) - 1.0) < 0.02


@pytest.mark.parametrize("shared", [0, 1, 2, -1, -2])
def test_a_mask_is_the_same_along_one_dimension(shared: int) -> None:
    like = torch.empty(4, 5, 6)
    mask = dropout_mask(like, 0.5, shared=shared)
    assert mask.shape[shared] == 1
    assert mask.numel() == like.numel() // like.shape[shared]
    product = masked(torch.ones(4, 5, 6), mask)
    first = product.select(shared, 0)
    assert all(torch.equal(part, first) for part in product.unbind(shared))


def test_a_mask_has_the_place_and_the_precision_of_what_it_masks() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert dropout_mask(torch.empty(2, 2, dtype=dtype), 0.5).dtype is dtype
    assert dropout_mask(torch.empty(2, 2, device="meta"), 0.5).device.type == "meta"


def test_without_a_rate_there_is_no_mask_and_no_draw() -> None:
    before = torch.get_rng_state()
    assert dropout_mask(torch.empty(3), 0.0, shared=0) is None
    assert torch.equal(torch.get_rng_state(), before)
    value = torch.randn(3)
    assert masked(value, None) is value


def test_masks_follow_the_seed_and_are_drawn_anew() -> None:
    like = torch.empty(50)
    torch.manual_seed(3)
    first, second = dropout_mask(like, 0.5), dropout_mask(like, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout_mask(like, 0.5), first)
    assert not torch.equal(first, second)


# Weights


@each_bias
def test_it_starts_as_the_plain_linear_map_of_its_numbers(bias: bool) -> None:
    torch.manual_seed(4)
    layer = NormalisedLinear(200, 100, bias=bias, deviation=0.05)
    x = torch.randn(7, 200)
    torch.testing.assert_close(layer(x), F.linear(x, layer.direction))
    assert abs(float(layer.direction.detach().std()) - 0.05) < 1e-3
    assert (layer.bias is not None) == bias


@each_bias
def test_it_is_the_weight_norm_of_torch(bias: bool) -> None:
    layer, plain = layer_of(bias=bias), nn.Linear(5, 4, bias=bias).double()
    reference = weight_norm(plain, dim=0)
    own = reference.parametrizations["weight"]
    with torch.no_grad():
        own.original0.copy_(layer.length.unsqueeze(1))
        own.original1.copy_(layer.direction)
        if bias:
            reference.bias.copy_(layer.bias)
    torch.testing.assert_close(layer(inputs()), reference(inputs()))
    layer(inputs()).sin().sum().backward()
    reference(inputs()).sin().sum().backward()
    torch.testing.assert_close(layer.direction.grad, own.original1.grad)
    torch.testing.assert_close(layer.length.grad, own.original0.grad.squeeze(1))


def test_lengths_are_lengths_and_directions_have_none() -> None:
    layer = layer_of()
    torch.testing.assert_close(layer.weight().norm(dim=1), layer.length)
    before = layer(inputs())
    layer.direction.data *= torch.tensor([[2.0], [0.1], [30.0], [1.0]])
    torch.testing.assert_close(layer(inputs()), before)


@each_bias
def test_folding_changes_no_bit_however_often(bias: bool) -> None:
    layer = layer_of(bias=bias)
    original, before = deepcopy(layer), layer(inputs())
    for _ in range(2):
        layer.fold()
        assert torch.equal(layer(inputs()), before)
        names = {name for name, _ in layer.named_parameters()}
        assert names == ({"direction", "bias"} if bias else {"direction"})
    assert original.length is not None
    assert torch.equal(original(inputs()), before)


def test_a_folded_layer_learns_as_a_plain_matrix() -> None:
    layer = layer_of()
    layer.fold()
    plain = nn.Linear(5, 4).double()
    plain.load_state_dict({"weight": layer.direction, "bias": layer.bias})
    layer(inputs()).sin().sum().backward()
    plain(inputs()).sin().sum().backward()
    assert torch.equal(layer.direction.grad, plain.weight.grad)
    assert torch.equal(layer.bias.grad, plain.bias.grad)


def test_a_row_of_zeros_stays_one() -> None:
    layer = layer_of()
    with torch.no_grad():
        layer.direction[2] = 0.0
    assert torch.equal(layer.weight()[2], torch.zeros(5, dtype=torch.float64))
    layer(inputs()).sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in layer.parameters())


def test_it_is_twice_differentiable() -> None:
    layer, x = layer_of(), inputs()[:1].requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def called(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradgradcheck(called, (x, *layer.parameters()))
