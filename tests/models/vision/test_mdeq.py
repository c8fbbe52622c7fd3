"""The laws of MDEQ: what depends on what, what stays fixed over a solve, gradients, misuse."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.vision.mdeq_zoo import SPECS, close, each_spec, images, model_of, states
from torch import Tensor

from cdeq import Anderson, Broyden, Phantom, Picard, bind, jacobian_penalty, solve, spectral_radius
from cdeq.core.adjoint import Implicit
from cdeq.evaluation.memory import peak_bytes
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.blocks import QUIET
from cdeq.models.vision.mdeq import MDEQ, MDEQSpec
from cdeq.models.vision.mdeq_sizes import single_stream_tiny, tiny

MULTI = [name for name, spec in SPECS.items() if len(spec.channels) > 1]
each_multi = pytest.mark.parametrize("name", MULTI)


# What depends on what


@each_spec
def test_every_resolution_hears_of_every_other_in_one_evaluation(name: str) -> None:
    model = model_of(name)
    f, z = model.bind(model.encode(images())), states(model)
    for i in range(len(z)):
        asked = tuple(part.clone().requires_grad_() for part in z)
        found = torch.autograd.grad(f(asked)[i].square().sum(), asked)
        assert all(bool((part.flatten(1).norm(dim=1) > 1e-6).all()) for part in found)


@each_multi
@torch.no_grad()
def test_only_the_highest_resolution_is_told_of_the_images(name: str) -> None:
    model = model_of(name)
    for paths in model.deq.cell.fusion.paths[1:]:
        for parameter in paths[0][-1].parameters():
            parameter.zero_()  # deaf to it
    one, other = images(), images()._replace(image=images().image.flip(0))
    z = states(model)
    first, second = (model.bind(model.encode(batch))(z) for batch in (one, other))
    assert not torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1:], second[1:], strict=True))


@each_spec
@pytest.mark.parametrize("train", [False, True])
@torch.no_grad()
def test_samples_do_not_see_one_another(name: str, train: bool) -> None:
    model, batch = model_of(name).train(train), images()
    together = model(batch)
    for i in range(3):
        alone = ImageBatch(batch.image[i : i + 1], batch.label[i : i + 1])
        close(model(alone), together[i : i + 1], 1e-7)


@each_spec
@torch.no_grad()
def test_a_model_takes_images_of_any_size_its_stride_divides(name: str) -> None:
    model = model_of(name)
    for height, width in ((16, 16), (8, 24), (48, 16)):
        if height % model.spec.stride == 0:
            batch = images(2, height, width)
            x = model.encode(batch)
            z = model.initial(x)
            stem = height * width // torch.tensor(model.spec.strides).prod() ** 2
            assert [part[0, 0].numel() * 4**i for i, part in enumerate(z)] == [stem] * len(z)
            assert [part.shape for part in model.bind(x)(z)] == [part.shape for part in z]
            assert model(batch).shape == (2, 5)


# What is fixed over a solve


@each_spec
@torch.no_grad()
def test_masks_are_drawn_once_a_solve(name: str) -> None:
    model = model_of(name, dropout=0.5)
    x, z = model.encode(images()), states(model)
    plain = model.bind(x)(z)
    model.train()
    one, other = model.bind(x), model.bind(x)
    first, second = one(z), other(z)
    for again in (one(z), one(z)):
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    for a, b, c in zip(first, second, plain, strict=True):
        assert not torch.equal(a, b)
        assert not torch.equal(a, c)
    model.eval()
    assert all(torch.equal(a, b) for a, b in zip(model.bind(x)(z), plain, strict=True))


@each_spec
@torch.no_grad()
def test_a_mask_strikes_the_second_convolution_of_every_block(name: str) -> None:
    """Every block, sample and number has a mask of its own, of the rate that was asked for."""
    model = model_of(name, dropout=0.25).train()
    x, shapes = model.encode(images()), [part.shape for part in states(model)]
    prepared = model.deq.cell.prepare(x)
    masks = [block.mask for branch in prepared.branches for block in branch]
    expected = [shape for shape in shapes for _ in range(model.spec.blocks)]
    assert [mask.shape for mask in masks] == expected
    for i, mask in enumerate(masks):
        assert set(mask.unique().tolist()) == {0.0, 1.0 / 0.75}
        assert abs(float((mask == 0.0).double().mean()) - 0.25) < 0.1
        assert not torch.equal(mask[0], mask[1])
        same = [other for other in masks[:i] if other.shape == mask.shape]
        assert not any(torch.equal(mask, other) for other in same)


@each_spec
@torch.no_grad()
def test_a_folded_cell_is_the_same_map(name: str) -> None:
    model = model_of(name)
    x, z, cell = model.encode(images()), states(model), model.deq.cell
    expected, learned = bind(cell, x)(z), sum(p.numel() for p in cell.parameters())
    for _ in range(2):  # folding again changes nothing
        cell.fold()
        close(bind(cell, x)(z), expected)
    spec = model.spec
    lengths = sum((spec.expansion + 1) * c * spec.blocks for c in spec.channels)
    mixed = sum(spec.channels) if len(spec.channels) > 1 else 0
    assert learned - sum(p.numel() for p in cell.parameters()) == lengths + mixed


@each_spec
@torch.no_grad()
def test_the_scale_of_a_direction_is_not_part_of_f(name: str) -> None:
    model, scaled = model_of(name), model_of(name)
    for key, parameter in scaled.named_parameters():
        if key.endswith("direction"):
            parameter.mul_(37.0)
    z = states(model)
    close(*(each.bind(each.encode(images()))(z) for each in (model, scaled)))


# The equilibrium


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "spec",
    [
        tiny(),
        single_stream_tiny(),
        replace(tiny(), channels=(8, 16, 32), head=()),
        replace(tiny(), channels=(16, 16, 32, 32), head=()),
    ],
    ids=["tiny", "single-stream", "three", "four"],
)
def test_a_fresh_model_has_an_equilibrium_that_solvers_find(spec: MDEQSpec, seed: int) -> None:
    """For noise instead of photographs; nothing is said of trained models or narrower ones."""
    torch.manual_seed(seed)
    model, batch = MDEQ(spec).eval(), images(2, 16, 16)
    with torch.no_grad():
        x = model.encode(batch._replace(image=batch.image.float()))
        f, z0 = model.bind(x), model.initial(x)
        runs = [solve(f, z0, solver, max_steps=40) for solver in (Anderson(), Picard(), Broyden())]
    worst = runs[0].errors.amax(1)
    assert float(worst[20]) < 1e-2 < 1.0 == float(worst[0])
    for run in runs:
        assert float(run.errors[-1].max()) < 1e-3
        close(run.z, runs[0].z, 1e-2)
    assert float(spectral_radius(f, runs[0].z).max()) < 1.0


@each_spec
@torch.no_grad()
def test_states_stay_bounded_wherever_they_start(name: str) -> None:
    """A normalised group of n numbers has the length √n, whatever went in."""
    model = model_of(name)
    f, z = model.bind(model.encode(images())), states(model)
    for scale in (0.0, 1.0, 1e3, 1e6):
        value = f(tuple(scale * part for part in z))
        cell = model.deq.cell
        lasts = cell.fusion.norms if cell.fusion else [cell.branches[0][-1].norms[-1]]
        for part, last in zip(value, lasts, strict=True):
            limit = (part[0].numel() ** 0.5) * (last.weight.abs().max() + last.bias.abs().max())
            assert float(part.flatten(1).norm(dim=1).max()) <= float(limit)


# Gradients


ADJOINTS = {"implicit": {}, "phantom": {"phantom": Phantom(steps=2, damping=0.5)}}


@each_spec
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_gradients_reach_every_parameter(name: str, adjoint: str) -> None:
    model = model_of(name, dropout=0.1, **ADJOINTS[adjoint]).train()
    assert type(model.deq.adjoint) is {"implicit": Implicit, "phantom": Phantom}[adjoint]
    model.loss(model(images()), images()).mean().backward()
    missing = [k for k, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not missing


@each_spec
def test_the_jacobian_can_be_penalised(name: str) -> None:
    """The penalty's gradient, which goes through f twice, against differences of it."""
    model = model_of(name)
    parameters, z = list(model.deq.cell.parameters()), states(model, 1)

    def penalty() -> Tensor:
        f = model.bind(model.encode(images(1)))
        return jacobian_penalty(f, z, generator=torch.Generator().manual_seed(0)).sum()

    gradients = torch.autograd.grad(penalty(), parameters, materialize_grads=True)
    way, h = [gradient / 10 for gradient in gradients], 1e-5
    moved = []
    for sign in (1.0, -1.0):
        for parameter, direction in zip(parameters, way, strict=True):
            parameter.data += sign * h * direction
        moved.append(penalty().detach())
        for parameter, direction in zip(parameters, way, strict=True):
            parameter.data -= sign * h * direction
    slope = sum((g * w).sum() for g, w in zip(gradients, way, strict=True))
    close((moved[0] - moved[1]) / (2 * h), slope, 1e-3)


@pytest.mark.parametrize("name", ["single", "two", "three"])
def test_implicit_gradients_are_unrolled_ones(name: str) -> None:
    """On a contraction: a fresh map that listens to states even less than it does."""
    torch.manual_seed(0)
    spec = replace(SPECS[name], groups=2, max_steps=40, adjoint_steps=40)
    model, batch = MDEQ(spec).double(), images(2, 16, 16)
    for parameter in model.deq.cell.parameters():
        if bool((parameter == QUIET).all()):
            parameter.data *= 0.4
    model.loss(model(batch), batch).sum().backward()
    implicit = {key: p.grad.clone() for key, p in model.named_parameters()}
    model.zero_grad()
    x = model.encode(batch)
    f, z = model.bind(x), model.initial(x)
    for _ in range(60):
        z = f(z)
    close(f(z), z, 1e-9)
    model.loss(model.decode(z, x), batch).sum().backward()
    close(implicit, {key: p.grad for key, p in model.named_parameters()}, 1e-6)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_memory_does_not_grow_with_the_budget(adjoint: str) -> None:
    def peak(steps: int) -> int:
        solver = Anderson(window=2)
        spec = {"solver": solver, "max_steps": steps, "adjoint_steps": 5, **ADJOINTS[adjoint]}
        model = model_of("two", **spec)
        return peak_bytes(lambda: model.loss(model(images()), images()).sum().backward())

    few, many = peak(4), peak(12)
    assert many - few <= 8 * 3 * 8 * 2, "a residual a sample and step, and no state"


# Saving


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"solver": Broyden(memory=7), "tol": 1e-3, "phantom": Phantom(steps=3, damping=0.7)},
        {"solver": Picard(damping=0.5), "dropout": 0.2, "mean": (0.1, 0.2, 0.3)},
    ],
    ids=["plain", "phantom", "picard"],
)
@each_spec
@torch.no_grad()
def test_a_model_comes_back(name: str, changes: dict, tmp_path: Path) -> None:
    model = model_of(name, **changes)
    model.save_pretrained(tmp_path)
    read = MDEQ.from_pretrained(tmp_path).double()
    assert read.spec == model.spec
    batch = images(2)
    close(read(batch), model.float().double()(batch), 1e-7)


# Mixed precision


@each_spec
@torch.no_grad()
def test_mixed_precision_narrows_no_state(name: str) -> None:
    model, batch = model_of(name).float(), images()
    batch = batch._replace(image=batch.image.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = model.encode(batch)
        found = solve(model.bind(x), model.initial(x), Anderson(), max_steps=3, record=True)
    assert found.trajectory is not None
    assert {part.dtype for z in found.trajectory for part in z} == {torch.float32}


@each_spec
def test_mixed_precision_loses_no_gradient(name: str) -> None:
    """Not of a weight that the solve, which has no gradients, was the first to narrow either."""
    model, batch = model_of(name).float(), images()
    batch = batch._replace(image=batch.image.float())

    def gradients(narrow: bool) -> dict[str, Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            loss = model.loss(model(batch), batch).mean()
        loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    exact, found = gradients(False), gradients(True)
    assert found.keys() == exact.keys()
    assert {key for key, value in found.items() if not value.any()} == {
        key for key, value in exact.items() if not value.any()
    }
    narrow, wide = (torch.cat([g.flatten() for g in each.values()]) for each in (found, exact))
    assert float(torch.cosine_similarity(narrow, wide, dim=0)) > 0.9


def test_pixels_are_normalised_by_whole_numbers_too() -> None:
    spec = MDEQSpec(channels=(4,), groups=2, expansion=1, head=(1,), mean=(0,) * 3)
    model = MDEQ(replace(spec, deviation=(1,) * 3))
    image = torch.rand(2, 3, 8, 8)
    assert model.encode(ImageBatch(image, torch.zeros(2, dtype=torch.long))) is not None
