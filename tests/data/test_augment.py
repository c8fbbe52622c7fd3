"""Augmentation: moves are exact, draws are fair and the generator's own, labels stay."""

import math
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from cdeq.data.augment import Augmentation
from cdeq.data.colours import brightened, contrasted, grey, random_factors, saturated
from cdeq.data.image_moves import painted, random_boxes, random_crop, random_flip, resized_crop
from cdeq.models.vision.batch import ImageBatch

EVERYTHING = Augmentation(
    padding=2,
    scale=(0.3, 1.0),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    erasing=0.5,
    fill=0.5,
)
SINGLE = [
    Augmentation(padding=2),
    Augmentation(scale=(0.3, 1.0)),
    Augmentation(flip=0.5),
    Augmentation(brightness=0.4),
    Augmentation(contrast=0.4),
    Augmentation(saturation=0.4),
    Augmentation(erasing=0.5),
]


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 6, channels: int = 3, height: int = 9, width: int = 7) -> ImageBatch:
    return ImageBatch(torch.rand(count, channels, height, width), torch.arange(count))


@pytest.mark.parametrize("seed", [0, 1])
def test_by_default_nothing_changes_and_nothing_is_drawn(seed: int) -> None:
    images, generator = batch(), drawn(seed)
    after = Augmentation()(images, generator)
    assert torch.equal(after.image, images.image)
    assert torch.equal(generator.get_state(), drawn(seed).get_state())


@pytest.mark.parametrize("augment", [*SINGLE, EVERYTHING], ids=repr)
def test_the_generator_alone_decides(augment: Augmentation) -> None:
    images = batch(32)
    before = images.image.clone()
    first = augment(images, drawn(3))
    torch.manual_seed(99)
    assert torch.equal(augment(images, drawn(3)).image, first.image)
    assert not torch.equal(augment(images, drawn(4)).image, first.image)
    assert torch.equal(images.image, before)
    assert torch.equal(first.label, images.label)


@pytest.mark.parametrize("augment", [*SINGLE, EVERYTHING], ids=repr)
def test_images_are_drawn_for_one_by_one(augment: Augmentation) -> None:
    """Copies of an image become different ones."""
    one = batch(1).image
    after = augment(ImageBatch(one.expand(40, -1, -1, -1), torch.zeros(40).long()), drawn())
    assert len({tuple(image.flatten().tolist()) for image in after.image}) > 1


@pytest.mark.parametrize("augment", [*SINGLE, EVERYTHING], ids=repr)
def test_pixels_stay_between_black_and_white(augment: Augmentation) -> None:
    extreme = batch(16)._replace(image=torch.rand(16, 3, 9, 7).round())
    after = augment(extreme, drawn()).image
    assert after.shape == extreme.image.shape and after.dtype is torch.float32
    assert 0.0 <= float(after.min()) and float(after.max()) <= 1.0


def offsets_of_crop(padding: int, count: int, fill: float = 0.0) -> list[tuple[int, int]]:
    """By how much each of many copies was moved, found by comparison with all moves."""
    height, width = 5, 4
    image = torch.rand(1, 2, height, width) + 1.0
    padded = F.pad(image[0], (padding,) * 4, value=fill)
    moves = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            move = padded[:, top : top + height, left : left + width]
            moves[tuple(move.flatten().tolist())] = (top, left)
    moved = random_crop(image.expand(count, -1, -1, -1), padding, fill, drawn())
    return [moves[tuple(each.flatten().tolist())] for each in moved]


@pytest.mark.parametrize("fill", [0.0, 0.25])
def test_a_crop_moves_pixels_exactly_and_every_offset_alike(fill: float) -> None:
    """25 offsets, each within 5 standard deviations of a 25th of the draws."""
    draws = 5000
    counts = Counter(offsets_of_crop(2, draws, fill))
    assert len(counts) == 25
    spread = (draws * (1 / 25) * (24 / 25)) ** 0.5
    assert max(abs(count - draws / 25) for count in counts.values()) < 5 * spread


def test_a_crop_moves_every_image_as_if_it_were_alone() -> None:
    """Rows of a batch are not mixed up."""
    image = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 5, 5)
    after = random_crop(image, 3, -1.0, drawn())
    for number, each in enumerate(after):
        assert set(each.unique().tolist()) <= {-1.0, float(number)}


def test_a_flip_mirrors_with_its_probability() -> None:
    image = torch.rand(2000, 1, 2, 3)
    after = random_flip(image, 0.3, drawn())
    mirrored = (after == image.flip(3)).flatten(1).all(1)
    assert bool(((after == image).flatten(1).all(1) ^ mirrored).all())
    assert abs(int(mirrored.sum()) - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5


def test_certain_flips_undo_each_other() -> None:
    image = batch().image
    once = random_flip(image, 1.0, drawn())
    assert torch.equal(once, image.flip(3))
    assert torch.equal(random_flip(once, 1.0, drawn(1)), image)


SIZES = [(32, 32), (20, 50)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_boxes_are_inside_and_as_large_and_wide_as_asked(height: int, width: int) -> None:
    image = torch.zeros(3000, 1, height, width)
    boxes = random_boxes(image, (0.1, 0.4), (0.5, 2.0), drawn())
    assert torch.equal(boxes, boxes.round())
    top, left, tall, wide = boxes.unbind(1)
    for begin, length, side in ((top, tall, height), (left, wide, width)):
        assert float(begin.min()) == 0.0 and float((begin + length).max()) == side
    whole = height * width
    # sides are whole pixels, so that shares and ratios are met to within half a pixel
    half = 0.5 * (tall + wide)
    assert bool((tall * wide + half >= 0.1 * whole).all())
    assert bool((tall * wide - half - 1 <= 0.4 * whole).all())
    assert bool(((wide + 0.5) / (tall - 0.5) >= 0.5).all())
    assert bool(((wide - 0.5) / (tall + 0.5) <= 2.0).all())


def test_shares_are_uniform_and_shapes_log_uniform() -> None:
    """Their means over 4,000 boxes that all fit, to within 5 standard deviations."""
    image = torch.zeros(1).expand(4000, 1, 1000, 1000)
    _, _, tall, wide = random_boxes(image, (0.1, 0.4), (0.5, 2.0), drawn()).unbind(1)
    share, shape = tall * wide / 1e6, (wide / tall).log()
    assert abs(float(share.mean()) - 0.25) < 5 * (0.3 / 12**0.5) / 4000**0.5
    assert abs(float(shape.mean())) < 5 * (2 * math.log(2) / 12**0.5) / 4000**0.5
    assert float(share.std()) == pytest.approx(0.3 / 12**0.5, rel=0.05)
    assert float(shape.std()) == pytest.approx(2 * math.log(2) / 12**0.5, rel=0.05)


def test_places_of_boxes_are_uniform() -> None:
    image = torch.zeros(5000, 1, 10, 10)
    boxes = random_boxes(image, (0.25, 0.25), (1.0, 1.0), drawn())
    assert set(boxes[:, 2:].flatten().tolist()) == {5.0}
    for begins in boxes[:, :2].T.long():
        counts = begins.bincount(minlength=6)
        assert len(counts) == 6
        assert float((counts - 5000 / 6).abs().max()) < 5 * (5000 * 5 / 36) ** 0.5


def test_boxes_that_never_fit_are_cut_down() -> None:
    boxes = random_boxes(torch.zeros(9, 1, 4, 400), (1.0, 1.0), (1.0, 1.0), drawn())
    _, left, tall, wide = boxes.unbind(1)
    assert tall.tolist() == [4.0] * 9 and wide.tolist() == [40.0] * 9
    assert float((left + wide).max()) <= 400


def test_the_whole_image_is_itself() -> None:
    image = batch().image
    boxes = torch.tensor([[0.0, 0.0, 9.0, 7.0]]).expand(6, 4)
    torch.testing.assert_close(resized_crop(image, boxes), image, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("box", [(0, 0, 9, 7), (2, 1, 4, 5), (8, 6, 1, 1), (0, 3, 9, 1)])
def test_a_resized_crop_is_the_crop_resized(box: tuple[int, int, int, int]) -> None:
    """As if what is beside it were not there."""
    image, (top, left, tall, wide) = batch().image, box
    ours = resized_crop(image, torch.tensor([box]).float().expand(6, 4))
    alone = image[:, :, top : top + tall, left : left + wide]
    wanted = F.interpolate(alone, (9, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0.0)


def test_every_image_has_its_own_box() -> None:
    image = batch(3).image
    boxes = torch.tensor([[0.0, 0.0, 3.0, 3.0], [2.0, 1.0, 4.0, 5.0], [8.0, 6.0, 1.0, 1.0]])
    together = resized_crop(image, boxes)
    for number in range(3):
        own = slice(number, number + 1)
        torch.testing.assert_close(together[own], resized_crop(image[own], boxes[own]))


def test_what_is_painted_is_the_box_and_nothing_else() -> None:
    image = torch.rand(3, 2, 5, 6)
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 6.0], [4.0, 5.0, 1.0, 1.0]])
    wanted = image.clone()
    wanted[0, :, 1:4, 2:6] = 0.5
    wanted[2, :, 4, 5] = 0.5
    chosen = torch.tensor([True, False, True])
    assert torch.equal(painted(image, boxes, chosen, 0.5), wanted)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_patches_are_painted_with_their_probability(probability: float) -> None:
    image = ImageBatch(torch.full((2000, 1, 8, 8), 2.0), torch.zeros(2000).long())
    augment = Augmentation(erasing=probability, erased=(0.25, 0.25), patch=(1.0, 1.0), fill=1.0)
    filled = (augment(image, drawn()).image == 1.0).flatten(1).sum(1)
    assert set(filled.tolist()) <= {0, 16}  # cutout: a square of four by four
    hit = int((filled == 16).sum())
    assert abs(hit - 2000 * probability) <= 5 * (2000 * probability * (1 - probability)) ** 0.5


COLOURS = [brightened, contrasted, saturated]


@pytest.mark.parametrize("change", COLOURS)
def test_a_factor_of_one_changes_no_colour(change) -> None:
    image = batch().image
    torch.testing.assert_close(change(image, torch.ones(6)), image, atol=1e-6, rtol=0.0)


def test_colours_move_away_from_their_centre() -> None:
    """Written out for single pixels of a soft picture, which nothing is cut off from."""
    image = 0.4 + 0.2 * torch.rand(2, 3, 4, 4)
    factors = torch.tensor([0.5, 1.5])
    bright, contrast, saturation = (change(image, factors) for change in COLOURS)
    for b, factor in enumerate(factors.tolist()):
        lumas = 0.299 * image[b, 0] + 0.587 * image[b, 1] + 0.114 * image[b, 2]
        for y, x in ((0, 1), (3, 2)):
            old = image[b, 1, y, x].item()
            luma, mean = lumas[y, x].item(), lumas.mean().item()
            assert bright[b, 1, y, x].item() == pytest.approx(factor * old, abs=1e-6)
            wanted = mean + factor * (old - mean)
            assert contrast[b, 1, y, x].item() == pytest.approx(wanted, abs=1e-6)
            wanted = luma + factor * (old - luma)
            assert saturation[b, 1, y, x].item() == pytest.approx(wanted, abs=1e-6)


def test_contrast_and_saturation_keep_grey() -> None:
    image = 0.4 + 0.2 * torch.rand(2, 3, 4, 4)
    factors = torch.tensor([0.2, 1.9])
    torch.testing.assert_close(grey(saturated(image, factors)), grey(image))
    torch.testing.assert_close(
        grey(contrasted(image, factors)).mean((2, 3)), grey(image).mean((2, 3))
    )


def test_grey_images_have_no_saturation() -> None:
    image = batch(channels=1).image
    assert torch.equal(saturated(image, torch.rand(6)), image)


def test_other_channels_have_no_contrast() -> None:
    with pytest.raises(ValueError, match="red, green and blue, or of grey; got images of 2 chan"):
        Augmentation(contrast=0.1)(batch(channels=2), drawn())


@pytest.mark.parametrize(("strength", "low"), [(0.4, 0.6), (2.0, 0.0)])
def test_factors_are_uniform(strength: float, low: float) -> None:
    factors = random_factors(torch.zeros(4000, 1, 1, 1), strength, drawn())
    span = 1.0 + strength - low
    assert low <= float(factors.min()) and float(factors.max()) <= 1.0 + strength
    assert abs(float(factors.mean()) - (low + span / 2)) < 5 * span / 12**0.5 / 4000**0.5
    assert float(factors.std()) == pytest.approx(span / 12**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"padding": -1}, "`padding` is a number of pixels ≥ 0; got -1"),
        ({"flip": 1.1}, r"`flip` lies in \[0, 1\]; got 1.1"),
        ({"erasing": -0.1}, r"`erasing` lies in \[0, 1\]; got -0.1"),
        ({"fill": math.nan}, r"`fill` lies in \[0, 1\]; got nan"),
        ({"contrast": -1.0}, "`contrast` is a strength ≥ 0; got -1.0"),
        ({"brightness": math.inf}, "`brightness` is a strength ≥ 0; got inf"),
        ({"scale": (0.0, 1.0)}, "`scale` is two numbers 0 < low ≤ high ≤ 1; got 0.0 and 1.0"),
        ({"scale": (0.5, 1.1)}, "`scale` is two numbers 0 < low ≤ high ≤ 1; got 0.5 and 1.1"),
        ({"erased": (0.5, 0.4)}, "`erased` is two numbers .* got 0.5 and 0.4"),
        ({"ratio": (1.0, math.inf)}, "`ratio` is two numbers 0 < low ≤ high, both finite; got 1"),
        ({"patch": (-1.0, 1.0)}, "`patch` is two numbers .* got -1.0 and 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Augmentation(**settings)


@pytest.mark.gpu
@pytest.mark.parametrize("augment", [*SINGLE, EVERYTHING], ids=repr)
def test_a_device_changes_images_alike(augment: Augmentation, device: torch.device) -> None:
    images = batch()
    there = augment(ImageBatch(*(part.to(device) for part in images)), drawn()).image
    torch.testing.assert_close(there.cpu(), augment(images, drawn()).image, atol=1e-5, rtol=1e-5)
