"""The map of the DEQ-Transformer: its formula, what it sees, what stays fixed along a solve."""

from copy import deepcopy
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cdeq.core.cell import bind
from cdeq.core.regularize import jacobian_penalty
from cdeq.models.language.cell import LanguageContext, Norm, TransformerCell
from cdeq.models.repeatable import NormalisedLinear

FEATURES, HEADS, INNER, SAMPLES, PRESENT = 8, 2, 6, 3, 4
each_norm = pytest.mark.parametrize("norm", get_args(Norm))
each_past = pytest.mark.parametrize("past", [0, 3, 6])
each_mode = pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def cell_of(norm: Norm, dropout: float = 0.0) -> TransformerCell:
    """In float64, and as if trained: no parameter is left at its start."""
    torch.manual_seed(0)
    cell = TransformerCell(FEATURES, HEADS, INNER, norm=norm, dropout=dropout).double()
    for parameter in cell.parameters():
        parameter.data += 0.3 * torch.rand(parameter.shape)
    return cell.eval()


def context_of(past: int = 3, samples: int = SAMPLES) -> LanguageContext:
    inputs = drawn(samples, past + PRESENT, FEATURES, seed=1)
    known = torch.ones(samples, past, dtype=torch.bool)
    known[0, : past // 2] = False
    return LanguageContext(inputs, drawn(samples, past, FEATURES, seed=2), known)


def state_of(present: int = PRESENT) -> Tensor:
    return drawn(SAMPLES, present, FEATURES, seed=3)


def value(cell: TransformerCell, z: Tensor, x: LanguageContext, *, fused: bool = False) -> Tensor:
    with torch.set_grad_enabled(not fused):
        return bind(cell, x)(z).detach()


def normalised(rows: Tensor, layer: torch.nn.Module) -> Tensor:
    centred = rows - rows.mean(-1, keepdim=True)
    size = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / size * layer.weight + layer.bias


def by_hand(cell: TransformerCell, z: Tensor, x: LanguageContext, masks: tuple = ()) -> Tensor:
    """The formula, with one product for past and present; attention has tests of its own."""
    past, first, pre = x.known.shape[1], cell.norms[0], cell.norm == "pre"
    one, two, three = masks or (1.0, 1.0, 1.0)
    states = torch.cat([x.memory, z], dim=1)
    read = normalised(states, first) if pre else states
    wide = F.linear(read, cell.qkv.weight()) + cell.injection(x.inputs)
    query, key, heads = (
        torch.stack(part.split(FEATURES // HEADS, dim=2), dim=1) for part in wide.chunk(3, dim=2)
    )
    places = torch.arange(past + PRESENT)
    seen = places <= places[past:].unsqueeze(1)
    seen = seen & F.pad(x.known, (0, PRESENT), value=True).unsqueeze(1)
    keys = cell.relative.keys(past + PRESENT)
    found = cell.relative(query[:, :, past:], key, heads, keys, seen.unsqueeze(1))
    a = cell.output(torch.cat(found.unbind(1), dim=2)) * one
    h = z + a if pre else normalised(z + a, first)
    inner = cell.first(normalised(h, cell.norms[1]) if pre else h).clamp(min=0) * two
    sum_ = h + cell.second(inner) * three
    return sum_ if pre else normalised(sum_, cell.norms[1])


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@each_norm
@each_past
@each_mode
def test_it_is_the_formula(norm: Norm, past: int, fused: bool) -> None:
    cell, x = cell_of(norm), context_of(past)
    close(value(cell, state_of(), x, fused=fused), by_hand(cell, state_of(), x).detach())


# What a position sees


@each_norm
@each_past
@each_mode
def test_no_position_sees_what_comes_after(norm: Norm, past: int, fused: bool) -> None:
    """Neither states nor words, to the last bit; and it does see itself."""
    cell, x, z = cell_of(norm), context_of(past), state_of()
    before = value(cell, z, x, fused=fused)
    for place in range(PRESENT):
        later = (slice(None), slice(place, None))
        state, inputs = z.clone(), x.inputs.clone()
        state[later] = 10 * state[later] + 1
        inputs[:, past + place :] = 10 * inputs[:, past + place :] + 1
        for changed in (
            value(cell, state, x, fused=fused),
            value(cell, z, x._replace(inputs=inputs), fused=fused),
        ):
            assert torch.equal(changed[:, :place], before[:, :place])
            assert bool((changed[later] != before[later]).any(-1).all())


@each_norm
@each_past
@each_mode
def test_unknown_positions_have_no_influence_and_known_ones_have(
    norm: Norm, past: int, fused: bool
) -> None:
    cell, x, z = cell_of(norm), context_of(past), state_of()
    before = value(cell, z, x, fused=fused)
    for place in range(past):
        inputs, memory = x.inputs.clone(), x.memory.clone()
        inputs[:, place] += 5 * drawn(FEATURES, seed=4)
        memory[:, place] += 5 * drawn(FEATURES, seed=5)
        for other in (x._replace(inputs=inputs), x._replace(memory=memory)):
            changed = value(cell, z, other, fused=fused) != before
            everywhere = x.known[:, place, None].expand(SAMPLES, PRESENT)
            assert torch.equal(changed.any(-1), everywhere)


@each_norm
@each_past
def test_a_past_that_nobody_knows_is_no_past(norm: Norm, past: int) -> None:
    cell, x = cell_of(norm), context_of(past)
    unknown = x._replace(known=torch.zeros_like(x.known))
    none = LanguageContext(x.inputs[:, past:], x.memory[:, :0], x.known[:, :0])
    close(value(cell, state_of(), unknown), value(cell, state_of(), none))


@each_norm
@pytest.mark.parametrize("past", [1, 3, 6])
def test_a_segment_with_a_memory_is_the_end_of_a_longer_one(norm: Norm, past: int) -> None:
    """Where the memory holds the states that the longer one has there."""
    cell, x, z = cell_of(norm), context_of(past), state_of()
    x = x._replace(known=torch.ones_like(x.known))
    longer = LanguageContext(x.inputs, x.memory[:, :0], x.known[:, :0])
    whole = value(cell, torch.cat([x.memory, z], dim=1), longer)
    close(value(cell, z, x), whole[:, past:])


@each_norm
@each_mode
def test_samples_do_not_see_each_other(norm: Norm, fused: bool) -> None:
    cell, x, z = cell_of(norm), context_of(), state_of()
    together = value(cell, z, x, fused=fused)
    for row in range(SAMPLES):
        own = LanguageContext(*(part[row : row + 1] for part in x))
        close(value(cell, z[row : row + 1], own, fused=fused), together[row : row + 1])


# What is done once a solve


@each_norm
def test_folding_changes_no_bit(norm: Norm) -> None:
    cell, x = cell_of(norm), context_of()
    original, before = deepcopy(cell), value(cell, state_of(), x)
    size = sum(parameter.numel() for parameter in cell.parameters())
    cell.fold()
    assert torch.equal(value(cell, state_of(), x), before)
    assert torch.equal(value(original, state_of(), x), before)
    lengths = 3 * FEATURES + 3 * FEATURES + FEATURES + FEATURES + INNER + FEATURES
    assert size - sum(parameter.numel() for parameter in cell.parameters()) == lengths
    folded = [layer for layer in cell.modules() if isinstance(layer, NormalisedLinear)]
    assert [layer.length for layer in folded] == [None] * 6


@each_norm
def test_in_evaluation_nothing_is_dropped(norm: Norm) -> None:
    x = context_of()
    free, dropping = (value(cell_of(norm, rate), state_of(), x) for rate in (0.0, 0.6))
    assert torch.equal(free, dropping)


@each_norm
def test_what_is_dropped_is_that_of_the_masks(norm: Norm) -> None:
    """One mask a sample and a place in the layer, the same at all positions."""
    cell, x, z = cell_of(norm, 0.5).train(), context_of(), state_of()
    torch.manual_seed(1)
    prepared = cell.prepare(x)
    widths = [mask.shape for mask in prepared.masks]
    assert widths == [(SAMPLES, 1, wide) for wide in (FEATURES, INNER, FEATURES)]
    for mask in prepared.masks:
        assert {*mask.flatten().tolist()} == {0.0, 2.0}
        assert not torch.equal(mask[0], mask[1])
    close(cell(z, prepared), by_hand(cell, z, x, tuple(prepared.masks)))


@each_norm
def test_one_solve_has_one_mask_and_the_next_another(norm: Norm) -> None:
    cell, x, z = cell_of(norm, 0.5).train(), context_of(), state_of()
    torch.manual_seed(2)
    f, other = bind(cell, x), bind(cell, x)
    before = torch.get_rng_state()
    first = f(z)
    with torch.no_grad():
        close(f(z), first)
    assert torch.equal(f(z), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(other(z), first)
    torch.manual_seed(2)
    assert torch.equal(bind(cell, x)(z), first)


@each_norm
def test_dropping_keeps_the_order_of_reading(norm: Norm) -> None:
    cell, x, z = cell_of(norm, 0.5).train(), context_of(), state_of()
    f, later = bind(cell, x), z.clone()
    later[:, 2:] += 1
    assert torch.equal(f(later)[:, :2], f(z)[:, :2])
    assert not torch.equal(f(later)[:, 2:], f(z)[:, 2:])


# Derivatives


def penalty(cell: TransformerCell) -> Tensor:
    probe = torch.Generator().manual_seed(6)
    return jacobian_penalty(bind(cell, context_of()), state_of(), generator=probe).sum()


@torch.no_grad()
def moved(cell: TransformerCell, seed: int, step: float) -> TransformerCell:
    """The cell, a step along a random direction."""
    other = deepcopy(cell)
    for parameter in other.parameters():
        parameter += step * drawn(*parameter.shape, seed=seed)
    return other


@each_norm
def test_the_penalty_on_the_jacobian_can_be_learned_from(norm: Norm) -> None:
    """Its gradient, a second derivative of f, is that of finite differences along a direction."""
    cell, step = cell_of(norm), 1e-6
    penalty(cell).backward()
    gradients = [(p.shape, p.grad) for p in cell.parameters() if p.grad is not None]
    assert len(gradients) > 15
    for seed in range(3):
        slope = sum(float((drawn(*shape, seed=seed) * one).sum()) for shape, one in gradients)
        up, down = (float(penalty(moved(cell, seed, s)).detach()) for s in (step, -step))
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-5)


@each_norm
def test_the_penalty_is_the_size_of_the_jacobian(norm: Norm) -> None:
    cell, x, z = cell_of(norm), context_of(), state_of()
    f = bind(cell, x)
    drawn_often = jacobian_penalty(f, z, probes=600, generator=torch.Generator().manual_seed(0))
    whole = torch.autograd.functional.jacobian(f, z)
    for row in range(SAMPLES):
        own = whole[row, :, :, row]
        expected = float(own.square().sum()) / (PRESENT * FEATURES)
        assert float(drawn_often[row].detach()) == pytest.approx(expected, rel=0.15)


@each_norm
@each_mode
def test_mixed_precision_keeps_the_state(norm: Norm, fused: bool) -> None:
    cell = cell_of(norm).float()
    x = LanguageContext(*(p.float() if p.is_floating_point() else p for p in context_of()))
    z = state_of().float()
    exact = value(cell, z, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = value(cell, z, x, fused=fused)
    assert narrow.dtype is torch.float32
    torch.testing.assert_close(narrow, exact, rtol=0.05, atol=0.1)
