"""Digests: equal exactly when names, dtypes, shapes and bytes are."""

import hashlib
import struct

import pytest
import torch
from torch import Tensor, nn

from cdeq.digest import digest_of, digest_of_tensors

NAMED = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3, 4]])}


def test_the_digest_is_the_sha256_of_names_dtypes_shapes_and_bytes() -> None:
    text = b"settings\0a\0torch.float32\0(2,)\0" + struct.pack("<2f", 1.0, 2.0)
    text += b"b\0torch.int64\0(1, 2)\0" + struct.pack("<2q", 3, 4)
    assert digest_of(NAMED, settings="settings") == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        {**NAMED, "a": torch.tensor([1.0, 2.5])},
        {**NAMED, "a": torch.tensor([2.0, 1.0])},
        {**NAMED, "a": NAMED["a"].view(torch.int32)},
        {**NAMED, "b": NAMED["b"].flatten()},
        {"a": NAMED["a"], "c": NAMED["b"]},
        {"a": NAMED["a"]},
        {},
    ],
)
def test_every_change_shows(changed: dict[str, Tensor]) -> None:
    assert digest_of(changed) != digest_of(NAMED)


def test_settings_show() -> None:
    assert digest_of(NAMED, settings="κ = 0.9") != digest_of(NAMED, settings="κ = 0.95")


def test_neither_the_order_of_names_nor_of_memory_shows() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    transposed = matrix.T.contiguous().T
    assert digest_of({"z": matrix, "a": matrix}) == digest_of({"a": matrix, "z": transposed})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.zeros(0, 3),
        torch.tensor([1.0], dtype=torch.bfloat16),
        torch.tensor([True]),
        torch.ones(2, requires_grad=True),
    ],
)
def test_any_dense_tensor_has_a_digest(tensor: Tensor) -> None:
    other = torch.cat([tensor.detach().flatten(), tensor.detach().new_ones(1)])
    assert digest_of_tensors(tensor) == digest_of_tensors(tensor.detach().clone())
    assert digest_of_tensors(tensor) != digest_of_tensors(other)


def test_a_module_is_its_state() -> None:
    module = nn.BatchNorm1d(3)
    before = digest_of(module)
    assert before == digest_of(module.state_dict())
    module(torch.randn(4, 3))
    assert digest_of(module) != before


def test_the_order_of_data_shows() -> None:
    assert digest_of_tensors(*NAMED.values()) != digest_of_tensors(*reversed(NAMED.values()))


@pytest.mark.parametrize("entry", [torch.eye(2).to_sparse(), [1.0], None])
def test_what_has_no_bytes_is_refused(entry: object) -> None:
    with pytest.raises(TypeError, match=r"dense tensors.*`adjacency`"):
        digest_of({"adjacency": entry})
