"""Training a learned solver: what is drawn, what fades, what is never looked at, what it gains."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from training.toys import (
    OBJECTIVES,
    PLAN,
    Killed,
    by_hand,
    die,
    images,
    online,
    run,
    same,
    stopped_at,
    teacher,
)

from cdeq import Anderson, Picard, iterate, refine, relative_error, solve
from cdeq.hypersolver.loss import HyperLoss
from cdeq.hypersolver.scope import PerPosition, Pooled
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.models.vision.contraction import ContractionDEQ
from cdeq.training.hyper import HyperObjective, Unrolling

BATCH, ROWS = images().take(torch.arange(12)), torch.arange(12)
TERMS = {"loss", "path", "start", "alpha"}


def seeded(seed: int = 4) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hyper(model: ContractionDEQ | None = None, **settings: object) -> HyperObjective:
    """A solver with random heads, on runs of its own."""
    model = teacher() if model is None else model
    torch.manual_seed(7)
    initializer, scope = model.initializer(), settings.pop("scope", Pooled())
    student = HyperDEQ.from_teacher(model, width=10, scope=scope, initializer=initializer)
    torch.nn.init.normal_(student.network.heads.weight, std=0.1)
    return HyperObjective(student, model, online(model), unrolling=Unrolling(**settings))


def per_pixel() -> HyperObjective:
    return hyper(scope=PerPosition(), decay=4)


MAKE = {"pooled": lambda: hyper(decay=4), "per pixel": per_pixel}
each_make = pytest.mark.parametrize("name", MAKE)


@each_make
def test_a_loss_is_a_function_of_weights_batch_and_seed(name: str) -> None:
    objective = MAKE[name]().train()
    first, again = (objective(BATCH, ROWS, seeded()) for _ in range(2))
    assert first.keys() == again.keys() == TERMS
    assert all(torch.equal(first[key], again[key]) for key in first)


@each_make
def test_labels_are_never_looked_at(name: str) -> None:
    objective = MAKE[name]()
    right = objective(BATCH, ROWS, seeded())
    for label in (torch.full_like(BATCH.label, -12345), None):
        losses = objective(BATCH._replace(label=label), ROWS, seeded())
        assert all(torch.equal(losses[key], right[key]) for key in right)


@pytest.mark.parametrize(("shortest", "longest"), [(1, 4), (2, 3), (3, 3)])
def test_every_number_of_steps_is_drawn_and_no_other(
    shortest: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, generator, drawn = hyper(shortest=shortest, longest=longest), seeded(), set[int]()
    loss = HyperLoss.__call__

    def spy(own: HyperLoss, *args: object, **more: object) -> object:
        drawn.add(args[-1])
        return loss(own, *args, **more)

    monkeypatch.setattr(HyperLoss, "__call__", spy)
    for _ in range(50):
        objective(BATCH, ROWS, generator)
    assert drawn == set(range(shortest, longest + 1))


@each_make
def test_the_loss_is_that_of_a_run_to_the_teacher_s_end(name: str) -> None:
    objective = MAKE[name]()
    model, settings = objective.teacher, objective.unrolling
    found = objective(BATCH, ROWS, seeded())
    steps = int(torch.randint(settings.shortest, settings.longest + 1, (), generator=seeded()))
    x, end = model.encode(BATCH), objective.trajectories(ROWS)[-1]
    expected = settings.loss(objective.student, x, model.initial(x), end, steps)
    for key, value in expected._asdict().items():
        torch.testing.assert_close(found["loss" if key == "total" else key], value)


def test_the_ends_alone_are_asked_for() -> None:
    objective = hyper()
    source, plain = objective.trajectories, objective(BATCH, ROWS, seeded())

    class Ends:
        def ends(self, indices: torch.Tensor) -> torch.Tensor:
            return source(indices)[-1]

        def __call__(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
            raise AssertionError("a whole trajectory was asked for")

    objective.trajectories = Ends()
    assert torch.equal(objective(BATCH, ROWS, seeded())["loss"], plain["loss"])


def test_the_weight_of_the_mixed_residuals_falls_to_nothing() -> None:
    loss = HyperLoss(path_weight=0.0, start_weight=0.0, alpha_weight=1.0)
    objective, found = hyper(loss=loss, decay=4), []
    for update in range(6):
        assert int(objective.state_dict()["updates"]) == update
        losses = objective(BATCH, ROWS, seeded())
        found.append(float(losses["loss"].detach()))
        objective.after_step()
    assert found == pytest.approx([found[0] * share for share in (1, 0.75, 0.5, 0.25, 0, 0)])
    assert found[0] > 0


@each_make
@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_killed_run_continues_to_the_same_bits(
    name: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the weight of the mixed residuals falls, too."""
    monkeypatch.setitem(OBJECTIVES, name, (MAKE[name], images))
    whole, _ = by_hand(name)
    with pytest.raises(Killed):
        run(name, tmp_path, objective=stopped_at(MAKE[name](), step, die))
    resumed = run(name, tmp_path)
    assert same(resumed, whole)
    assert not same(whole, MAKE[name]())
    assert int(resumed.updates) == PLAN.steps


@each_make
def test_the_student_alone_is_trained(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(OBJECTIVES, name, (MAKE[name], images))
    objective, fresh = run(name, tmp_path), MAKE[name]()
    assert same(objective.teacher, teacher())
    assert same(objective.student.cell, teacher().deq.cell)
    before = dict(fresh.student.named_parameters())
    for key, parameter in objective.student.named_parameters():
        assert torch.equal(parameter, before[key]) == key.startswith("cell.")
    for mode in (True, False, True):
        objective.train(mode)
        assert objective.student.network.training == mode
        assert not objective.teacher.training and not objective.student.cell.training


@pytest.mark.parametrize("detach", (True, False))
@each_make
def test_it_learns_to_be_nearer_than_the_classical_solvers(
    name: str, detach: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same start: without an initializer. The map is so tame that a few evaluations more
    are all that Anderson acceleration needs to its end."""

    def untrained() -> HyperObjective:
        objective = MAKE[name]()
        torch.nn.init.zeros_(objective.student.network.heads.weight)
        objective.student.initializer = None
        objective.unrolling = Unrolling(longest=5, loss=HyperLoss(detach=detach))
        return objective

    monkeypatch.setitem(OBJECTIVES, name, (untrained, images))
    student, model = run(name, tmp_path, replace(PLAN, steps=60)).student, teacher()
    with torch.no_grad():
        x = model.encode(BATCH)
        f, z0 = model.bind(x), model.initial(x)
        exact = solve(f, z0, max_steps=100, tol=1e-6).check().z
        ours = errors(refine(student, x, z0, torch.zeros(3)), exact)
        for solver in (Picard(), Anderson()):
            theirs = errors(islice((point.z for point in iterate(f, z0, solver)), 3), exact)
            assert sum(ours) < 0.9 * sum(theirs)


def errors(states: Iterable[torch.Tensor], exact: torch.Tensor) -> list[float]:
    return [float(relative_error(z, exact).mean()) for z in states]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shortest": 0}, "`shortest` is a count of at least 1; got 0"),
        ({"shortest": 9}, "`shortest` … `longest` steps; got 9 … 8"),
        ({"decay": 0}, "`decay` is a count of at least 1; got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Unrolling(**settings)
