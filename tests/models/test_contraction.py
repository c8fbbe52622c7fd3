"""The contraction: of factor κ whatever its weights are, so that every solver agrees."""

import pytest
import torch
from torch import Tensor

from cdeq import Anderson, Broyden, Picard, bind, residual_norm, solve
from cdeq.core.regularize import spectral_radius
from cdeq.data.images import load_digits
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.contraction import ContractionCell, ContractionDEQ, ContractionSpec

SPEC = ContractionSpec(channels=4, size=5, factor=0.9)
BATCH = ImageBatch(
    torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6)
)


def model(spec: ContractionSpec = SPEC) -> ContractionDEQ:
    torch.manual_seed(1)
    return ContractionDEQ(spec).double().eval()


def random(built: ContractionDEQ) -> None:
    torch.nn.init.normal_(built.deq.cell.weight)


def trained(built: ContractionDEQ) -> None:
    """Pushed for a while towards the largest state, which is what stretches f most."""
    batch = BATCH._replace(image=BATCH.image.double())
    optimizer = torch.optim.Adam(built.parameters(), lr=0.1)
    for _ in range(25):
        x = built.encode(batch)
        loss = -built.deq(x, built.initial(x)).z.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def one_direction(built: ContractionDEQ) -> None:
    """All channels and all places alike: the kernel of the largest norm for its entries."""
    torch.nn.init.constant_(built.deq.cell.weight, 1.0)


def spiky(built: ContractionDEQ) -> None:
    torch.nn.init.constant_(built.deq.cell.weight, 1e-3)
    built.deq.cell.weight.data[0, 0, 1, 1] = 1e3


def huge(built: ContractionDEQ) -> None:
    built.deq.cell.weight.data *= 1e30


def tiny(built: ContractionDEQ) -> None:
    built.deq.cell.weight.data *= 1e-30


def nothing(built: ContractionDEQ) -> None:
    built.deq.cell.weight.data.zero_()


each_weight = pytest.mark.parametrize(
    "change", [random, trained, one_direction, spiky, huge, tiny, nothing]
)


def lipschitz(f: object, z: Tensor) -> float:
    """The largest gain ‖f(z + h) - f(z)‖ / ‖h‖ that 60 rounds of ascent find."""
    best, h = 0.0, torch.randn(z.shape, dtype=z.dtype)
    for _ in range(60):
        h = (h / h.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).requires_grad_()
        gain = (f(z + h) - f(z)).flatten(1).norm(dim=1)
        (h,) = torch.autograd.grad(gain.sum(), h)
        best = max(best, float(gain.detach().max()))
    return best


@each_weight
@pytest.mark.parametrize("factor", [0.5, 0.98, 1.0])
def test_no_two_states_are_driven_apart(change, factor: float) -> None:
    built = model(ContractionSpec(channels=4, size=5, factor=factor))
    change(built)
    x = built.encode(BATCH._replace(image=BATCH.image.double()))
    f = built.bind(x)
    with torch.no_grad():
        built.deq.cell.injection.bias += 10.0  # nothing is cut off by the ReLU: all gain shows
    gain = lipschitz(built.bind(x), torch.zeros(6, 4, 5, 5, dtype=torch.float64))
    assert gain <= factor * (1 + 1e-9)
    a, b = torch.randn(2, 6, 4, 5, 5, dtype=torch.float64)
    shrunk = (f(a) - f(b)).detach().flatten(1).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
    assert float(shrunk.max()) <= factor * (1 + 1e-9)


@pytest.mark.parametrize("change", [random, trained, one_direction, huge, tiny])
def test_the_factor_is_used_and_not_wasted(change) -> None:
    """Within (channels)^(1/16) and the padding's share of κ, or the model would be weak."""
    built = model()
    change(built)
    with torch.no_grad():
        built.deq.cell.injection.bias += 10.0
    f = built.bind(built.encode(BATCH._replace(image=BATCH.image.double())))
    gain = lipschitz(f, torch.zeros(6, 4, 5, 5, dtype=torch.float64))
    assert gain >= 0.6 * 0.9


@each_weight
def test_every_solver_finds_the_same_fixed_point(change) -> None:
    built = model()
    change(built)
    with torch.no_grad():
        x = built.encode(BATCH._replace(image=BATCH.image.double()))
        f, z0 = built.bind(x), built.initial(x)
        found = [
            solve(f, start, solver, max_steps=400, tol=1e-9).check().z
            for solver in (Picard(), Anderson(), Broyden())
            for start in (z0, 5 * torch.randn_like(z0))
        ]
        for z in found:
            torch.testing.assert_close(z, found[0], atol=1e-6, rtol=1e-6)
            assert float(residual_norm(f, z).max()) < 1e-8
        assert float(spectral_radius(f, found[0]).max()) <= 0.9 * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e15])
def test_the_scale_of_the_weights_is_not_part_of_f(scale: float) -> None:
    built, scaled = model().float(), model().float()
    scaled.deq.cell.weight.data *= scale
    torch.testing.assert_close(built(BATCH), scaled(BATCH))


@pytest.mark.parametrize(
    ("shape", "came"),
    [((2, 1, 6, 5), r"\(1, 6, 5\)"), ((2, 3, 5, 5), r"\(3, 5, 5\)"), ((2, 5, 5), r"\(5, 5\)")],
)
def test_another_image_size_is_refused(shape: tuple[int, ...], came: str) -> None:
    batch = ImageBatch(torch.zeros(shape), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"built for images of shape \(1, 5, 5\).*got {came}"):
        ContractionDEQ(SPEC)(batch)


@pytest.mark.parametrize(
    ("image", "came"),
    [
        (torch.zeros(2, 1, 5, 5, dtype=torch.float64), "torch.float64 on cpu"),
        (torch.zeros(2, 1, 5, 5, device="meta"), "torch.float32 on meta"),
    ],
)
def test_images_elsewhere_or_in_another_precision_are_refused(image: Tensor, came: str) -> None:
    with pytest.raises(
        ValueError, match=f"weights are torch.float32 on cpu; got images in {came}"
    ):
        ContractionDEQ(SPEC)(ImageBatch(image, torch.zeros(2, dtype=torch.long)))


@pytest.mark.parametrize(
    "settings",
    [{"channels": 0}, {"size": -1}, {"classes": 0}, {"max_steps": 0}, {"adjoint_steps": 0}],
    ids=str,
)
def test_counts_start_at_one(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is a count of at least 1; got"):
        ContractionSpec(**settings)


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.01])
def test_the_factor_is_a_fraction(factor: float) -> None:
    with pytest.raises(ValueError, match="contraction factor κ"):
        ContractionSpec(factor=factor)


def test_samples_do_not_see_one_another() -> None:
    built = ContractionDEQ(ContractionSpec(channels=3)).eval()
    batch = load_digits(limit=4).test.take(torch.arange(4))
    with torch.no_grad():
        together = built(batch)
        alone = torch.cat(
            [built(ImageBatch(*(part[i : i + 1] for part in batch))) for i in range(4)]
        )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_folded_cell_is_the_same_map() -> None:
    torch.manual_seed(0)
    cell = ContractionCell(1, 4, 8, 0.9).double()
    x, z = (torch.rand(3, n, 8, 8, dtype=torch.float64) for n in (1, 4))
    expected = bind(cell, x)(z)
    for _ in range(2):  # folding again changes nothing
        cell.fold()
        torch.testing.assert_close(bind(cell, x)(z), expected)
    assert bind(cell, x)(z).requires_grad, "its weights may still be trained"
