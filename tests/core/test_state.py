"""Packing is a bijection, and refuses what is no state."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cdeq.core.norms import absolute, relative
from cdeq.core.state import Layout, detach, like, tensors, zeros_like
from cdeq.typing import State

BATCHED = {
    "vector": torch.randn(3, 4),
    "scalars": torch.randn(3),
    "image": torch.randn(3, 2, 4, 5),
    "transposed": torch.randn(4, 3).T,
    "pair": (torch.randn(3, 2), torch.randn(3, 4, 1)),
    "one": (torch.randn(3, 2),),
    "empty": torch.randn(0, 4),
    "featureless": torch.randn(3, 0),
}
SINGLE = {
    "scalar": torch.tensor(2.0),
    "graph": torch.randn(6, 2),
    "mixed": (torch.randn(6, 2), torch.tensor(1.0)),
}


@pytest.mark.parametrize(
    ("state", "batched"),
    [*((z, True) for z in BATCHED.values()), *((z, False) for z in SINGLE.values())],
    ids=[*BATCHED, *SINGLE],
)
def test_packing_is_undone_by_unpacking(state: State, batched: bool) -> None:
    layout = Layout.of(state, batched=batched)
    rows = layout.pack(state)
    assert rows.shape[0] == layout.samples
    assert rows.numel() == sum(part.numel() for part in tensors(state))
    back = layout.unpack(rows)
    assert type(back) is type(state)
    for part, original in zip(tensors(back), tensors(state), strict=True):
        assert torch.equal(part, original)
    assert torch.equal(layout.pack(back), rows)


def test_a_row_holds_its_sample_alone() -> None:
    state = BATCHED["pair"]
    rows = Layout.of(state).pack(state)
    for i in range(3):
        assert torch.equal(rows[i], torch.cat([part[i].flatten() for part in state]))


@pytest.mark.parametrize("samples", (0, 1, 7))
@pytest.mark.parametrize("state", BATCHED.values(), ids=list(BATCHED))
def test_a_narrowed_layout_is_that_of_as_many_samples(state: State, samples: int) -> None:
    other = like(state, tuple(torch.ones(samples, *part.shape[1:]) for part in tensors(state)))
    narrowed = Layout.of(state).narrowed(samples)
    assert narrowed == Layout.of(other)
    assert narrowed.samples == samples
    assert torch.equal(narrowed.pack(other), torch.ones(samples, narrowed.pack(other).shape[1]))
    assert narrowed.narrowed(Layout.of(state).samples) == Layout.of(state)


@pytest.mark.parametrize("rows", ([2], [0, 2], [1, 1]), ids=str)
def test_the_rows_of_some_samples_are_their_states(rows: list[int]) -> None:
    for state in (BATCHED[name] for name in ("vector", "scalars", "image", "pair", "one")):
        layout = Layout.of(state)
        few = layout.narrowed(len(rows)).unpack(layout.pack(state)[rows])
        assert type(few) is type(state)
        pairs = zip(tensors(few), tensors(state), strict=True)
        assert all(torch.equal(part, whole[rows]) for part, whole in pairs)


@pytest.mark.parametrize("state", SINGLE.values(), ids=list(SINGLE))
def test_a_state_of_one_sample_cannot_be_narrowed(state: State) -> None:
    layout = Layout.of(state, batched=False)
    assert layout.narrowed(0) is layout.narrowed(1) is layout


def test_packing_one_contiguous_tensor_copies_nothing() -> None:
    state = torch.randn(3, 2, 4)
    layout = Layout.of(state)
    assert layout.pack(state).data_ptr() == state.data_ptr()
    assert layout.unpack(layout.pack(state)).data_ptr() == state.data_ptr()


def test_lift_carries_a_map_to_rows() -> None:
    state = BATCHED["pair"]
    layout = Layout.of(state)
    doubled = layout.lift(lambda z: tuple(2 * part for part in z))(layout.pack(state))
    assert torch.equal(doubled, 2 * layout.pack(state))


@pytest.mark.parametrize("state", [*BATCHED.values(), *SINGLE.values()], ids=[*BATCHED, *SINGLE])
def test_zeros_and_detached_keep_the_form(state: State) -> None:
    state = like(state, tuple(part.clone().requires_grad_() for part in tensors(state)))
    for derived, factor in ((zeros_like(state), 0.0), (detach(state), 1.0)):
        assert isinstance(derived, Tensor) == isinstance(state, Tensor)
        for part, original in zip(tensors(derived), tensors(state), strict=True):
            assert not part.requires_grad
            assert torch.equal(part, factor * original)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ([torch.zeros(1)], TypeError, "got list"),
        (1.0, TypeError, "got float"),
        (None, TypeError, "got NoneType"),
        ((), TypeError, "at least one"),
        (torch.zeros(2, 1, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(2, 1, dtype=torch.complex64), TypeError, "complex64"),
        ((torch.zeros(2, 1), "z"), TypeError, "str"),
        ((torch.zeros(2, 1), torch.zeros(2, 1).double()), ValueError, "share one dtype"),
        ((torch.zeros(2, 1), torch.zeros(2, 1, device="meta")), ValueError, "one device"),
        ((torch.zeros(2, 1), torch.zeros(3, 1)), ValueError, "batched=False"),
        (torch.tensor(0.0), ValueError, "batched=False"),
    ],
)
def test_what_is_no_batched_state_is_refused(
    state: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Layout.of(state)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda z: z[:, :1], ValueError, r"\[\(2, 3\)\], got \[\(2, 1\)\]"),
        (lambda z: z.T, ValueError, r"got \[\(3, 2\)\]"),
        (lambda z: (z, z), ValueError, r"got \[\(2, 3\), \(2, 3\)\]"),
        (lambda z: z.double(), ValueError, "got torch.float64 on cpu; cast inside f"),
        (lambda z: z.to("meta"), ValueError, "got torch.float32 on meta"),
        (lambda z: z.argsort(), TypeError, "int64"),
        (lambda z: [z], TypeError, "got list"),
        (lambda z: None, TypeError, "got NoneType"),
        (lambda z: z.sum().item(), TypeError, "got float"),
    ],
)
def test_a_map_that_changes_the_form_is_refused(
    change: Callable[[Tensor], object], error: type[Exception], message: str
) -> None:
    state = torch.zeros(2, 3)
    layout = Layout.of(state)
    with pytest.raises(error, match=message):
        layout.lift(change)(layout.pack(state))


def test_norms_are_those_of_float64() -> None:
    residual, value = torch.randn(4, 7), torch.randn(4, 7)
    expected = residual.double().norm(dim=1)
    torch.testing.assert_close(absolute(residual, value).double(), expected)
    expected = expected / value.double().norm(dim=1)
    torch.testing.assert_close(relative(residual, value).double(), expected)


def test_the_relative_norm_is_zero_at_an_exact_fixed_point_only() -> None:
    zero, tiny = torch.zeros(1, 2), torch.full((1, 2), 1e-20)
    assert relative(zero, zero).item() == 0.0
    assert relative(tiny, zero).item() > 1.0


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    value = torch.full((1, 4096), 2000.0, dtype=dtype)  # its norm is beyond float16
    assert absolute(value, value).item() == 2000.0 * 64
    assert relative(value, value).item() == 1.0


def test_an_overflowing_norm_is_not_small() -> None:
    value = torch.full((1, 4), 1e20)
    assert not relative(value / 100, value).isfinite().any()
    assert not absolute(value, value).isfinite().any()
