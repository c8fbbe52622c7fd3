"""Learned first steps, then the teacher's solver: exact at birth, exact in the limit."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from consistency.toys import FORMS, close, disturb, equal, run
from problems import Counted, each_teacher, image_teacher, pair_teacher, vector_teacher
from torch import Tensor, nn

from cdeq import RK4, Anderson, Broyden, ExponentialSchedule, Picard, refine, relative_error, solve
from cdeq.consistency.increments import Full, Increments, LowRank, Shared
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.untied import UntiedDEQ, UntiedSteps
from cdeq.core.cell import bind
from cdeq.core.state import tensors
from cdeq.errors import StoreError
from cdeq.models.function import FunctionModel
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.pretrained import load_folder

each_form = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
each_readout = pytest.mark.parametrize("readout", (True, False), ids=("readout", "bare"))
each_mixing = pytest.mark.parametrize("mixing", (None, Anderson(window=2)), ids=("plain", "mixed"))


@each_teacher
@pytest.mark.parametrize("learned", (0, 1, 3))
def test_untrained_it_is_picard_and_then_the_teachers_solver(make, learned, device) -> None:
    taught = make(torch.float64, device)
    f, batched = bind(taught.deq.cell, taught.x), taught.deq.batched
    states = run(UntiedDEQ.from_teacher(taught, steps=learned), taught, learned + 4)
    z = taught.start
    for j in range(learned):
        z = f(z)
        assert all(map(torch.allclose, tensors(states[j]), tensors(z)))
    tail = solve(f, z, Anderson(), max_steps=4, record=True, batched=batched).trajectory[1:]
    for ours, theirs in zip(states[learned:], tail, strict=True):
        assert all(map(torch.allclose, tensors(ours), tensors(theirs)))


@pytest.mark.parametrize("learned", (0, 1, 3))
def test_each_step_costs_one_evaluation(learned, dtype, device) -> None:
    taught = vector_teacher(dtype, device)
    student = UntiedDEQ.from_teacher(taught, steps=learned)
    counters = []
    for cell in (*student.learned.cells, student.cell):
        counters.append(Counted(cell.forward))
        cell.forward = counters[-1]
    run(student, taught, 5)
    assert [counter.calls for counter in counters] == [1] * learned + [5 - learned]


@each_teacher
def test_whatever_was_learned_the_limit_is_the_teachers(make, device) -> None:
    """Broken first steps cost evaluations, never correctness."""
    taught = make(torch.float64, device)
    student = UntiedDEQ.from_teacher(taught, steps=2)
    with torch.no_grad():
        for parameter in (
            *student.learned.cells.parameters(),
            *student.learned.readouts.parameters(),
        ):
            parameter.add_(0.3 * torch.randn_like(parameter))
    f, batched = bind(taught.deq.cell, taught.x), taught.deq.batched
    with torch.no_grad():
        exact = solve(f, taught.start, Anderson(), max_steps=200, tol=1e-12, batched=batched)
    *_, z = run(student, taught, 80)
    assert exact.status.name == "CONVERGED"
    assert float(relative_error(z, exact.z, batched=batched).max()) < 1e-8


def test_only_the_first_steps_learn(device) -> None:
    taught = vector_teacher(torch.float64, device)
    start = torch.ones_like(taught.start)  # at 0 no weight of the first step would matter
    before = deepcopy(taught.deq.cell.state_dict())
    student = UntiedDEQ.from_teacher(taught, steps=2)
    *_, z = refine(student, taught.x, start, ExponentialSchedule().times(4))
    sum(part.square().sum() for part in tensors(z)).backward()
    for cell in student.learned.cells:
        assert any(bool(p.grad.abs().max() > 0) for p in cell.parameters() if p.grad is not None)
    assert all(p.grad is None for p in student.cell.parameters())
    assert all(torch.equal(before[k], v) for k, v in taught.deq.cell.state_dict().items())


def test_the_tail_can_be_any_solver(device) -> None:
    taught = vector_teacher(torch.float64, device)
    f = bind(taught.deq.cell, taught.x)
    *_, z = run(UntiedDEQ.from_teacher(taught, steps=1, tail=Picard(damping=0.5)), taught, 3)
    expected = solve(f, f(taught.start), Picard(damping=0.5), max_steps=2).z
    torch.testing.assert_close(z, expected)


def test_a_readout_for_every_cell(device) -> None:
    taught = vector_teacher(torch.float64, device)
    with pytest.raises(ValueError, match="2 cells and 1 readouts"):
        UntiedSteps([deepcopy(taught.deq.cell)] * 2, [taught.readout()])


@each_teacher
@each_form
@pytest.mark.parametrize("learned", (1, 4))
def test_mixed_and_untrained_it_is_two_runs_of_anderson(make, form, learned, device) -> None:
    taught = make(torch.float64, device)
    f, batched, solver = bind(taught.deq.cell, taught.x), taught.deq.batched, Anderson(window=2)
    student = UntiedDEQ.from_teacher(taught, steps=learned, increments=form, mixing=solver)
    states = run(student, taught, learned + 2)
    options = {"record": True, "batched": batched}
    first = solve(f, taught.start, solver, max_steps=learned, **options)
    second = solve(f, first.z, Anderson(), max_steps=2, **options)
    expected = (*first.trajectory[1:], *second.trajectory[1:])
    assert all(close(ours, theirs) for ours, theirs in zip(states, expected, strict=True))


@each_teacher
@each_form
@each_readout
@each_mixing
def test_merging_changes_no_run(make, form: Increments, readout, mixing, device) -> None:
    taught = make(torch.float64, device)
    student = UntiedDEQ.from_teacher(
        taught, steps=3, increments=form, readout=readout, mixing=mixing
    )
    fresh = run(student, taught, 5)
    disturb(student)
    before = deepcopy(student.state_dict())
    merged = student.merged()
    ours, theirs = run(merged, taught, 5), run(student, taught, 5)
    assert all(map(close, ours, theirs))
    assert not any(map(close, fresh[1:], theirs[1:]))  # from 0 no weight of a first step matters
    assert not any(p.requires_grad for p in merged.parameters()) and not merged.training
    assert all(map(torch.equal, before.values(), student.state_dict().values()))
    assert any(p.requires_grad for p in student.learned.parameters())


def test_a_merged_step_costs_one_evaluation(device) -> None:
    taught = vector_teacher(torch.float64, device)
    for form in FORMS.values():
        merged = UntiedDEQ.from_teacher(taught, steps=2, increments=form).merged()
        counters = []
        for cell in (*merged.learned.cells, merged.cell):
            counters.append(Counted(cell.forward))
            cell.forward = counters[-1]
        run(merged, taught, 5)
        assert [counter.calls for counter in counters] == [1, 1, 3]
        assert {name for name, _ in merged.learned.cells.named_parameters()} == {
            "0.mix.weight",
            "1.mix.weight",
        }


@pytest.mark.parametrize("make", (vector_teacher, image_teacher, pair_teacher))
@each_form
@each_readout
@each_mixing
def test_what_was_learned_is_saved(
    make, form: Increments, readout, mixing, device, tmp_path: Path
) -> None:
    taught = make(torch.float64, device)
    student = UntiedDEQ.from_teacher(
        taught, steps=3, increments=form, readout=readout, mixing=mixing, tail=Broyden(memory=3)
    )
    disturb(student)
    student.save_pretrained(tmp_path)
    torch.manual_seed(1)  # what is not saved must not depend on the moment of reading
    read = UntiedDEQ.from_pretrained(tmp_path, taught)
    assert all(map(equal, run(read, taught, 6), run(student, taught, 6)))
    assert (read.increments, read.tail, read.steps) == (form, Broyden(memory=3), 3)
    assert not read.training
    again = tmp_path / "again"
    read.save_pretrained(again)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()
    }


def test_the_file_holds_what_was_learned_alone(tmp_path: Path) -> None:
    teacher, sizes = ContractionDEQ(ContractionSpec(channels=24, size=4)), {}
    for name, form in {"full": Full(), "low-rank": LowRank(rank=2), "shared": Shared()}.items():
        student = UntiedDEQ.from_teacher(teacher, steps=3, increments=form, readout=False)
        student.save_pretrained(tmp_path / name)
        learned = sum(p.numel() for p in student.parameters() if p.requires_grad)
        sizes[name] = (tmp_path / name / "model.safetensors").stat().st_size
        header = 2048  # names and shapes
        assert 4 * learned < sizes[name] < 4 * learned + header
    assert 3 * sizes["low-rank"] < sizes["full"]
    assert 2 * sizes["shared"] < sizes["full"]


class Counting(nn.Module):
    """A cell with a buffer, as running statistics are."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(5, 5).double()
        self.register_buffer("scale", torch.tensor(0.5, dtype=torch.float64))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.scale * self.mix(z) + x)


@each_form
def test_a_merged_student_is_not_saved(form: Increments, device, tmp_path: Path) -> None:
    """Not even when it has buffers, which are saved along with what was learned."""
    taught, folder = vector_teacher(torch.float64, device), tmp_path / "student"
    for cell in (taught.deq.cell, Counting().to(device)):
        taught.deq.cell = cell
        student = UntiedDEQ.from_teacher(taught, increments=form, readout=False)
        with pytest.raises(StoreError, match=r"merged student .*; save the student that was"):
            student.merged().save_pretrained(folder)
        assert not folder.exists()
    student.learned.cells[0].scale.fill_(0.25)
    student.save_pretrained(folder)
    names = load_folder(folder)[1].keys()
    assert "learned.cells.0.scale" in names
    assert not any(name.startswith("cell.") for name in names)  # the teacher's own
    read = UntiedDEQ.from_pretrained(folder, taught)
    assert all(map(equal, run(read, taught, 4), run(student, taught, 4)))


def test_a_student_without_steps_is_saved(device, tmp_path: Path) -> None:
    taught = vector_teacher(torch.float64, device)
    UntiedDEQ.from_teacher(taught, steps=0).save_pretrained(tmp_path)
    read = UntiedDEQ.from_pretrained(tmp_path, taught)
    own = solve(taught.f, taught.start, Anderson(), max_steps=3, record=True).trajectory[1:]
    assert all(map(close, run(read, taught, 3), own))


def test_another_teacher_and_another_kind_are_refused(device, tmp_path: Path) -> None:
    taught = vector_teacher(torch.float64, device)
    student = UntiedDEQ.from_teacher(taught)
    student.save_pretrained(tmp_path / "untied")
    ConsistencyDEQ.from_teacher(taught).save_pretrained(tmp_path / "paper")
    with pytest.raises(StoreError, match="holds a ConsistencyDEQ, not a UntiedDEQ"):
        UntiedDEQ.from_pretrained(tmp_path / "paper", taught)
    taught.deq.cell.mix.weight.data[0, 0] += 1e-9
    with pytest.raises(StoreError, match="student of another teacher"):
        UntiedDEQ.from_pretrained(tmp_path / "untied", taught)


class Guess(nn.Module):
    """Looks at x alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5).double()

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


@each_form
def test_a_first_module_is_the_first_step(form: Increments, device, tmp_path: Path) -> None:
    taught, first = vector_teacher(torch.float64, device), Guess().to(device)
    student = UntiedDEQ.from_teacher(taught, steps=2, increments=form, first=first)
    guessed, after = run(student, taught, 2)
    assert close(guessed, first(taught.start, taught.x))
    assert close(after, taught.f(guessed))
    assert [type(cell) is Guess for cell in student.learned.cells] == [True, False]
    disturb(student)
    student.save_pretrained(tmp_path)
    read = UntiedDEQ.from_pretrained(tmp_path, taught, first=Guess().to(device))
    for same in (read, student.merged()):
        assert all(map(close, run(same, taught, 4), run(student, taught, 4)))
    with pytest.raises(StoreError, match=r"holds .*layer.* built with `first` is read with anoth"):
        UntiedDEQ.from_pretrained(tmp_path, taught)
    other = Guess().to(device)
    other.layer = nn.Linear(5, 5, bias=False)
    other.layer.bias = nn.Parameter(torch.zeros(1))
    with pytest.raises(StoreError, match="settings and weights make no UntiedDEQ"):
        UntiedDEQ.from_pretrained(tmp_path, taught, first=other)


def test_a_first_module_goes_where_the_teacher_is(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = UntiedDEQ.from_teacher(taught, first=Guess().float())
    assert {(p.dtype, p.device) for p in student.parameters()} == {(torch.float64, device)}
    assert len(run(student, taught, 3)) == 3


@dataclass(frozen=True, kw_only=True)
class Frozen(Increments):
    """Somebody's own form: nothing is trained."""

    def copies(self, cell: nn.Module, steps: int) -> list[nn.Module]:
        return [deepcopy(cell).requires_grad_(False) for _ in range(steps)]


@pytest.mark.parametrize(
    ("name", "setting"), [("tail", RK4()), ("mixing", RK4()), ("increments", Frozen())]
)
def test_what_nobody_could_read_is_not_written(name, setting, device, tmp_path: Path) -> None:
    taught = vector_teacher(torch.float64, device)
    student = UntiedDEQ.from_teacher(taught, **{name: setting})
    with pytest.raises(StoreError, match=rf"`{name}` is one of \['.*which can be read back"):
        student.save_pretrained(tmp_path / "student")
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("learned", (True, False))
def test_moved_and_copied_students_share_still(learned: bool, device) -> None:
    taught = vector_teacher(torch.float32, device)
    student = UntiedDEQ.from_teacher(
        taught, steps=3, increments=Shared(decay=0.5, learned=learned), readout=False
    )
    for other in (deepcopy(student), deepcopy(student).to(torch.float64)):
        whole = sum(p.numel() for p in taught.deq.cell.parameters())
        trained = [p for p in other.learned.parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == whole + 3 * learned
        before = [cell.mix.weight.detach().clone() for cell in other.learned.cells]
        (delta,) = (p for p in trained if p.ndim)
        delta.data += 1.0
        for j, cell in enumerate(other.learned.cells):
            torch.testing.assert_close(
                cell.mix.weight - before[j], 0.5**j * torch.ones_like(delta)
            )
    assert torch.equal(student.learned.cells[0].mix.weight, taught.deq.cell.mix.weight)


@pytest.mark.parametrize(("steps", "first", "least"), [(-1, None, 0), (0, Guess(), 1)])
def test_too_few_steps_are_refused(steps, first, least, device) -> None:
    taught = vector_teacher(torch.float64, device)
    with pytest.raises(ValueError, match=f"here at least {least}; got {steps}"):
        UntiedDEQ.from_teacher(taught, steps=steps, first=first)


@each_readout
@each_mixing
def test_states_stay_wide_under_mixed_precision(mixing, readout, device) -> None:
    """A product is narrow there, and the teacher's solver goes on from what was learned."""

    class Last(nn.Linear):
        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return super().forward(torch.tanh(z) + x)

    teacher = FunctionModel(Last(5, 5), (5,)).to(torch.ones(1, device=device))
    student = UntiedDEQ.from_teacher(teacher, steps=2, readout=readout, mixing=mixing)
    z0 = torch.zeros(3, 5, device=device)
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        assert teacher.bind(z0 + 1)(z0).dtype == torch.bfloat16
        seen = [z.dtype for z in refine(student, z0 + 1, z0, ExponentialSchedule().times(4))]
    assert set(seen) == {torch.float32}
