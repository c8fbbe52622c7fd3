"""What MDEQ refuses, in one sentence each."""

from dataclasses import replace

import pytest
import torch
from models.vision.mdeq_zoo import SPECS
from torch import Tensor

from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.mdeq import MDEQ, MDEQSpec


def encoded(image: Tensor) -> None:
    model = MDEQ(replace(SPECS["three"], groups=4))
    model.encode(ImageBatch(image, torch.zeros(len(image), dtype=torch.long)))


@pytest.mark.parametrize("size", [(20, 16), (16, 12), (4, 8), (0, 8), (8, 0)])
def test_a_size_that_the_stride_does_not_divide_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"multiples of 8; got \({size[0]}, {size[1]}\)"):
        encoded(torch.zeros(2, 3, *size))


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 4, 16, 16), (3, 16, 16)])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of shape \(b, 3, height, width\); got"):
        encoded(torch.zeros(shape))


@pytest.mark.parametrize(
    ("image", "came"),
    [
        (torch.zeros(2, 3, 16, 16, dtype=torch.float64), "torch.float64 on cpu"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "torch.uint8 on cpu"),
        (torch.zeros(2, 3, 16, 16, device="meta"), "torch.float32 on meta"),
    ],
)
def test_images_elsewhere_or_in_another_precision_are_refused(image: Tensor, came: str) -> None:
    with pytest.raises(ValueError, match=f"are torch.float32 on cpu; got images in {came}"):
        encoded(image)


COUNTS = ("blocks", "expansion", "groups", "features", "classes", "image_channels")


@pytest.mark.parametrize("name", [*COUNTS, "max_steps", "adjoint_steps"])
def test_counts_start_at_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is a count of at least 1; got 0"):
        MDEQSpec(**{name: 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": ()}, "`channels` are counts of at least 1"),
        ({"channels": (8, 0)}, "`channels` are counts of at least 1"),
        ({"strides": ()}, "`strides` are counts of at least 1"),
        ({"strides": (1, 0)}, "`strides` are counts of at least 1"),
        ({"head": (4, -1)}, "`head` are counts of at least 1"),
        ({"head": (4,)}, "`head` has one width for each"),
        ({"groups": 3, "channels": (6, 6)}, "`groups` are even"),
        ({"groups": 8, "channels": (8, 12)}, "divide all `channels`"),
        ({"mean": (0.5,)}, "`mean` has one number for each of the 3"),
        ({"deviation": (0.5,) * 4}, "`deviation` has one number for each of the 3"),
        ({"deviation": (0.5, 0.0, 0.5)}, "`deviation` divides, so it is above 0"),
        ({"dropout": 1.0}, r"`dropout` is a share in \[0, 1\)"),
        ({"dropout": -0.1}, r"`dropout` is a share in \[0, 1\)"),
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MDEQSpec(**settings)
