"""AlexNet, BN-Inception and HRNet: published sizes, and the laws that all three keep."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cdeq.errors import StoreError
from cdeq.models.vision.alexnet import AlexNet, AlexNetSpec
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.bn_inception import BLOCKS, BNInception, BNInceptionSpec
from cdeq.models.vision.explicit import ExplicitImageModel, ExplicitImageSpec
from cdeq.models.vision.hrnet import Exchange, HRNet, HRNetSpec

KINDS = {kind.Spec: kind for kind in (AlexNet, BNInception, HRNet)}
PIXELS = {"classes": 4, "mean": (0.4, 0.5, 0.6), "deviation": (0.2, 0.3, 0.25)}
ALEXNET = AlexNetSpec(
    **PIXELS, widths=(6, 8, 6, 8, 5), hidden=12, kernel=3, stride=1, padding=1, pooled=2
)
NARROW = {**PIXELS, "stem": 4, "first": 2, "blocks": 1, "features": 8}
HRNET = HRNetSpec(**NARROW, strides=(1, 1), widths=(3, 4, 5), modules=(1, 2), head=(1, 2, 3))
SPECS: dict[str, ExplicitImageSpec] = {
    "alexnet": replace(ALEXNET, kernel=11, stride=4, padding=2),
    "alexnet-small": ALEXNET,
    "inception": BNInceptionSpec(**PIXELS, width=1 / 32),
    "inception-small": BNInceptionSpec(**PIXELS, width=1 / 32, small=True),
    "hrnet": replace(HRNET, strides=(2, 2), widths=(3, 4), modules=(2,), head=(2, 3)),
    "hrnet-small": HRNET,
}
each_model = pytest.mark.parametrize("name", SPECS)
PUBLISHED = (AlexNetSpec(), BNInceptionSpec(), HRNetSpec())


def made(spec: ExplicitImageSpec) -> ExplicitImageModel:
    return KINDS[type(spec)](spec)


@cache
def empty(spec: ExplicitImageSpec) -> ExplicitImageModel:
    """Of sizes alone, without numbers."""
    with torch.device("meta"):
        return made(spec)


@torch.no_grad()
def model_of(name: str, **changes: object) -> ExplicitImageModel:
    """In float64, in evaluation, and as if trained: nothing learned is left at its start."""
    torch.manual_seed(1)
    model = made(replace(SPECS[name], **changes)).double().train()
    for parameter in model.parameters():
        parameter.mul_(1.0 + 0.2 * torch.randn(parameter.shape))
        parameter.add_(0.05 * torch.rand(parameter.shape))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # all of the one batch that it meets
    model(images_for(name))
    return model.eval()


def images_for(name: str, samples: int = 3) -> ImageBatch:
    """Of odd sides, since even ones are easier."""
    side = SPECS[name].smallest | 1
    drawn = torch.Generator().manual_seed(2)
    image = torch.rand(samples, 3, side, side + 6, dtype=torch.float64, generator=drawn)
    return ImageBatch(image, torch.arange(samples) % 4)


def close(ours: object, theirs: object) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# Published sizes


@pytest.mark.parametrize(
    ("spec", "count"),
    [*zip(PUBLISHED, (61_100_840, 11_285_224, 21_299_004), strict=True)],
    ids=["alexnet", "inception", "hrnet"],
)
def test_parameters_are_as_many_as_published(spec: ExplicitImageSpec, count: int) -> None:
    assert sum(parameter.numel() for parameter in empty(spec).parameters()) == count


def test_inception_is_of_the_published_size() -> None:
    model = empty(BNInceptionSpec())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert abs(count / 11.3e6 - 1) < 0.01
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    # the released networks have biases before their normalisations
    assert count + sum(layer.out_channels for layer in convolutions) == 11_295_240


def test_inception_blocks_have_the_channels_of_the_paper() -> None:
    found = accumulate(BLOCKS.values(), lambda inputs, block: block.outputs(inputs), initial=192)
    assert list(found)[1:] == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]


@pytest.mark.parametrize(("small", "side", "pooled"), [(False, 224, 7), (True, 32, 8)])
def test_inception_pools_the_published_sides(small: bool, side: int, pooled: int) -> None:
    model = empty(BNInceptionSpec(small=small))
    features = model.features(torch.zeros(1, 3, side, side, device="meta"))
    assert features.shape == (1, 1024, pooled, pooled)


@pytest.mark.parametrize(("side", "sides"), [(224, (56, 28, 14, 7)), (129, (33, 17, 9, 5))])
def test_hrnet_keeps_every_resolution(side: int, sides: tuple[int, ...]) -> None:
    found = empty(HRNetSpec()).pyramid(torch.zeros(1, 3, side, side, device="meta"))
    expected = zip((18, 36, 72, 144), sides, strict=True)
    assert [part.shape for part in found] == [(1, width, n, n) for width, n in expected]


# What depends on what


@each_model
@torch.no_grad()
def test_samples_do_not_see_one_another_in_evaluation(name: str) -> None:
    model, batch = model_of(name), images_for(name)
    together = model(batch)
    for i in range(3):
        close(model(batch._replace(image=batch.image[i : i + 1])), together[i : i + 1])


@each_model
@torch.no_grad()
def test_pixels_are_normalised_first(name: str) -> None:
    plain = {"mean": (0, 0, 0), "deviation": (1, 1, 1)}
    batch = images_for(name)
    mean, deviation = (torch.tensor(PIXELS[key]).double() for key in plain)
    normalised = (batch.image.movedim(1, 3) - mean) / deviation
    bare, model = made(replace(SPECS[name], **plain)).double().eval(), model_of(name)
    bare.load_state_dict(model.state_dict())
    found = bare(batch._replace(image=normalised.movedim(3, 1)))
    torch.testing.assert_close(model(batch), found, rtol=1e-5, atol=1e-6)


def flipped(x: Tensor) -> Tensor:
    return x.flip(3)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3)


@torch.no_grad()
def turn(model: ExplicitImageModel, move: Callable[[Tensor], Tensor]) -> None:
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.copy_(move(parameter).clone())
    if isinstance(model, AlexNet):
        weight, pooled = model.perceptron[0].weight, model.spec.pooled
        image = weight.view(len(weight), -1, pooled, pooled)
        weight.copy_(move(image).reshape(weight.shape).clone())


# of such widths every window lies symmetrically; HRNet's repetition of pixels never does
FLIPS = {"alexnet-small": 31, "inception": 33, "inception-small": 9}


@pytest.mark.parametrize(
    ("name", "move", "width"),
    [(n, transposed, 71) for n in SPECS] + [(n, flipped, FLIPS[n]) for n in FLIPS],
)
@torch.no_grad()
def test_turned_kernels_see_the_same_in_turned_images(
    name: str, move: Callable[[Tensor], Tensor], width: int
) -> None:
    model, batch = model_of(name), images_for(name)
    image = torch.rand(2, 3, batch.image.shape[2], width).double()
    expected = model(batch._replace(image=image))
    turn(model, move)
    close(model(batch._replace(image=move(image))), expected)
    other = image.flip(2) if move is flipped else image
    assert not torch.allclose(model(batch._replace(image=other)), expected)


@torch.no_grad()
def test_a_fusion_is_a_sum_over_resolutions() -> None:
    sides = (9, 5, 3)
    module = Exchange((2, 2, 2), blocks=1).double().eval()
    z = tuple(torch.rand(2, 2, side, side).double() for side in sides)
    u = [unit(part) for unit, part in zip(module.units, z, strict=True)]
    for end, found in enumerate(module(z)):
        place = torch.arange(sides[end])
        expected = u[end]
        for start in {0, 1, 2} - {end}:
            part = module.paths[end][start](u[start])
            source = place * part.shape[2] // sides[end]
            expected = expected + part[:, :, source][:, :, :, source]
        close(found, expected.clamp_min(0))


# Losses, gradients, training


@each_model
@torch.no_grad()
def test_losses_are_cross_entropies(name: str) -> None:
    model, batch = model_of(name), images_for(name)
    logits = model(batch)
    expected = logits.exp().sum(1).log() - logits[torch.arange(3), batch.label]
    close(model.losses(batch), expected)
    close(model.loss(logits, batch), expected)


@each_model
def test_every_parameter_learns(name: str) -> None:
    model = model_of(name)
    model(images_for(name)).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 1e-9 for parameter in model.parameters())


@torch.no_grad()
def test_training_normalises_biases_away() -> None:
    model, batch = model_of("hrnet-small").train(), images_for("hrnet-small")
    expected = model(batch)
    biased = [*model.head.downs, model.head.last]
    for convolution, *_ in biased:
        convolution.bias.add_(1.0)
    close(model(batch), expected)


@torch.no_grad()
def test_dropout_draws_in_training_alone() -> None:
    model, batch, found = model_of("alexnet-small"), images_for("alexnet-small"), []
    expected = model(batch)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model.train()(batch))
        assert torch.equal(model.eval()(batch), expected)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    close(model_of("alexnet-small", dropout=0.0).train()(batch), expected)


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        (replace(ALEXNET, widths=(8, 16, 16, 16, 16), hidden=32, dropout=0.0), 100),
        (BNInceptionSpec(classes=4, width=1 / 32, small=True), 40),
        (replace(HRNET, widths=(4, 8), modules=(1,), head=(2, 4), features=16), 60),
    ],
    ids=["alexnet", "inception", "hrnet"],
)
def test_networks_learn_a_few_images_by_heart(spec: ExplicitImageSpec, steps: int) -> None:
    torch.manual_seed(0)
    model, side = made(spec), max(8, spec.smallest)
    batch = ImageBatch(torch.rand(8, 3, side, side), torch.arange(8) % 4)
    adam = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses: list[float] = []
    for _ in range(steps):
        adam.zero_grad()
        loss = model.losses(batch).mean()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


@each_model
def test_a_network_comes_back(name: str, tmp_path: Path) -> None:
    model = model_of(name).float()
    model.save_pretrained(tmp_path)
    read = type(model).from_pretrained(tmp_path)
    assert read.spec == model.spec and not read.training
    assert all(torch.equal(read.state_dict()[key], t) for key, t in model.state_dict().items())
    batch = images_for(name)
    batch = batch._replace(image=batch.image.float())
    with torch.no_grad():
        assert torch.equal(read(batch), model(batch))
    other = HRNet if isinstance(model, AlexNet) else AlexNet
    with pytest.raises(StoreError, match=f"holds a {type(model).__name__}, not a"):
        other.from_pretrained(tmp_path)


# What is refused


@pytest.mark.parametrize("spec", [*PUBLISHED, *SPECS.values()])
def test_the_smallest_images_are_answered_and_no_smaller_ones(spec: ExplicitImageSpec) -> None:
    model, label = empty(spec).eval(), torch.zeros(1, dtype=torch.long, device="meta")
    side = spec.smallest
    image = torch.zeros(1, 3, side, side, device="meta")
    assert model(ImageBatch(image, label)).shape == (1, spec.classes)
    for few in (image[:, :, 1:], image[:, :, :, 1:]):
        with pytest.raises(ValueError, match=f"width are at least {side}; got"):
            model(ImageBatch(few, label))


def test_alexnet_refuses_no_images_that_it_could_answer() -> None:
    with pytest.raises(RuntimeError, match="too small"):
        empty(AlexNetSpec()).logits(torch.zeros(1, 3, 62, 62, device="meta"))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(2, 1, 64, 64), r"of shape \(b, 3, height, width\); got"),
        (torch.zeros(3, 64, 64), r"of shape \(b, 3, height, width\); got"),
        (torch.zeros(2, 3, 0, 64), r"at least \d+; got \(0, 64\)"),
        (torch.zeros(2, 3, 64, 64).double(), r"float32 on cpu; got images in torch\.float64"),
        (torch.zeros(2, 3, 64, 64).byte(), r"float32 on cpu; got images in torch\.uint8"),
        (torch.zeros(2, 3, 64, 64, device="meta"), r"got images in torch\.float32 on meta"),
    ],
    ids=["grey", "one", "empty", "double", "bytes", "elsewhere"],
)
def test_images_that_do_not_fit_are_refused(image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlexNet(ALEXNET)(ImageBatch(image, torch.zeros(len(image), dtype=torch.long)))


COUNTS = {
    AlexNetSpec: ("hidden", "kernel", "stride", "pooled"),
    HRNetSpec: ("stem", "first", "blocks", "features"),
}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        *(
            (kind, {name: 0}, f"`{name}` is a count of at least 1; got 0")
            for kind in KINDS
            for name in ("classes", "image_channels", *COUNTS.get(kind, ()))
        ),
        *((kind, {"mean": (0.5,)}, "`mean` has one number for each of the 3") for kind in KINDS),
        (BNInceptionSpec, {"deviation": (0.5,) * 4}, "`deviation` has one number for each"),
        (HRNetSpec, {"deviation": (0.5, 0.0, 0.5)}, "`deviation` divides, so it is above 0"),
        (AlexNetSpec, {"widths": (8,) * 4}, "`widths` are of five convolutions"),
        (AlexNetSpec, {"widths": (8, 8, 8, 0, 8)}, "`widths` are counts of at least 1"),
        (AlexNetSpec, {"padding": -1}, "`padding` is at least 0"),
        (AlexNetSpec, {"padding": 11}, "`padding` is at least 0 and below the `kernel`"),
        (AlexNetSpec, {"dropout": 1.0}, r"`dropout` is a share in \[0, 1\)"),
        (BNInceptionSpec, {"width": 0.0}, "`width` is a share of the channels"),
        (BNInceptionSpec, {"width": float("nan")}, "finite and above 0; got nan"),
        (HRNetSpec, {"strides": (2, 0)}, "`strides` are counts of at least 1"),
        (HRNetSpec, {"widths": (18,), "modules": ()}, "`modules` are counts of at least 1"),
        (HRNetSpec, {"modules": (1, 4)}, "`modules` has one count for each of the `widths` but"),
        (HRNetSpec, {"head": (32, 64)}, "`head` has one width for each of the `widths`"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
