"""Patches: three parts that share no pixel, always the same, degraded as the model believes."""

import math
import sys

import pytest
import torch
from torch import Tensor

from cdeq.data import patches
from cdeq.data.patches import CONTENT, PARTS, PatchSet, PatchSplits, flip, load_patches
from cdeq.digest import digest_of_tensors
from cdeq.errors import CDEQError
from cdeq.models.imaging.batch import DeblurBatch
from cdeq.models.imaging.blur import GaussianBlur

BLUR = GaussianBlur(sigma=2.0, radius=6, size=32)


@pytest.fixture(scope="module")
def splits() -> PatchSplits:
    return load_patches(BLUR, noise=0.005)


def test_the_parts_are_always_the_same(splits: PatchSplits) -> None:
    """Also across releases: another split would make the published numbers incomparable."""
    torch.manual_seed(7)
    for part, other in zip(splits, load_patches(BLUR, noise=0.005), strict=True):
        assert torch.equal(part.blurred, other.blurred) and torch.equal(part.sharp, other.sharp)
    # the luma weights have three decimals, so these are whole numbers on every machine
    whole = [(255_000 * (part.sharp + 0.5)).round().to(torch.int32) for part in splits]
    assert [digest_of_tensors(part)[:12] for part in whole] == FIXED


FIXED = ["d281a175e80e", "12e4d6b1d96f", "d3c27264aeff"]


def test_strips_follow_one_another_without_overlap() -> None:
    edges = [(left, right) for left, right, _ in PARTS]
    assert edges[0][0] == 0 and edges[-1][1] == 640
    assert [right for _, right in edges[:-1]] == [left for left, _ in edges[1:]]


def test_every_pixel_is_from_the_strip_of_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs whose pixels say in which column they stand: no column is in two parts."""
    column = torch.arange(640.0) + 0.5 * (torch.arange(427.0) % 2).unsqueeze(1)
    monkeypatch.setattr(patches, "_photographs", lambda: column.expand(2, 427, 640))
    parts = load_patches(BLUR, noise=0.0)
    seen = [set(part.sharp.floor().unique().tolist()) for part in parts]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    for columns, (left, right, _) in zip(seen, PARTS, strict=True):
        assert columns <= set(range(left, right))


def test_patches_have_content_in_the_range_of_light(splits: PatchSplits) -> None:
    for part in splits:
        assert float(part.sharp.flatten(1).std(1).min()) > CONTENT
        assert -0.5 <= float(part.sharp.min()) < float(part.sharp.max()) <= 0.5


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.1])
def test_the_degradation_is_the_blur_and_white_noise(noise: float) -> None:
    part = load_patches(BLUR, noise=noise).train
    rest = part.blurred - BLUR(part.sharp)
    assert float(rest.std()) == pytest.approx(noise, rel=0.01, abs=1e-7)
    beside = (rest[..., 1:] * rest[..., :-1]).mean()
    assert float(beside.abs()) <= 0.01 * noise**2 + 1e-12


def test_the_parts_have_noise_of_their_own(splits: PatchSplits) -> None:
    first = [(part.blurred - BLUR(part.sharp))[0] for part in splits]
    assert float((first[0] - first[1]).std()) > 0.005 < float((first[0] - first[2]).std())


@pytest.mark.parametrize("limit", [1, 10, 150, 10_000])
def test_a_limit_keeps_some_evenly_spread(splits: PatchSplits, limit: int) -> None:
    for part, whole in zip(load_patches(BLUR, noise=0.005, limit=limit), splits, strict=True):
        count = min(limit, len(whole))
        kept = torch.arange(count) * len(whole) // count
        assert torch.equal(part.sharp, whole.sharp[kept])
        assert torch.equal(part.blurred, whole.blurred[kept])


def test_a_batch_is_the_rows_asked_for(splits: PatchSplits) -> None:
    rows = torch.tensor([5, 0, 5])
    batch = splits.test.take(rows)
    assert torch.equal(batch.blurred, splits.test.blurred[rows])
    assert torch.equal(batch.sharp, splits.test.sharp[rows])


def test_a_flip_is_one_of_eight_and_keeps_the_blur_right() -> None:
    sharp = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    blur, generator = GaussianBlur(sigma=1.5, radius=4, size=8), torch.Generator().manual_seed(1)
    flips = [flip(DeblurBatch(blur(sharp), sharp), generator) for _ in range(100)]
    assert len({tuple(flipped.sharp.flatten().tolist()) for flipped in flips}) == 8
    for flipped in flips:
        torch.testing.assert_close(blur(flipped.sharp), flipped.blurred)
        assert torch.equal(flipped.sharp.flatten().sort()[0], sharp.flatten().sort()[0])


def spoilt(value: float) -> Tensor:
    image = torch.zeros(4, 1, 2, 2)
    image[[1, 3], 0, 1, 0] = value
    return image


CLEAN = torch.zeros(4, 1, 2, 2)


@pytest.mark.parametrize(
    ("blurred", "sharp", "text"),
    [
        (CLEAN[:0], CLEAN[:0], "at least one patch; got none"),
        (CLEAN, CLEAN[:3], r"its sharp one, .* got shapes \(4, 1, 2, 2\) and \(3, 1, 2, 2\)"),
        (CLEAN, torch.zeros(4, 1, 2, 3), r"of the same size; got .* and \(4, 1, 2, 3\)"),
        (spoilt(math.nan), CLEAN, "finite numbers; 2 patches hold NaN or infinity"),
        (CLEAN, spoilt(-math.inf), "finite numbers; 2 patches hold NaN or infinity"),
    ],
)
def test_bad_patches_are_refused(blurred: Tensor, sharp: Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PatchSet(blurred, sharp)


@pytest.mark.parametrize(
    ("blurred", "sharp"),
    [(CLEAN.byte(), CLEAN.byte()), (CLEAN, CLEAN.double()), (CLEAN, CLEAN.long())],
)
def test_other_kinds_of_numbers_are_refused(blurred: Tensor, sharp: Tensor) -> None:
    with pytest.raises(TypeError, match=f"alike; got {blurred.dtype} and {sharp.dtype}"):
        PatchSet(blurred, sharp)


@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf])
def test_impossible_noise_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="`noise` is a standard deviation ≥ 0; got"):
        load_patches(BLUR, noise=noise)


def test_patches_wider_than_a_strip_are_refused() -> None:
    with pytest.raises(ValueError, match="strips of 80 columns or more; got patches of 81"):
        load_patches(GaussianBlur(sigma=1.0, radius=1, size=81), noise=0.0)


def test_missing_pillow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CDEQError, match=r"pillow, which is missing; install cdeq\[train\]"):
        load_patches(BLUR, noise=0.0)
