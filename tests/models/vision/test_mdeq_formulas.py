"""MDEQ's parts against their published formulas, computed by hand; its published sizes."""

from itertools import pairwise

import pytest
import torch
from models.vision.mdeq_zoo import SPECS, close, each_spec, images, model_of, states
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from cdeq.models.vision.blocks import Fusion, NormalisedConv, ResidualBlock
from cdeq.models.vision.mdeq import MDEQ, MDEQSpec
from cdeq.models.vision.mdeq_sizes import (
    single_stream_small,
    single_stream_tiny,
    small,
    tiny,
)
from cdeq.models.vision.stem import BottleneckHead, PooledHead


def plain(layer: NormalisedConv) -> nn.Module:
    """The same convolution by torch's own weight normalisation."""
    outputs, inputs, side, _ = layer.direction.shape
    theirs = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False).double()
    theirs = weight_norm(theirs)
    theirs.parametrizations.weight.original0.data = layer.length.data.view(-1, 1, 1, 1)
    theirs.parametrizations.weight.original1.data = layer.direction.data
    return theirs


def by_hand(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalisation, one sample and group after the other."""
    value = torch.empty_like(x)
    width = x.shape[1] // norm.num_groups
    for sample in range(len(x)):
        for group in range(norm.num_groups):
            part = slice(group * width, (group + 1) * width)
            one = x[sample, part]
            variance = (one - one.mean()).square().mean()
            value[sample, part] = (one - one.mean()) / (variance + norm.eps).sqrt()
    if norm.affine:
        value = value * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    return value


def block_by_hand(block: ResidualBlock, z: Tensor, injection: Tensor | float) -> Tensor:
    first, second = plain(block.first), plain(block.second)
    inner, outer, last = block.norms
    u = second(by_hand(inner, first(z)).clamp_min(0.0)) + injection
    return by_hand(last, (by_hand(outer, u) + z).clamp_min(0.0))


def path_by_hand(layers: list[nn.Module], z: Tensor, levels: int) -> Tensor:
    """`levels` > 0 goes up."""
    if levels > 0:
        value = by_hand(layers[1], torch.einsum("oi,bihw->bohw", layers[0].weight[..., 0, 0], z))
        return value.repeat_interleave(2**levels, dim=2).repeat_interleave(2**levels, dim=3)
    for i in range(-levels):
        z = F.conv2d(z, layers[3 * i].weight, stride=2, padding=1)
        z = by_hand(layers[3 * i + 1], z)
        z = z.clamp_min(0.0) if i < -levels - 1 else z
    return z


def fusion_by_hand(fusion: Fusion, z: list[Tensor]) -> list[Tensor]:
    values = []
    for i in range(len(z)):
        total = z[i].clone()
        for j in range(len(z)):
            if j != i:
                total += path_by_hand(list(fusion.paths[i][j]), z[j], j - i)
        mixed = plain(fusion.mixes[i])(total.clamp_min(0.0))
        values.append(by_hand(fusion.norms[i], mixed))
    return values


@torch.no_grad()
@pytest.mark.parametrize("injected", [True, False])
def test_a_block_is_the_published_one(injected: bool) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 5, 4).double()
    for parameter in block.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    z, injection = torch.randn(2, 3, 8, 6, 5, dtype=torch.float64)
    ours = block(z, block.prepare(injection if injected else None, None))
    close(ours, block_by_hand(block, z, injection if injected else 0.0))
    assert block.first.direction.shape == (40, 8, 3, 3), "five times as wide inside"


@torch.no_grad()
@each_spec
def test_an_evaluation_is_a_block_each_and_their_fusion(name: str) -> None:
    model = model_of(name)
    x, z, cell = model.encode(images()), states(model), model.deq.cell
    convolution, norm, _ = cell.injection
    injected = by_hand(norm, F.conv2d(x, convolution.weight)).clamp_min(0.0)
    values = []
    for i, (blocks, value) in enumerate(zip(cell.branches, z, strict=True)):
        for j, block in enumerate(blocks):
            value = block_by_hand(block, value, injected if i == j == 0 else 0.0)
        values.append(value)
    if cell.fusion is not None:
        values = fusion_by_hand(cell.fusion, values)
    close(model.bind(x)(z), tuple(values))


@torch.no_grad()
def test_the_last_normalisation_has_half_as_many_groups() -> None:
    cell = model_of("two").deq.cell
    assert [norm.num_groups for norm in cell.fusion.norms] == [2, 2]
    others = [m for m in cell.modules() if isinstance(m, nn.GroupNorm)]
    assert sorted(norm.num_groups for norm in others) == [2, 2] + [4] * (len(others) - 2)


@torch.no_grad()
def test_the_stem_is_normalised_pixels_convolutions_and_relu() -> None:
    mean, deviation = (0.125, 0.5, 0.75), (0.25, 0.375, 0.5)
    model = model_of("three", mean=mean, deviation=deviation)
    x = images().image
    x = torch.stack([(x[:, i] - mean[i]) / deviation[i] for i in range(3)], dim=1)
    layers = model.stem.layers
    for i, stride in enumerate((1, 2)):
        x = F.conv2d(x, layers[3 * i].weight, stride=stride, padding=1)
        x = by_hand(layers[3 * i + 1], x).clamp_min(0.0)
    close(model.encode(images()), x)


@torch.no_grad()
def test_a_head_gathers_all_resolutions_at_the_lowest() -> None:
    torch.manual_seed(0)
    head = BottleneckHead((8, 3), (2, 3), 6, 5).double()  # the first is as wide as it shall be
    z = [
        torch.randn(2, width, side, side, dtype=torch.float64) for width, side in ((8, 6), (3, 3))
    ]
    gathered = []
    for part, block in zip(z, head.bottlenecks, strict=True):
        narrow, first, _, middle, second, _, wide, third = block.layers
        inner = by_hand(first, narrow(part)).clamp_min(0.0)
        inner = by_hand(second, middle(inner)).clamp_min(0.0)
        beside = part
        if not isinstance(block.shortcut, nn.Identity):
            beside = by_hand(block.shortcut[1], block.shortcut[0](part))
        gathered.append((by_hand(third, wide(inner)) + beside).clamp_min(0.0))
    assert isinstance(head.bottlenecks[0].shortcut, nn.Identity)
    down = head.downs[0]
    lowest = gathered[1] + by_hand(down[1], down[0](gathered[0])).clamp_min(0.0)
    last = by_hand(head.last[1], head.last[0](lowest)).clamp_min(0.0)
    close(head(z), last.flatten(2).mean(2) @ head.output.weight.T + head.output.bias)


@torch.no_grad()
def test_a_pooled_head_is_linear_in_the_means() -> None:
    torch.manual_seed(0)
    head = PooledHead((2, 3), 5).double()
    z = [
        torch.randn(4, width, side, side, dtype=torch.float64) for width, side in ((2, 6), (3, 3))
    ]
    means = torch.tensor(
        [[float(map_.mean()) for part in z for map_ in part[b]] for b in range(4)]
    )
    close(head(z), means.double() @ head.output.weight.T + head.output.bias, 1e-6)


SIZES = {
    # as many as the released configurations', and what the paper's table says
    "tiny": (tiny(), 159_610, 170e3, 0.07),
    "small": (small(), 16_808_936, 18e6, 0.07),
    # widened here
    "single-tiny": (single_stream_tiny(), 162_530, 170e3, 0.05),
    "single-small": (single_stream_small(), 17_744_648, 18e6, 0.02),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_published_sizes(name: str) -> None:
    spec, exactly, published, within = SIZES[name]
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in MDEQ(spec).parameters())
    assert found == exactly
    assert abs(found / published - 1.0) < within


def counted(spec: MDEQSpec) -> int:
    """Parameters of a network with bottlenecks, from the widths alone."""
    channels, n = spec.channels, len(spec.channels)
    first, wide, inner = channels[0], [4 * w for w in spec.head], spec.expansion
    stem = 9 * spec.image_channels * first + 9 * first**2 + first**2 + 3 * 2 * first
    blocks = sum(
        18 * inner * c * c + inner * c + c + 2 * inner * c + 4 * c for c in channels
    )  # kernels, their lengths, three normalisations
    down = sum(
        9 * channels[j] ** 2 * (i - j - 1) + 2 * channels[j] * (i - j - 1)
        + 9 * channels[j] * channels[i] + 2 * channels[i]
        for i in range(n) for j in range(i)
    )  # fmt: skip
    up = sum(channels[j] * c + 2 * c for i, c in enumerate(channels) for j in range(i + 1, n))
    mixes = sum(c * c + c + 2 * c for c in channels)
    narrow = sum(
        c * w + 9 * w * w + 4 * w * w + (0 if c == 4 * w else 4 * w * c + 8 * w)
        for c, w in zip(channels, spec.head, strict=True)
    )
    gathered = sum(9 * a * b + 3 * b for a, b in pairwise(wide))
    last = wide[-1] * spec.features + 3 * spec.features
    output = spec.features * spec.classes + spec.classes
    return stem + blocks + down + up + mixes + narrow + gathered + last + output


@pytest.mark.parametrize("spec", [tiny(), small(), SPECS["two"], SPECS["three"]])
def test_sizes_follow_from_the_widths(spec: MDEQSpec) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in MDEQ(spec).parameters()) == counted(spec)
