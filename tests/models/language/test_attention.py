"""Relative attention: the published formula, pair by pair, and nothing of what is hidden."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from cdeq.models.language.attention import RelativeBias, causal, shifted, sinusoids, visible

FEATURES, HEADS, SAMPLES = 12, 3, 2
EACH = FEATURES // HEADS
SIZES = [(1, 0), (1, 4), (4, 0), (3, 2), (2, 5)]
each_size = pytest.mark.parametrize(("queries", "past"), SIZES)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def bias_of() -> RelativeBias:
    """In float64, and as if trained."""
    torch.manual_seed(0)
    bias = RelativeBias(FEATURES, HEADS, deviation=0.5).double()
    for parameter in bias.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape)
    return bias


def inputs_of(queries: int, past: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    shape = (3, SAMPLES, HEADS, past + queries, EACH)
    query, key, value = drawn(*shape, seed=seed)
    return query[:, :, past:], key, value


def known_of(past: int) -> Tensor:
    """One sample knows everything, the other the last half alone."""
    known = torch.ones(SAMPLES, past, dtype=torch.bool)
    known[1, : (past + 1) // 2] = False
    return known


def wave(distance: int) -> Tensor:
    half = FEATURES // 2
    angles = [distance * 10000.0 ** (-2 * i / FEATURES) for i in range(half)]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)


def by_hand(
    bias: RelativeBias, query: Tensor, key: Tensor, value: Tensor, known: Tensor
) -> Tensor:
    """One pair of positions after the other, as it is published."""
    queries, keys = query.shape[2], key.shape[2]
    past, found = keys - queries, torch.zeros_like(query)
    matrix = bias.positions.weight().view(HEADS, EACH, FEATURES)
    for b, h, i in product(range(SAMPLES), range(HEADS), range(queries)):
        here, scores, values = past + i, [], []
        for j in range(here + 1):
            if j >= past or known[b, j]:
                q, k = query[b, h, i], key[b, h, j]
                place = matrix[h] @ wave(here - j)
                content = (q + bias.content[h, 0]) @ k
                scores.append((content + (q + bias.place[h, 0]) @ place) / math.sqrt(EACH))
                values.append(value[b, h, j])
        shares = torch.stack(scores).softmax(0)
        found[b, h, i] = (shares.unsqueeze(1) * torch.stack(values)).sum(0)
    return found


def attended(
    bias: RelativeBias, queries: int, past: int, *, fused: bool, **other: Tensor
) -> Tensor:
    query, key, value = inputs_of(queries, past)
    parts = {"query": query, "key": key, "value": value} | other
    seen = visible(known_of(past), queries)
    with torch.set_grad_enabled(not fused):
        return bias(**parts, keys=bias.keys(queries + past), seen=seen)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-6) -> None:
    """Waves are computed in single precision."""
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# Parts


@pytest.mark.parametrize("length", [1, 2, 7])
def test_waves_are_those_of_the_distances_from_far_to_near(length: int) -> None:
    found = sinusoids(length, FEATURES, torch.empty(0, dtype=torch.float64))
    close(found, torch.stack([wave(distance) for distance in reversed(range(length))]))


@each_size
def test_a_shift_puts_every_distance_where_it_belongs(queries: int, past: int) -> None:
    keys = past + queries
    scores = drawn(SAMPLES, HEADS, queries, keys)
    found = shifted(scores)
    for i, j in product(range(queries), range(keys)):
        distance = past + i - j
        if distance >= 0:
            assert torch.equal(found[:, :, i, j], scores[:, :, i, keys - 1 - distance])


@each_size
def test_a_position_sees_itself_and_what_is_known_before(queries: int, past: int) -> None:
    known = known_of(past)
    found, alone = visible(known, queries), causal(queries, past + queries, known.device)
    assert found.shape == (SAMPLES, 1, queries, past + queries)
    for b, i, j in product(range(SAMPLES), range(queries), range(past + queries)):
        before = j <= past + i
        exists = j >= past or bool(known[b, j])
        assert bool(alone[i, j]) == before
        assert bool(found[b, 0, i, j]) == (before and exists)


@pytest.mark.parametrize("longer", [1, 5])
def test_places_depend_on_the_distance_alone(longer: int) -> None:
    bias = bias_of()
    close(bias.keys(4 + longer)[:, longer:], bias.keys(4), 1e-12)


# The whole


@each_size
@pytest.mark.parametrize("fused", [True, False])
def test_it_is_the_published_formula(queries: int, past: int, fused: bool) -> None:
    bias = bias_of()
    expected = by_hand(bias, *inputs_of(queries, past), known_of(past))
    close(attended(bias, queries, past, fused=fused), expected)


@each_size
def test_the_fused_kernel_is_the_explicit_formula(queries: int, past: int) -> None:
    bias = bias_of()
    fused, explicit = (attended(bias, queries, past, fused=choice) for choice in (True, False))
    close(fused, explicit, 1e-12)
    assert explicit.requires_grad
    assert not fused.requires_grad


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_hidden_has_no_influence_at_all(fused: bool) -> None:
    """Keys and values after a position, and those that do not exist, to the last bit."""
    bias, queries, past = bias_of(), 3, 4
    _, key, value = inputs_of(queries, past)
    _, keys, values = inputs_of(queries, past, seed=7)
    seen = visible(known_of(past), queries)
    before = attended(bias, queries, past, fused=fused)
    for b, i in product(range(SAMPLES), range(queries)):
        hidden = ~seen[b, 0, i].view(1, 1, -1, 1)
        other = {"key": torch.where(hidden, 99 * keys, key)}
        other["value"] = torch.where(hidden, 99 * values, value)
        after = attended(bias, queries, past, fused=fused, **other)
        assert torch.equal(after[b, :, i], before[b, :, i])
        if bool(hidden.any()):
            assert not torch.equal(after, before)


@pytest.mark.parametrize("fused", [True, False])
def test_everything_that_is_seen_has_influence(fused: bool) -> None:
    bias, queries, past = bias_of(), 3, 4
    _, key, value = inputs_of(queries, past)
    seen = visible(known_of(past), queries)
    before = attended(bias, queries, past, fused=fused)
    for name, tensor in (("key", key), ("value", value)):
        for j in range(queries + past):
            other = tensor.clone()
            other[:, :, j] += 0.5
            after = attended(bias, queries, past, fused=fused, **{name: other})
            moved = (after != before).any(-1).any(1)
            assert torch.equal(moved & seen[:, 0, :, j], moved)
            alone = seen[:, 0].sum(-1) == 1  # a softmax of one is one
            assert torch.equal(moved, seen[:, 0, :, j] & ~(alone & (name == "key")))


def test_unknown_positions_are_as_if_there_were_none() -> None:
    bias, queries, past = bias_of(), 3, 4
    query, key, value = inputs_of(queries, past)
    nobody = torch.zeros(SAMPLES, past, dtype=torch.bool)
    with_past = bias(query, key, value, bias.keys(past + queries), visible(nobody, queries))
    alone = visible(nobody[:, :0], queries)
    close(bias(query, key[:, :, past:], value[:, :, past:], bias.keys(queries), alone), with_past)


def test_a_segment_with_its_past_is_the_end_of_a_longer_one() -> None:
    bias, whole = bias_of(), 7
    query, key, value = inputs_of(whole, 0)
    every = torch.ones(SAMPLES, whole, dtype=torch.bool)
    longer = bias(query, key, value, bias.keys(whole), visible(every[:, :0], whole))
    for past in range(whole):
        seen = visible(every[:, :past], whole - past)
        part = bias(query[:, :, past:], key, value, bias.keys(whole), seen)
        close(part, longer[:, :, past:], 1e-12)


def test_heads_and_samples_do_not_see_each_other() -> None:
    bias, other = bias_of(), [9 * part for part in inputs_of(3, 2, seed=8)]
    before = attended(bias, 3, 2, fused=False)
    for b, h in product(range(SAMPLES), range(HEADS)):
        mixed = [part.clone() for part in inputs_of(3, 2)]
        for mine, theirs in zip(mixed, other, strict=True):
            mine[b, h] = theirs[b, h]
        query, key, value = mixed
        after = attended(bias, 3, 2, fused=False, query=query, key=key, value=value)
        same = (after == before).all(-1).all(-1)
        assert int((~same).sum()) == 1
        assert not same[b, h]


def test_second_derivatives_are_right() -> None:
    bias, seen = bias_of(), visible(known_of(2), 2)
    names, parameters = zip(*bias.named_parameters(), strict=True)
    parts = [part.requires_grad_() for part in inputs_of(2, 2)]

    def called(query: Tensor, key: Tensor, value: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        inputs = (query, key, value, seen)
        return torch.func.functional_call(_WithKeys(bias), _prefixed(state), inputs)

    assert torch.autograd.gradcheck(called, (*parts, *parameters))
    assert torch.autograd.gradgradcheck(called, (*parts, *parameters))


class _WithKeys(torch.nn.Module):
    """Attention and its keys of places in one, so that weights may be put in."""

    def __init__(self, bias: RelativeBias) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        return self.bias(query, key, value, self.bias.keys(key.shape[2]), seen)


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"bias.{name}": value for name, value in state.items()}


def test_narrow_products_keep_the_answer() -> None:
    """Both ways, in mixed precision; hidden scores are minus infinity there as well."""
    bias = bias_of().float()
    query, key, value = (part.float() for part in inputs_of(3, 4))
    seen = visible(known_of(4), 3)
    exact = bias(query, key, value, bias.keys(7), seen)
    for fused in (True, False):
        with torch.set_grad_enabled(not fused), torch.autocast("cpu", dtype=torch.bfloat16):
            narrow = bias(query, key, value, bias.keys(7), seen)
        close(narrow.float(), exact, 0.05)
