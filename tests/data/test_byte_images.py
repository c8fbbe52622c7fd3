"""Images as bytes: the same batches as floats in memory, parts that copy nothing, fair splits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cdeq.data.byte_images import ByteImageSet, divide, stratified
from cdeq.data.images import ImageSet

CLASSES = ("a", "b", "c")


def images(count: int = 12, **settings: Tensor | str | None) -> ByteImageSet:
    image = torch.randint(0, 256, (count, 3, 4, 5), dtype=torch.uint8)
    given: Any = {"image": image, "label": torch.arange(count) % 3, "classes": CLASSES} | settings
    return ByteImageSet(**given)


def test_a_batch_is_that_of_floats_in_memory() -> None:
    ours = images()
    floats = ImageSet(ours.image.float() / 255, ours.label)
    rows = torch.tensor([7, 0, 7, 11])
    for one, other in zip(ours.take(rows), floats.take(rows), strict=True):
        assert torch.equal(one, other)


def test_every_byte_comes_back() -> None:
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    taken = ByteImageSet(image=image, label=torch.zeros(1).long(), classes=("a",)).take(
        torch.tensor([0])
    )
    assert torch.equal((255 * taken.image).round().byte(), image)
    assert (float(taken.image.min()), float(taken.image.max())) == (0.0, 1.0)


def test_a_part_of_a_part_is_a_part() -> None:
    whole, one, two = images(), torch.tensor([5, 3, 8, 1]), torch.tensor([2, 0])
    part = whole.part(one).part(two)
    wanted = whole.take(one[two])
    assert torch.equal(part.take(torch.arange(2)).image, wanted.image)
    assert torch.equal(part.labels, wanted.label) and len(part) == 2
    assert part.image.data_ptr() == whole.image.data_ptr()


@pytest.mark.parametrize("known", [None, "of all"])
def test_the_digest_is_of_images_classes_and_order(known: str | None) -> None:
    whole = images(pixels=known)
    rows = torch.tensor([3, 4])
    again = ByteImageSet(
        image=whole.image.clone(), label=whole.label.clone(), classes=CLASSES, pixels=known
    )
    assert again.digest() == whole.digest() == whole.part(torch.arange(12)).digest()
    different = {whole.digest(), whole.part(rows).digest(), whole.part(rows.flip(0)).digest()}
    assert len(different) == 3


def test_one_byte_or_class_changes_the_digest() -> None:
    whole = images()
    before = whole.digest()
    whole.image[3, 1, 2, 0] += 1
    changed = whole.digest()
    whole.label[0] = 2
    assert len({before, changed, whole.digest()}) == 3


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        ({"image": torch.zeros(12, 3, 4, 5)}, TypeError, "images are bytes.*got torch.float32"),
        ({"label": torch.zeros(12).int()}, TypeError, "labels int64; got torch.uint8 and torch.i"),
        ({"label": torch.arange(11) % 3}, ValueError, "12 images and 11 labels"),
        ({"label": torch.arange(12)}, ValueError, "0 to 2; image 3 has 3 .9 of 12 labels"),
        ({"label": torch.arange(-1, 11) % 4 - 1}, ValueError, "0 to 2; image 1 has -1 .3 of 12"),
        ({"image": torch.zeros(12, 3, 4).byte()}, ValueError, r"channels.*got \(12, 3, 4\)"),
        ({"rows": torch.zeros(0).long()}, ValueError, "at least one image.* and 0 rows of it"),
        ({"image": torch.zeros(0, 1, 2, 2).byte()}, ValueError, "at least one image"),
    ],
)
def test_bad_images_are_refused(changed, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        images(**changed)


LABELS = {
    "alike": torch.arange(60) % 3,
    "unlike": torch.repeat_interleave(torch.arange(4), torch.tensor([1, 7, 30, 101])),
    "missing": 2 * (torch.arange(50) % 2),
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("sizes", [(), (1,), (13, 7), (30, 1, 10)])
@pytest.mark.parametrize("seed", [0, 5])
def test_parts_are_disjoint_complete_and_in_proportion(
    label: Tensor, sizes: tuple[int, ...], seed: int
) -> None:
    parts = stratified(label, sizes, seed=seed)
    assert [len(part) for part in parts] == [*sizes, len(label) - sum(sizes)]
    assert torch.cat(parts).sort().values.tolist() == [*range(len(label))]
    left = label.bincount()
    for part in parts:
        counts = label[part].bincount(minlength=len(left))
        share = left * (len(part) / int(left.sum()))
        assert float((counts - share).abs().max()) < 1.0
        left = left - counts


def test_every_image_is_held_out_as_often() -> None:
    """A part of 6 of 24 takes each in a quarter of the draws, to within 5 standard deviations."""
    label, draws, seen = torch.arange(24) % 2, 400, torch.zeros(24)
    for seed in range(draws):
        seen[stratified(label, (6,), seed=seed)[0]] += 1
    assert float((seen / draws - 0.25).abs().max()) < 5 * (0.25 * 0.75 / draws) ** 0.5


def test_parts_are_drawn_or_given() -> None:
    train, official = images(60), images(30)
    one, two, three = divide(train, validation=0.1, test=official, seed=3)
    assert (len(one), len(two), len(three)) == (54, 6, 30)
    assert three.labels.bincount().tolist() == [10] * 3 and three.image is official.image
    one, two, three = divide(train, validation=official, test=0.2, seed=3)
    assert (len(one), len(two), len(three)) == (48, 30, 12) and two.image is official.image
    one, two, three = divide(train, validation=official, test=train, seed=3)
    assert (len(one), len(two), len(three)) == (60, 30, 60)


def test_the_first_of_a_part_are_of_all_classes() -> None:
    """Though the images lie in the order of their classes."""
    label = torch.arange(300) // 100
    whole = images(300, label=label)
    for part in divide(whole, validation=0.3, test=whole, seed=0):
        assert part.labels[:40].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_is_one(share: float) -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1; got \[.*\]"):
        divide(images(), validation=share, test=0.1, seed=0)


def test_a_share_of_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1 of 12 images.*got parts of \[0\]"):
        divide(images(), validation=0.01, test=images(), seed=0)
