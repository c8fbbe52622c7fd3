"""Students of MDEQs, whose states are tuples of resolutions."""

from pathlib import Path

import pytest
import torch
from models.vision.mdeq_zoo import SPECS, close, each_spec, images, model_of
from torch import Tensor, nn

from cdeq import (
    Anderson,
    ConsistencyDEQ,
    Full,
    HyperDEQ,
    LowRank,
    Picard,
    Shared,
    Solver,
    TimeSpan,
    UntiedDEQ,
    certify,
    refine,
    residual_norm,
    solve,
)
from cdeq.hypersolver.scope import PerPosition, Pooled
from cdeq.models.vision.initializer import PyramidInitializer
from cdeq.models.vision.mdeq import MDEQ

EPS = torch.tensor(TimeSpan().eps)
FORMS = {
    "full": Full(),
    "free": Full(free=True),
    "low-rank": LowRank(rank=1),
    "shared": Shared(decay=0.5),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))


def fresh(name: str) -> MDEQ:
    """Never trained, so that solvers find its equilibrium."""
    torch.manual_seed(0)
    return MDEQ(SPECS[name]).double().eval()


@torch.no_grad()
def path(student: nn.Module, model: MDEQ, steps: int) -> list[tuple[Tensor, ...]]:
    x = model.encode(images())
    return list(refine(student, x, model.initial(x), EPS.expand(steps)))


@torch.no_grad()
def run(
    model: MDEQ, solver: Solver, steps: int, start: tuple[Tensor, ...] | None = None
) -> list[tuple[Tensor, ...]]:
    x = model.encode(images())
    z0 = model.initial(x) if start is None else start
    return [*solve(model.bind(x), z0, solver, max_steps=steps, record=True).trajectory[1:]]


@torch.no_grad()
def disturbed(student: nn.Module, size: float = 0.05) -> nn.Module:
    """As if trained."""
    torch.manual_seed(3)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.add_(size * torch.randn_like(parameter))
    return student


@each_spec
def test_a_fresh_student_is_anderson_with_window_1(name: str) -> None:
    """t = ε everywhere makes c_out = 1."""
    model = model_of(name)
    student = ConsistencyDEQ.from_teacher(model)
    close(path(student, model, 5), run(model, Anderson(window=1), 5), 1e-6)


@each_spec
def test_a_readout_adds_the_time_to_every_resolution(name: str) -> None:
    model = model_of(name)
    student = ConsistencyDEQ.from_teacher(model)
    assert [len(w) for w in student.readout.weights] == list(model.spec.channels)
    x = model.encode(images())
    z = model.initial(x)
    value = model.bind(x)(z)
    with torch.no_grad():
        for weight in student.readout.weights:
            weight[:, -1] = 1.0  # h = f + t
        later = student.estimate(z, torch.tensor([0.25, 0.5, 0.75]).double(), x)
    for part, before in zip(later, value, strict=True):
        added = (part - before).flatten(1)
        close(added, torch.tensor([[0.25], [0.5], [0.75]]).double().expand_as(added))


@each_spec
@each_form
def test_an_untrained_one_is_picard_and_then_the_teachers_solver(name: str, form) -> None:
    model = model_of(name)
    student = UntiedDEQ.from_teacher(model, steps=2, increments=form)
    first = run(model, Picard(), 2)
    rest = run(model, Anderson(), 3, start=first[-1])
    close(path(student, model, 5), [*first, *rest], 1e-7)
    close(path(student.merged(), model, 5), [*first, *rest], 1e-7)


@pytest.mark.parametrize("name", ["single", "three", "blocks"])
@each_form
def test_merging_changes_nothing_that_was_learned(name: str, form) -> None:
    model = model_of(name)
    student = disturbed(UntiedDEQ.from_teacher(model, steps=2, increments=form)).eval()
    learned = path(student, model, 3)
    close(path(student.merged(), model, 3), learned, 1e-8)
    assert not torch.equal(learned[0][0], run(model, Picard(), 1)[0][0])


@each_spec
@pytest.mark.parametrize("kind", [ConsistencyDEQ, UntiedDEQ, HyperDEQ])
def test_a_student_comes_back(name: str, kind, tmp_path: Path) -> None:
    model = model_of(name)
    student = disturbed(kind.from_teacher(model), 0.01).eval()
    student.save_pretrained(tmp_path)
    read = kind.from_pretrained(tmp_path, model).double()
    close(path(read, model, 3), path(student, model, 3), 1e-9)


@each_spec
def test_an_untrained_hypersolver_is_picard(name: str) -> None:
    model = model_of(name)
    student = HyperDEQ.from_teacher(model, scope=Pooled(), width=10)
    ours, theirs = path(student, model, 4), run(model, Picard(), 4)
    assert all(torch.equal(a, b) for one, other in zip(ours, theirs, strict=True)
               for a, b in zip(one, other, strict=True))  # fmt: skip


def test_resolutions_have_no_positions_in_common() -> None:
    model = model_of("three")
    student = HyperDEQ.from_teacher(model, scope=PerPosition(), width=10)
    with pytest.raises(ValueError, match=r"have their positions in common.*use `Pooled`"):
        path(student, model, 1)


@each_spec
def test_an_initializer_guesses_every_resolution(name: str) -> None:
    model = model_of(name)
    guess = model.initializer().double()
    x = model.encode(images())
    z0 = guess(model.initial(x), x)
    assert [part.shape for part in z0] == [part.shape for part in model.initial(x)]
    student = HyperDEQ.from_teacher(model, initializer=guess, width=10)
    close(path(student, model, 2), run(model, Picard(), 2, start=z0), 1e-9)
    untied = UntiedDEQ.from_teacher(model, steps=2, first=guess)
    close(path(untied, model, 2)[0], z0, 1e-9)


def test_a_guess_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    guess = PyramidInitializer([4, 6, 2], hidden=3).double()
    x = torch.randn(2, 4, 8, 12, dtype=torch.float64)
    h = [guess.downs[0](x).clamp_min(0.0)]
    h.append(guess.downs[1](h[0]).clamp_min(0.0))
    h.append(guess.downs[2](h[1]).clamp_min(0.0))

    def up(value: Tensor) -> Tensor:
        return value.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    middle = h[1] + up(h[2])
    seen = (h[0] + up(middle), middle, h[2])
    close(guess((), x), tuple(out(part) for out, part in zip(guess.outputs, seen, strict=True)))


@each_spec
@torch.no_grad()
def test_some_samples_are_selected_with_all_they_need(name: str) -> None:
    model, rows = model_of(name), torch.tensor([2, 0])
    x = model.encode(images())
    z = tuple(torch.randn_like(part) for part in model.initial(x))
    some = model.bind(model.select(x, rows, 3))(tuple(part[rows] for part in z))
    close(some, tuple(part[rows] for part in model.bind(x)(z)))


@each_spec
@pytest.mark.parametrize("taught", [False, True])
@torch.no_grad()
def test_what_is_certified_is_the_teachers_equilibrium(name: str, taught: bool) -> None:
    """Whatever a student learned."""
    model = fresh(name)
    student = UntiedDEQ.from_teacher(model)
    student = disturbed(student).eval() if taught else student
    x = model.encode(images())
    found = certify(model, student, x, tol=1e-6, steps=2).check()
    assert float(residual_norm(model.bind(x), found.z).max()) <= 1e-6
    close(found.z, certify(model, None, x, tol=1e-6, steps=0).z, 1e-3)
