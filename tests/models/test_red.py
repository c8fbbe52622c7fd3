"""Deblurring: a contraction of the promised factor whatever the weights, and the right answer."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cdeq import Anderson, Picard, bind, residual_norm, solve
from cdeq.evaluation.metrics import PSNR, psnr
from cdeq.models.imaging.batch import DeblurBatch
from cdeq.models.imaging.blur import GaussianBlur
from cdeq.models.imaging.red import REDDEQ, REDSpec

SPEC = REDSpec(channels=3, width=3, size=7, kappa=0.7, blur=1.0, radius=2)


def images(count: int = 4, seed: int = 0, size: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, size, size, dtype=torch.float64, generator=generator) - 0.5


BATCH = DeblurBatch(images(), images(seed=1))


def model(spec: REDSpec = SPEC) -> REDDEQ:
    torch.manual_seed(1)
    return REDDEQ(spec).double().eval()


def dense(operator: object, size: int = 7) -> Tensor:
    """The matrix of a linear operator: its values at all unit images."""
    units = torch.eye(size**2, dtype=torch.float64).view(-1, 1, size, size)
    return operator(units).flatten(1).T


each_blur = pytest.mark.parametrize(
    ("sigma", "radius"), [(0.3, 1), (1.0, 2), (2.0, 6), (5.0, 9), (100.0, 3), (1.0, 0)]
)


@each_blur
def test_the_blur_is_its_own_transpose_and_of_norm_at_most_one(sigma: float, radius: int) -> None:
    blur = GaussianBlur(sigma=sigma, radius=radius, size=7).double()
    u, v = images(), images(seed=1)
    torch.testing.assert_close((blur(u) * v).sum(), (u * blur(v)).sum())
    matrix = dense(blur)
    assert torch.equal(matrix, matrix.T)
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= 1 + 1e-7


@each_blur
def test_the_blur_is_the_convolution_with_its_kernel(sigma: float, radius: int) -> None:
    blur = GaussianBlur(sigma=sigma, radius=radius, size=7).double()
    assert float(blur.kernel.sum()) == pytest.approx(1.0, abs=1e-6)
    expected = F.conv2d(images(), blur.kernel, padding=radius)
    torch.testing.assert_close(blur(images()), expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"sigma": 0.0}, {"sigma": -1.0}, {"sigma": float("nan")}, {"radius": -1}, {"size": 0}],
    ids=str,
)
def test_an_impossible_blur_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a blur has a width σ > 0, a radius ≥ 0"):
        GaussianBlur(**{"sigma": 1.0, "radius": 2, "size": 7, **settings})


def random(built: REDDEQ) -> None:
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)


def trained(built: REDDEQ) -> None:
    """Pushed for a while towards the largest state, which is what stretches f most."""
    optimizer = torch.optim.Adam(built.parameters(), lr=0.1)
    for _ in range(25):
        loss = -built(BATCH).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def alike(built: REDDEQ) -> None:
    torch.nn.init.constant_(built.deq.cell.filters, 1.0)


def spiky(built: REDDEQ) -> None:
    torch.nn.init.constant_(built.deq.cell.filters, 1e-3)
    built.deq.cell.filters.data[0, 0, 1, 1] = 1e3


def huge(built: REDDEQ) -> None:
    for parameter in built.parameters():
        parameter.data *= 1e30


def tiny(built: REDDEQ) -> None:
    built.deq.cell.filters.data *= 1e-30


def nothing(built: REDDEQ) -> None:
    built.deq.cell.filters.data.zero_()


def heavy(built: REDDEQ) -> None:
    built.deq.cell.weight.data.fill_(50.0)


def light(built: REDDEQ) -> None:
    built.deq.cell.weight.data.fill_(-50.0)


each_weight = pytest.mark.parametrize(
    "change", [random, trained, alike, spiky, huge, tiny, nothing, heavy, light]
)


def clipped(built: REDDEQ) -> None:
    """Filters clip some of the pixels and not others."""
    built.deq.cell.threshold.data.fill_(-3.0)


def unclipped(built: REDDEQ) -> None:
    """No filter is cut off: all of its gain shows."""
    built.deq.cell.threshold.data.fill_(1e3)


def bounds(built: REDDEQ) -> tuple[float, float]:
    """μ and L, the least and the largest curvature of the energy."""
    weight, kappa = float(F.softplus(built.deq.cell.weight.detach())), built.spec.kappa
    return weight * (1 - kappa), 1 + weight * (2 - kappa)


@each_weight
@pytest.mark.parametrize("kappa", [0.2, 0.7, 0.999])
@pytest.mark.parametrize("change_more", [clipped, unclipped])
def test_no_two_states_are_driven_apart(change, change_more, kappa: float) -> None:
    built = model(replace(SPEC, kappa=kappa))
    change(built)
    change_more(built)
    f = built.bind(torch.zeros_like(BATCH.blurred))  # what is injected cancels, exactly if zero
    mu, top = bounds(built)
    a, b = images(seed=2), images(seed=3)
    with torch.no_grad():
        shrunk = (f(a) - f(b)).flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
    assert float(shrunk.max()) <= 1 - mu / top + 1e-12


@each_weight
def test_the_jacobian_is_symmetric_with_the_promised_eigenvalues(change) -> None:
    """It is that of a gradient step on an energy whose curvature lies in [μ, L]."""
    built = model()
    change(built)
    unclipped(built)
    f = built.bind(torch.zeros_like(BATCH.blurred[:1]))
    with torch.no_grad():
        matrix = dense(f)
    torch.testing.assert_close(matrix, matrix.T)
    mu, top = bounds(built)
    values = torch.linalg.eigvalsh(matrix)
    assert float(values.min()) >= -1e-7
    assert float(values.max()) <= 1 - mu / top + 1e-12


@each_weight
@pytest.mark.parametrize("kappa", [0.5, 0.9])
def test_the_denoiser_has_the_lipschitz_constant_kappa(change, kappa: float) -> None:
    built = model(replace(SPEC, kappa=kappa))
    change(built)
    unclipped(built)
    cell = built.deq.cell
    with torch.no_grad():
        prepared = cell.prepare(BATCH.blurred)
        matrix = dense(lambda z: cell.denoise(z, prepared))
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= kappa + 1e-12


@pytest.mark.parametrize("filters", ["none", "linear"])
def test_the_fixed_point_solves_the_linear_system(filters: str) -> None:
    """Without filters, and with filters that never clip, the equation is linear in z."""
    built = model()
    {"none": nothing, "linear": unclipped}[filters](built)
    cell = built.deq.cell
    with torch.no_grad():
        cell.weight.fill_(0.5)
        prepared = cell.prepare(BATCH.blurred)
        seen = dense(lambda z: F.conv2d(z, prepared.filters, padding=1))
        k, unit = dense(cell.blur), torch.eye(49, dtype=torch.float64)
        penalty = (1 - SPEC.kappa) * unit + seen.T @ seen
        system = k.T @ k + F.softplus(cell.weight) * penalty
        expected = torch.linalg.solve(system, k.T @ BATCH.blurred.flatten(1).T).T
        f = built.bind(BATCH.blurred)
        found = solve(f, built.initial(BATCH.blurred), Anderson(), max_steps=300, tol=1e-11)
    torch.testing.assert_close(found.check().z.flatten(1), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("change", [random, trained, spiky])
def test_every_solver_finds_the_same_fixed_point(change) -> None:
    built = model()
    change(built)
    built.deq.cell.weight.data.fill_(0.0)  # with next to no λ, Picard takes next to forever
    x = BATCH.blurred
    with torch.no_grad():
        f, z0 = built.bind(x), built.initial(x)
        found = [
            solve(f, start, solver, max_steps=3000, tol=1e-10).check().z
            for solver in (Picard(), Anderson())
            for start in (z0, 5 * images(seed=4))
        ]
        for z in found:
            torch.testing.assert_close(z, found[0], atol=1e-6, rtol=1e-6)
            assert float(residual_norm(f, z).max()) < 1e-9


def test_the_fixed_point_is_the_minimum_of_the_energy() -> None:
    built = model()
    cell, x = built.deq.cell, BATCH.blurred
    with torch.no_grad():
        best = solve(built.bind(x), built.initial(x), max_steps=300, tol=1e-11).check().z
        prepared = cell.prepare(x)

    def energy(z: Tensor) -> Tensor:
        seen, tau = F.conv2d(z, prepared.filters, padding=1), prepared.threshold
        huber = torch.where(seen.abs() <= tau, seen**2 / 2, tau * (seen.abs() - tau / 2))
        prior = (1 - SPEC.kappa) / 2 * z.square().sum() + huber.sum()
        return (cell.blur(z) - x).square().sum() / 2 + prepared.weight * prior

    z = best.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(z), z)
    assert float(slope.abs().max()) < 1e-8
    for seed in range(5):
        assert energy(best + 1e-2 * images(seed=seed)) > energy(best)


def test_a_first_evaluation_blurs_the_image_once_more() -> None:
    """From z = 0, with C still the identity, f is one gradient step: η Kᵀ y."""
    built = model()
    with torch.no_grad():
        first = built.bind(BATCH.blurred)(built.initial(BATCH.blurred))
        step = 1 / bounds(built)[1]
        torch.testing.assert_close(first, step * built.deq.cell.blur(BATCH.blurred))


def test_samples_do_not_see_one_another() -> None:
    built = model()
    with torch.no_grad():
        alone = [built(DeblurBatch(*(part[i : i + 1] for part in BATCH))) for i in range(4)]
        torch.testing.assert_close(built(BATCH), torch.cat(alone), atol=1e-9, rtol=1e-9)


def test_the_state_is_the_answer() -> None:
    assert REDDEQ.headless
    z = images(seed=5)
    assert model().decode(z, BATCH.blurred) is z


def test_psnr_by_hand() -> None:
    """An error of 0.1 everywhere is 20 dB, of 0.1 in a quarter of the pixels 6.02 dB more."""
    sharp = torch.zeros(2, 1, 2, 2)
    output = sharp.clone()
    output[0] += 0.1
    output[1, 0, 1, 0] -= 0.1
    batch = DeblurBatch(sharp, sharp)
    torch.testing.assert_close(psnr(output, batch), torch.tensor([20.0, 26.0206]))
    assert PSNR.higher
    errors = 10 ** (psnr(output, batch) / -10)
    torch.testing.assert_close(model().loss(output, batch), (errors + 1e-6).log())


def test_the_divergence_is_a_share_of_the_variance() -> None:
    target = torch.tensor([-0.1, 0.1, -0.1, 0.1]).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    target[1] = 0.3
    found = model().divergence(target + 0.1, target)
    torch.testing.assert_close(found, torch.tensor([0.01 / 0.0101, 0.01 / 0.0001]))
    assert float(model().divergence(target, target).abs().max()) == 0.0


def test_a_model_comes_back(tmp_path: Path) -> None:
    built = model().float()
    random(built)
    built.save_pretrained(tmp_path)
    read = REDDEQ.from_pretrained(tmp_path)
    batch = DeblurBatch(*(part.float() for part in BATCH))
    assert read.spec == SPEC
    with torch.no_grad():
        assert torch.equal(read(batch), built(batch))


@pytest.mark.parametrize(
    ("shape", "came"),
    [((2, 1, 8, 7), r"\(1, 8, 7\)"), ((2, 3, 7, 7), r"\(3, 7, 7\)"), ((2, 7, 7), r"\(7, 7\)")],
)
def test_another_image_size_is_refused(shape: tuple[int, ...], came: str) -> None:
    image = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"built for images of shape \(1, 7, 7\).*got {came}"):
        REDDEQ(SPEC)(DeblurBatch(image, image))


@pytest.mark.parametrize(
    ("image", "came"),
    [
        (torch.zeros(2, 1, 7, 7, dtype=torch.float64), "torch.float64 on cpu"),
        (torch.zeros(2, 1, 7, 7, device="meta"), "torch.float32 on meta"),
    ],
)
def test_images_elsewhere_or_in_another_precision_are_refused(image: Tensor, came: str) -> None:
    with pytest.raises(ValueError, match=f"weights are torch.float32 on cpu; got .* in {came}"):
        REDDEQ(SPEC)(DeblurBatch(image, image))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        *(({name: 0}, "is a count of at least 1; got 0") for name in ("channels", "size")),
        *(({name: 0}, f"`{name}` is a count of") for name in ("radius", "max_steps")),
        ({"adjoint_steps": -1}, "is a count of at least 1; got -1"),
        ({"width": 4}, "`width` is odd, .*; got 4"),
        *(({"kappa": kappa}, "Lipschitz constant κ in") for kappa in (0.0, 1.0, -0.5)),
        *(({"blur": blur}, "a width σ > 0 in pixels") for blur in (0.0, -1.0, float("inf"))),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        REDSpec(**settings)


def test_a_folded_cell_is_the_same_map() -> None:
    torch.manual_seed(0)
    cell = REDDEQ(REDSpec(channels=3, size=16)).deq.cell
    y, z = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    expected = bind(cell, y)(z)
    for _ in range(2):  # folding again changes nothing
        cell.fold()
        assert torch.equal(bind(cell, y)(z), expected)
