"""The benchmark of image loading runs, here at the size of toys."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cdeq.data.cifar import read_cifar10
from cdeq.data.framing import Framing
from cdeq.data.image_cache import Decoding
from cdeq.data.image_folder import read_image_folder
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.training.teacher import TeacherLoss

ROOT = Path(__file__).parent.parent


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("image_loading")


@pytest.mark.parametrize(("size", "sets"), [(16, ("folder",)), (32, ("cifar", "folder"))])
def test_every_set_of_the_models_size_has_a_row_of_rates(
    size: int, sets: tuple[str, ...], benchmark: ModuleType
) -> None:
    model = ContractionDEQ(ContractionSpec(image_channels=3, size=size, channels=2))
    contents = benchmark.measure(
        model,
        TeacherLoss(shortest=1, longest=2),
        size=size,
        count=100,
        batch_sizes=(4, 9),
        least=0.01,
        say=lambda text: None,
    )
    rows = contents["images_per_second"]
    found = [(row["images"], row["size"], row["batch_size"]) for row in rows]
    assert found == [(kind, size, batch_size) for batch_size in (4, 9) for kind in sets]
    for row in rows:
        assert min(row["taking"], row["training"], row["model"]) > 0.0
        assert row["headroom"] == pytest.approx(row["training"] / row["model"], rel=0.02)


def test_generated_sets_are_read_as_what_they_are(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.write_cifar(tmp_path, 100)
    cifar = read_cifar10(tmp_path, validation=10, held_out=10)
    assert [len(part) for part in cifar] == [80, 10, 10, 20]
    wanted = torch.from_numpy(benchmark.pictures(20, 32, 5)).permute(0, 3, 1, 2)
    assert torch.equal(cifar.test.image, wanted)
    benchmark.write_folder(tmp_path / "set", 30, 16)
    framing = Framing(size=16, resize=16)
    images = read_image_folder(tmp_path / "set", Decoding(framing=framing)).images
    assert images.labels.bincount().tolist() == [3] * 10


def test_a_rate_is_images_over_seconds(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(clock)))
    steps: list[int] = []
    assert benchmark.rate(lambda step: steps.append(step) or 12, 3.0) == 12 * 2 / 3
    assert steps == [0, 1, 2]
