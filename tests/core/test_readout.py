"""Readouts: Eq. (8) to the letter, the identity at birth."""

from itertools import product

import pytest
import torch
from problems import seeded
from torch import Tensor

from cdeq import LinearReadout, MLPReadout
from cdeq.core.readout import feature_shape
from cdeq.core.state import tensors
from cdeq.typing import State

STATES = {
    "vector": ((3, 5), -1),
    "vector first": ((3, 5), 1),
    "image": ((3, 5, 4, 2), 1),
    "sequence": ((3, 4, 5), -1),
    "positions": ((3, 5, 4), 1),
}
each_state = pytest.mark.parametrize(("shape", "axis"), STATES.values(), ids=list(STATES))
TIMES = {"one": torch.tensor(0.3), "each": torch.tensor([0.1, 0.5, 0.9])}
each_time = pytest.mark.parametrize("t", TIMES.values(), ids=list(TIMES))


def literal(weight: Tensor, value: Tensor, t: Tensor, axis: int) -> Tensor:
    """W [f ‖ t], by concatenation."""
    last = value.movedim(axis, -1)
    times = t.to(value).expand(3).reshape(-1, *[1] * (value.ndim - 1))
    stacked = torch.cat([last, times.expand(*last.shape[:-1], 1)], dim=-1)
    return (stacked @ weight.T).movedim(-1, axis)


def randomised(readout: LinearReadout) -> LinearReadout:
    for i, weight in enumerate(readout.weights):
        weight.data = seeded(
            *weight.shape, seed=100 + i, dtype=torch.float64, device=weight.device
        )
    return readout


@each_state
@each_time
def test_the_linear_readout_is_equation_8(shape, axis, t, device) -> None:
    value = seeded(*shape, seed=110, dtype=torch.float64, device=device)
    readout = randomised(LinearReadout([5], axis=axis).to(device))
    expected = literal(readout.weights[0], value, t.to(device), axis)
    torch.testing.assert_close(readout(value, t.to(device)), expected)


@each_time
def test_each_tensor_of_a_state_has_its_own_matrix(t, device) -> None:
    state = tuple(
        seeded(3, w, 4, seed=111 + w, dtype=torch.float64, device=device) for w in (2, 5)
    )
    readout = randomised(LinearReadout([2, 5], axis=1).to(device))
    mixed = readout(state, t.to(device))
    assert isinstance(mixed, tuple)
    for weight, value, ours in zip(readout.weights, state, mixed, strict=True):
        torch.testing.assert_close(ours, literal(weight, value, t.to(device), 1))


@each_state
@each_time
def test_a_fresh_linear_readout_is_the_identity(shape, axis, t, dtype, device) -> None:
    value = seeded(*shape, seed=112, dtype=dtype, device=device)
    assert torch.equal(LinearReadout([5], axis=axis).to(value)(value, t), value)


@each_state
def test_one_time_for_all_is_the_same_time_for_each(shape, axis, device) -> None:
    value = seeded(*shape, seed=113, dtype=torch.float64, device=device)
    for readout in (
        randomised(LinearReadout([5], axis=axis)),
        MLPReadout([5], axis=axis).double(),
    ):
        one, each = (
            readout.to(device)(value, t) for t in (torch.tensor(0.3), torch.full((3,), 0.3))
        )
        torch.testing.assert_close(one, each)


@each_state
@each_time
def test_the_mlp_readout_is_its_two_layers_at_every_position(shape, axis, t, device) -> None:
    value = seeded(*shape, seed=114, dtype=torch.float64, device=device)
    readout = MLPReadout([5], axis=axis).double().to(device)
    first, _, second = readout.layers[0]
    ours = readout(value, t.to(device)).movedim(axis, -1)
    source = value.movedim(axis, -1)
    times = t.to(value).expand(3)
    assert first.out_features == 15
    for place in product(*(range(n) for n in source.shape[:-1])):
        joined = torch.cat([source[place], times[place[0]].reshape(1)])
        expected = second.weight @ (first.weight @ joined + first.bias).relu() + second.bias
        torch.testing.assert_close(ours[place], expected)


@pytest.mark.parametrize("kind", (LinearReadout, MLPReadout))
@pytest.mark.parametrize("axis", (0, 2, -2, 3))
def test_features_stand_second_or_last(kind, axis) -> None:
    with pytest.raises(ValueError, match=f"`axis`.*1 for images or -1.*got {axis}"):
        kind([5], axis=axis)


def test_one_time_a_sample_needs_a_batched_state() -> None:
    with pytest.raises(ValueError, match="single time for an unbatched state"):
        LinearReadout([5], axis=-1)(torch.zeros(5), torch.tensor([0.1, 0.2]))
    assert feature_shape(torch.zeros(1, 5), ndim=2, axis=-1) == (1, 5)


@pytest.mark.parametrize("kind", (LinearReadout, MLPReadout))
def test_the_time_may_be_anywhere(kind) -> None:
    """Its numbers follow the state: schedules count on the host."""
    value = torch.empty(3, 5, dtype=torch.bfloat16, device="meta")
    readout = kind([5], axis=-1).to(value)
    for t in TIMES.values():
        mixed: State = readout(value, t)
        assert [(p.device.type, p.dtype) for p in tensors(mixed)] == [("meta", torch.bfloat16)]


@each_state
@pytest.mark.parametrize("kind", (LinearReadout, MLPReadout))
def test_mixed_precision_keeps_the_states_dtype(kind, shape, axis, device) -> None:
    value = seeded(*shape, seed=115, dtype=torch.float32, device=device)
    readout = kind([5], axis=axis).to(device)
    plain = readout(value, TIMES["each"])
    with torch.autocast(device.type, dtype=torch.bfloat16):
        mixed = readout(value, TIMES["each"])
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=0.02, atol=0.02)
