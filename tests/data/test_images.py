"""Images: a fixed, stratified, disjoint split, and no image that training could stumble over."""

import math

import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

from cdeq.data.images import ImageSet, ImageSplits, load_digits, shift
from cdeq.digest import digest_of_tensors


@pytest.fixture(scope="module")
def splits() -> ImageSplits:
    return load_digits()


def test_the_split_is_always_the_same(splits: ImageSplits) -> None:
    """Also across releases: another split would make the published numbers incomparable."""
    torch.manual_seed(7)
    again = load_digits()
    for part, other in zip(splits, again, strict=True):
        assert torch.equal(part.image, other.image) and torch.equal(part.label, other.label)
    assert [digest_of_tensors(part.image, part.label)[:12] for part in splits] == FIXED


FIXED = ["fd6dd75cc228", "8df46ac1b861", "a8c973e30082"]


def test_the_parts_are_all_of_the_digits_once(splits: ImageSplits) -> None:
    pixels, classes = sklearn_digits(return_X_y=True)
    whole = [
        (*image, label) for image, label in zip(pixels.tolist(), classes.tolist(), strict=True)
    ]
    parts = [
        (*image, label)
        for part in splits
        for image, label in zip(
            (16 * part.image).flatten(1).tolist(), part.label.tolist(), strict=True
        )
    ]
    assert sorted(parts) == sorted(whole)


def test_no_image_is_in_two_parts(splits: ImageSplits) -> None:
    """The collection itself has no duplicates, so equal pixels would be a leak."""
    seen = [{tuple(image) for image in part.image.flatten(1).tolist()} for part in splits]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_every_part_has_the_classes_in_proportion(splits: ImageSplits) -> None:
    whole = torch.cat([part.label for part in splits]).bincount() / 1797
    for part in splits:
        share = part.label.bincount(minlength=10) / len(part)
        assert float((share - whole).abs().max()) <= 1.01 / len(part)


def test_pixels_are_shares_of_full_ink(splits: ImageSplits) -> None:
    for part in splits:
        assert (float(part.image.min()), float(part.image.max())) == (0.0, 1.0)
        assert torch.equal(16 * part.image, (16 * part.image).round())


@pytest.mark.parametrize("limit", [1, 10, 100])
def test_a_limit_keeps_the_first(splits: ImageSplits, limit: int) -> None:
    for part, whole in zip(load_digits(limit=limit), splits, strict=True):
        assert torch.equal(part.image, whole.image[:limit])
        assert torch.equal(part.label, whole.label[:limit])


def test_a_batch_is_the_rows_asked_for(splits: ImageSplits) -> None:
    rows = torch.tensor([5, 0, 5])
    batch = splits.test.take(rows)
    assert torch.equal(batch.image, splits.test.image[rows])
    assert torch.equal(batch.label, splits.test.label[rows])


def spoilt(value: float) -> torch.Tensor:
    image = torch.zeros(4, 1, 2, 2)
    image[[1, 3], 0, 1, 0] = value
    return image


@pytest.mark.parametrize(
    ("image", "label", "text"),
    [
        (
            torch.zeros(0, 1, 2, 2),
            torch.zeros(0, dtype=torch.long),
            "at least one image; got none",
        ),
        (torch.zeros(3, 1, 2, 2), torch.arange(2), "one class; got 3 images and 2 labels"),
        (torch.zeros(3, 1, 2, 2), torch.arange(0), "one class; got 3 images and 0 labels"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([0, -4]), "count from 0; got the label -4"),
        (spoilt(math.nan), torch.arange(4), "finite numbers; 2 images hold NaN or infinity"),
        (spoilt(-math.inf), torch.arange(4), "finite numbers; 2 images hold NaN or infinity"),
    ],
)
def test_bad_images_are_refused(image: torch.Tensor, label: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ImageSet(image, label)


@pytest.mark.parametrize(
    ("image", "label", "came"),
    [
        (
            torch.zeros(2, 1, 2, 2, dtype=torch.uint8),
            torch.arange(2),
            "torch.uint8 and torch.int64",
        ),
        (torch.zeros(2, 1, 2, 2), torch.zeros(2), "torch.float32 and torch.float32"),
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int32), "torch.int32"),
    ],
)
def test_other_kinds_of_numbers_are_refused(
    image: torch.Tensor, label: torch.Tensor, came: str
) -> None:
    with pytest.raises(TypeError, match=f"floating-point numbers in .* got .*{came}"):
        ImageSet(image, label)


def test_shifts_are_all_nine_and_pull_in_nothing() -> None:
    image = torch.zeros(1, 1, 3, 3)
    image[..., 1, 1] = 1.0
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(shift(image, generator).flatten().tolist()) for _ in range(200)}
    single = {tuple(float(i == place) for i in range(9)) for place in range(9)}
    assert seen == single


def test_a_shift_moves_all_images_alike() -> None:
    images = torch.rand(5, 2, 4, 4)
    moved = shift(images, torch.Generator().manual_seed(3))
    for image, after in zip(images, moved, strict=True):
        alone = shift(image.unsqueeze(0), torch.Generator().manual_seed(3))
        assert torch.equal(after, alone[0])
