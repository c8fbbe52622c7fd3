"""Model folders of teachers and students: what is saved is what is read, or nothing is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cdeq import (
    Anderson,
    Boundary,
    ConsistencyDEQ,
    ExponentialSchedule,
    MLPReadout,
    UntiedDEQ,
    refine,
)
from cdeq.core.readout import LinearReadout
from cdeq.errors import StoreError
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.pretrained import CONFIG, WEIGHTS

SPEC = ContractionSpec(
    channels=3, image_channels=2, size=4, classes=5, factor=0.7,
    solver=Anderson(window=3, mixing=0.8), max_steps=9, adjoint_steps=5,
)  # fmt: skip
BATCH = ImageBatch(
    torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(4)
)


def teacher(seed: int = 0, spec: ContractionSpec = SPEC) -> ContractionDEQ:
    torch.manual_seed(seed)
    return ContractionDEQ(spec).eval()


def moved(module: nn.Module) -> nn.Module:
    """As if trained."""
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return module.eval()


@torch.no_grad()
def path(student: ConsistencyDEQ, model: ContractionDEQ) -> Tensor:
    x = model.encode(BATCH)
    times = ExponentialSchedule().times(3)
    return torch.stack([z for z in refine(student, x, model.initial(x), times)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    teacher().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_teacher_comes_back(folder: Path) -> None:
    read = ContractionDEQ.from_pretrained(folder)
    assert read.spec == SPEC
    assert (read.deq.solver, read.deq.max_steps) == (SPEC.solver, SPEC.max_steps)
    assert not read.training
    with torch.no_grad():
        assert torch.equal(read(BATCH), teacher()(BATCH))


def test_saving_what_was_read_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    ContractionDEQ.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in (WEIGHTS, CONFIG):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_folder_holds_two_files_and_no_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert json.loads((folder / CONFIG).read_text())["kind"] == "ContractionDEQ"


SETTINGS = {
    "paper": {},
    "plain": {"accelerate": False, "mixing": 0.5},
    "curved": {"boundary": Boundary(power=2.0), "detach_weights": True},
    "frozen": {"train_cell": False},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("readout", [None, MLPReadout([3], axis=1)], ids=["linear", "mlp"])
def test_a_student_comes_back(name: str, readout: nn.Module | None, tmp_path: Path) -> None:
    student = moved(ConsistencyDEQ.from_teacher(teacher(), readout=readout, **SETTINGS[name]))
    student.save_pretrained(tmp_path)
    read = ConsistencyDEQ.from_pretrained(tmp_path, teacher())
    for setting in ("boundary", "mixing", "accelerate", "detach_weights", "batched"):
        assert getattr(read, setting) == getattr(student, setting)
    assert type(read.readout) is (LinearReadout if readout is None else MLPReadout)
    assert torch.equal(path(read, teacher()), path(student, teacher()))
    assert [p.requires_grad for p in read.parameters()] == [
        p.requires_grad for p in student.parameters()
    ]
    assert not torch.equal(path(read, teacher()), path(moved(student), teacher()))


@pytest.mark.parametrize("kind", [ConsistencyDEQ, UntiedDEQ])
def test_a_student_comes_back_in_its_teachers_precision(kind, tmp_path: Path) -> None:
    wide = teacher().double()
    student = moved(kind.from_teacher(wide))
    student.save_pretrained(tmp_path)
    read = dict(kind.from_pretrained(tmp_path, wide).named_parameters())
    assert {parameter.dtype for parameter in read.values()} == {torch.float64}
    learned = {name: p for name, p in student.named_parameters() if not name.startswith("cell.")}
    assert len(learned) > 0
    assert all(torch.equal(read[name], parameter) for name, parameter in learned.items())


@pytest.mark.parametrize("kind", [ConsistencyDEQ, UntiedDEQ])
@pytest.mark.parametrize(
    "other", [teacher(seed=9), teacher(spec=replace(SPEC, channels=6))], ids=["weights", "width"]
)
def test_a_student_of_another_teacher_is_refused(kind, other, tmp_path: Path) -> None:
    kind.from_teacher(teacher()).save_pretrained(tmp_path)
    with pytest.raises(StoreError, match="is the student of another teacher"):
        kind.from_pretrained(tmp_path, other)


def test_another_kind_of_model_is_refused(folder: Path, tmp_path: Path) -> None:
    ConsistencyDEQ.from_teacher(teacher()).save_pretrained(tmp_path / "student")
    with pytest.raises(StoreError, match="holds a ConsistencyDEQ, not a ContractionDEQ"):
        ContractionDEQ.from_pretrained(tmp_path / "student")
    with pytest.raises(StoreError, match="holds a ContractionDEQ, not a ConsistencyDEQ"):
        ConsistencyDEQ.from_pretrained(folder, teacher())


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_half_replaced_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    teacher(seed=1).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(StoreError, match="damaged or half replaced"):
        ContractionDEQ.from_pretrained(folder)


def without_spec(config: dict) -> None:
    del config["spec"]


def wider(config: dict) -> None:
    config["spec"]["channels"] = 4


def wordy(config: dict) -> None:
    config["spec"]["channels"] = "three"


def unknown(config: dict) -> None:
    config["spec"]["colour"] = 1


def impossible(config: dict) -> None:
    config["spec"]["factor"] = 2.0


@pytest.mark.parametrize("change", [without_spec, wider, wordy, unknown, impossible])
def test_settings_that_do_not_fit_the_weights_are_refused(folder: Path, change) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(StoreError, match="settings and weights make no ContractionDEQ"):
        ContractionDEQ.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_in_another_precision_is_saved_as_it_is(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = teacher().to(dtype)
    model.save_pretrained(tmp_path)
    read = ContractionDEQ.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], value.float())


def test_saving_does_not_move_the_model(tmp_path: Path) -> None:
    model = teacher()
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
