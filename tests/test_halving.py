"""Half the size, the same model to three digits, and never a half-written folder."""

from pathlib import Path

import pytest
import torch

from cdeq.errors import StoreError
from cdeq.halving import halve
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.pretrained import WEIGHTS


@pytest.fixture
def saved(tmp_path: Path) -> ContractionDEQ:
    torch.manual_seed(0)
    model = ContractionDEQ(ContractionSpec(channels=16))
    model.save_pretrained(tmp_path)
    return model


def test_the_file_is_half_as_large_and_halving_again_changes_nothing(saved, tmp_path) -> None:
    before = (tmp_path / WEIGHTS).stat().st_size
    halve(tmp_path)
    once = (tmp_path / WEIGHTS).read_bytes()
    assert len(once) < 0.6 * before
    halve(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == once


def test_the_model_is_the_same_to_three_digits_in_single_precision(saved, tmp_path) -> None:
    halve(tmp_path)
    again = ContractionDEQ.from_pretrained(tmp_path)
    for old, new in zip(saved.parameters(), again.parameters(), strict=True):
        assert new.dtype == torch.float32
        torch.testing.assert_close(new, old, rtol=5e-4, atol=1e-7)


def test_a_weight_that_is_too_large_changes_nothing(saved, tmp_path) -> None:
    with torch.no_grad():
        next(saved.parameters()).fill_(1e6)
    saved.save_pretrained(tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    with pytest.raises(StoreError, match="goes up to 65504"):
        halve(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before
