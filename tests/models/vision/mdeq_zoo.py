"""Small MDEQs in float64 that tests share, and what they look at."""

from dataclasses import replace

import pytest
import torch

from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.mdeq import MDEQ, MDEQSpec

SINGLE = MDEQSpec(channels=(8,), expansion=2, groups=4, head=(), classes=5)
SPECS = {
    "single": SINGLE,
    "single-head": replace(SINGLE, head=(3,), features=6),
    "two": replace(SINGLE, channels=(4, 8), head=(2, 3), features=6),
    "two-pooled": replace(SINGLE, channels=(8, 4), strides=(2,)),
    "three": replace(SINGLE, channels=(4, 4, 8), strides=(1, 2), head=(1, 2, 3), features=6),
    "four": replace(SINGLE, channels=(4, 4, 4, 4), groups=2),
    "blocks": replace(SINGLE, channels=(4, 8), blocks=2),
}
each_spec = pytest.mark.parametrize("name", SPECS)


@torch.no_grad()
def model_of(name: str, **changes: object) -> MDEQ:
    """In evaluation mode, and as if trained: nothing learned is left at its start."""
    torch.manual_seed(1)
    model = MDEQ(replace(SPECS[name], **changes)).double().eval()
    for parameter in model.parameters():
        parameter.mul_(1.0 + 0.2 * torch.randn(parameter.shape))
        parameter.add_(0.02 * torch.randn(parameter.shape))
    return model


def images(samples: int = 3, height: int = 16, width: int = 24) -> ImageBatch:
    drawn = torch.Generator().manual_seed(2)
    image = torch.rand(samples, 3, height, width, dtype=torch.float64, generator=drawn)
    return ImageBatch(image, torch.arange(samples) % 5)


def states(model: MDEQ, samples: int = 3) -> tuple[torch.Tensor, ...]:
    """Random ones for `images`."""
    drawn = torch.Generator().manual_seed(3)
    zeros = model.initial(model.encode(images(samples)))
    return tuple(torch.randn(z.shape, dtype=z.dtype, generator=drawn) for z in zeros)


def close(ours: object, theirs: object, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
