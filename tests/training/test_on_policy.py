"""Training on the student's own runs: what is drawn, what is mixed in, what is never looked at."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.toys import (
    OBJECTIVES,
    PLAN,
    Killed,
    by_hand,
    die,
    distilled,
    images,
    on_policy,
    online,
    run,
    same,
    stopped_at,
    teacher,
)

from cdeq import ConsistencyDEQ, ExponentialSchedule, UntiedDEQ, refine
from cdeq.consistency.rollout import RolloutLoss
from cdeq.core.state import tensors, zeros_like
from cdeq.models.base import EquilibriumModel
from cdeq.models.function import FunctionModel
from cdeq.training.engine import CHECKPOINT
from cdeq.training.on_policy import (
    BlendedObjective,
    Mixture,
    RolloutObjective,
    Rollouts,
    judge,
    mix,
)

BATCH, ROWS = images().take(torch.arange(12)), torch.arange(12)
RAMP = Mixture(first=0.9, last=0.1, ramp=5)


def seeded(seed: int = 4) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed(
    mixture: Mixture = RAMP, kind: type = ConsistencyDEQ, **settings: object
) -> RolloutObjective:
    """A student that is far from perfect, on runs that the teacher's states are mixed into."""
    model = teacher()
    student = kind.from_teacher(model)
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    rollouts = Rollouts(mixture=mixture, **settings)
    return RolloutObjective(student, model, online(model), rollouts=rollouts)


def blended(weight: float = 0.3) -> BlendedObjective:
    paper = distilled()
    rollout = RolloutObjective(
        paper.student, paper.teacher, paper.trajectories, rollouts=Rollouts(mixture=RAMP)
    )
    return BlendedObjective(paper, rollout, weight)


MAKE = {"paper": mixed, "untied": lambda: mixed(kind=UntiedDEQ), "blended": blended}
each_make = pytest.mark.parametrize("name", MAKE)


@each_make
def test_a_loss_is_a_function_of_weights_batch_and_seed(name: str) -> None:
    objective = MAKE[name]().train()
    first, again = (objective(BATCH, ROWS, seeded()) for _ in range(2))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


@each_make
def test_labels_are_never_looked_at(name: str) -> None:
    objective = MAKE[name]()
    if isinstance(objective, BlendedObjective):
        objective = objective.rollout
    wrong = BATCH._replace(label=torch.full_like(BATCH.label, -12345))
    none = BATCH._replace(label=None)
    right = objective(BATCH, ROWS, seeded())
    for batch in (wrong, none):
        losses = objective(batch, ROWS, seeded())
        assert all(torch.equal(losses[key], right[key]) for key in right)


# Steps


class Noting:
    """A schedule that remembers how many times it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def times(self, steps: int) -> torch.Tensor:
        self.asked.append(steps)
        return ExponentialSchedule().times(steps)


@pytest.mark.parametrize(("shortest", "longest"), [(1, 5), (2, 4), (3, 3)])
def test_every_number_of_steps_is_drawn_and_no_other(shortest: int, longest: int) -> None:
    objective, generator = mixed(Mixture(), shortest=shortest, longest=longest), seeded()
    objective.schedule = noting = Noting()
    for _ in range(60):
        objective(BATCH, ROWS, generator)
    assert set(noting.asked) == set(range(shortest, longest + 1))


@pytest.mark.parametrize("kind", (ConsistencyDEQ, UntiedDEQ))
def test_the_loss_is_that_of_inference(kind: type) -> None:
    """Purely on-policy, the states are those of `refine`, whose answers are the head's."""
    objective = mixed(Mixture(), kind, shortest=3, longest=3, loss=RolloutLoss(head_weight=0.5))
    model, losses = objective.teacher, objective(BATCH, ROWS, seeded())
    end = objective.trajectories(ROWS)[-1]
    with torch.no_grad():
        x = model.encode(BATCH)
        truth = model.decode(end, x).log_softmax(1)
        times = objective.schedule.times(3)
        states = list(refine(objective.student, x, model.initial(x), times))
        answers = [model.decode(z, x).log_softmax(1) for z in states]
    miss = [((z - end).flatten(1).norm(dim=1) / end.flatten(1).norm(dim=1)) ** 2 for z in states]
    latent = torch.stack(miss).mean()
    head = torch.stack([(truth.exp() * (truth - a)).sum(1) for a in answers]).mean()
    torch.testing.assert_close(losses["latent"], latent)
    torch.testing.assert_close(losses["head"], head)
    torch.testing.assert_close(losses["loss"], latent + 0.5 * head)


# Mixing


def test_a_share_of_nothing_looks_at_the_ends_alone() -> None:
    objective = mixed(Mixture())
    source, asked = objective.trajectories, []

    class Ends:
        def ends(self, indices: torch.Tensor) -> torch.Tensor:
            asked.append(indices)
            return source(indices)[-1]

        def __call__(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
            raise AssertionError("a whole trajectory was asked for")

    plain = objective(BATCH, ROWS, seeded())
    objective.trajectories = Ends()
    assert torch.equal(objective(BATCH, ROWS, seeded())["loss"], plain["loss"])
    assert len(asked) == 1


def test_a_share_of_all_is_one_step_from_each_of_the_teachers_states() -> None:
    steps = 9  # more than the trajectory has: its end is stood on
    objective = mixed(Mixture(first=1.0, last=1.0), shortest=steps, longest=steps)
    losses = objective(BATCH, ROWS, seeded())
    path, model = objective.trajectories(ROWS), objective.teacher
    x, end = model.encode(BATCH), path[-1]
    path = (*path, *[end] * (steps - len(path)))
    step, memory, latent = objective.student.bind(x), None, []
    for z, t in zip(path, objective.schedule.times(steps), strict=True):
        z, memory = step(z, t, memory)
        miss = (z - end).flatten(1).norm(dim=1) / end.flatten(1).norm(dim=1)
        latent.append((miss**2).mean())
    torch.testing.assert_close(losses["latent"], torch.stack(latent).mean())


STATES = {
    "tensor": (torch.zeros(2000, 2), torch.ones(2000, 2)),
    "image": (torch.zeros(2000, 2, 1, 2), torch.ones(2000, 2, 1, 2)),
    "pair": ((torch.zeros(2000), torch.zeros(2000, 3)), (torch.ones(2000), torch.ones(2000, 3))),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("share", (0.0, 0.3, 0.8, 1.0))
def test_samples_are_replaced_as_a_whole_and_as_often_as_said(name: str, share: float) -> None:
    own, other = STATES[name]
    given = mix(own, other, share, seeded(), batched=True)
    assert type(given) is type(own)
    rows = torch.cat([part.reshape(2000, -1) for part in tensors(given)], dim=1)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    spread = 4 * (share * (1 - share) / 2000) ** 0.5
    assert abs(float(rows[:, 0].mean()) - share) <= spread


def test_a_graph_is_replaced_as_a_whole() -> None:
    own, generator = torch.zeros(6, 2), seeded()
    draws = [float(mix(own, own + 1, 0.5, generator, batched=False).mean()) for _ in range(40)]
    assert Counter(draws).keys() == {0.0, 1.0}


def test_a_share_goes_from_first_to_last_in_equal_steps() -> None:
    shares = [Mixture(first=0.8, last=0.2, ramp=3).share(update) for update in range(6)]
    assert shares == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    assert [Mixture(first=0.8, last=0.2).share(update) for update in (0, 9)] == pytest.approx(
        [0.2] * 2
    )
    assert Mixture(first=0.8).pure and Mixture().pure
    assert not any(m.pure for m in (RAMP, Mixture(last=0.1), Mixture(first=0.1, ramp=1)))


def test_updates_are_counted_and_saved() -> None:
    settings = {"mixture": Mixture(first=1.0, last=0.0, ramp=4), "shortest": 5}
    objective, losses = mixed(**settings), []
    for update in range(6):
        assert int(objective.state_dict()["updates"]) == update
        other = mixed(**settings)
        other.load_state_dict(objective.state_dict())
        losses.append(objective(BATCH, ROWS, seeded())["loss"])
        assert torch.equal(other(BATCH, ROWS, seeded())["loss"], losses[-1])
        objective.after_step()
    assert not torch.equal(losses[0], losses[4])
    assert torch.equal(losses[4], losses[5])


# Heads


def headless() -> tuple[FunctionModel, torch.Tensor]:
    cell = torch.nn.Bilinear(4, 4, 4).double()
    model = FunctionModel(lambda z, x: torch.tanh(cell(z, x) / 4 + x), (4,)).to(torch.float64)
    return model, torch.randn(5, 4, dtype=torch.float64, generator=seeded())


def test_a_model_without_a_head_has_no_head_term() -> None:
    model, x = headless()
    path = (torch.zeros_like(x), torch.ones_like(x))
    rollouts = Rollouts(loss=RolloutLoss(head_weight=7.0))
    student = ConsistencyDEQ.from_teacher(model)
    objective = RolloutObjective(student, model, lambda rows: path, rollouts=rollouts)
    with torch.no_grad():
        losses = objective(x, torch.arange(5), seeded())
    assert judge(model, x, path[-1]) is None
    assert float(losses["head"]) == 0.0
    assert torch.equal(losses["loss"], losses["latent"])
    assert float(losses["latent"]) > 0.0


def test_the_judge_asks_the_teacher() -> None:
    model: EquilibriumModel = teacher()
    x = model.encode(BATCH)
    z = torch.rand_like(model.initial(x))
    asked = judge(model, x, z)
    assert asked is not None
    torch.testing.assert_close(asked(z), torch.zeros(12), atol=1e-6, rtol=0)
    expected = model.divergence(model.decode(z + 1, x), model.decode(z, x))
    torch.testing.assert_close(asked(z + 1), expected)
    assert bool((asked(zeros_like(z)) > 0).all())


# Blending


@pytest.mark.parametrize("weight", (0.0, 0.25, 1.0))
def test_a_blend_is_its_two_parts(weight: float) -> None:
    objective, generator, again = blended(weight), seeded(), seeded()
    losses = objective(BATCH, ROWS, generator)
    paper, rollout = (part(BATCH, ROWS, again) for part in (objective.paper, objective.rollout))
    expected = (1 - weight) * paper["loss"] + weight * rollout["loss"]
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-6 * (0 < weight < 1), atol=0)
    assert not torch.equal(paper["loss"], rollout["loss"])
    parts = {f"paper_{name}": value for name, value in paper.items()}
    parts |= {f"rollout_{name}": value for name, value in rollout.items()}
    assert losses.keys() - {"loss"} == parts.keys() - {"paper_loss", "rollout_loss"}
    assert all(torch.equal(losses[name], parts[name]) for name in losses if name != "loss")


def test_after_a_blended_step_both_parts_are_told() -> None:
    objective = blended()
    before = [p.clone() for p in objective.paper.target.module.parameters()]
    for parameter in objective.student.parameters():
        parameter.data += 1.0
    objective.after_step()
    assert int(objective.rollout.updates) == 1
    after = objective.paper.target.module.parameters()
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old + 0.02)


# Training


@each_make
@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_killed_run_continues_to_the_same_bits(
    name: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the ramp, too."""
    monkeypatch.setitem(OBJECTIVES, name, (MAKE[name], images))
    whole, _ = by_hand(name)
    with pytest.raises(Killed):
        run(name, tmp_path, objective=stopped_at(MAKE[name](), step, die))
    resumed = run(name, tmp_path)
    assert same(resumed, whole)
    assert not same(whole, MAKE[name]())
    assert int(getattr(resumed, "rollout", resumed).updates) == PLAN.steps
    assert (tmp_path / CHECKPOINT).exists()


def test_a_ramp_changes_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for ramp in (0, 5, 50):
        make = replace(RAMP, ramp=ramp)
        monkeypatch.setitem(OBJECTIVES, "ramp", (lambda make=make: mixed(make), images))
        ends.append(by_hand("ramp")[0].student)
    assert not any(same(a, b) for a, b in ((ends[0], ends[1]), (ends[1], ends[2])))


@each_make
def test_the_student_alone_is_trained(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(OBJECTIVES, name, (MAKE[name], images))
    objective = run(name, tmp_path)
    part = getattr(objective, "rollout", objective)
    assert same(part.teacher, teacher())
    assert not part.teacher.training and not any(
        p.requires_grad for p in part.teacher.parameters()
    )
    assert not same(part.student, getattr(MAKE[name](), "rollout", MAKE[name]()).student)
    for mode in (True, False, True):
        objective.train(mode)
        assert not part.student.training and not part.teacher.training


# Misuse


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Mixture(first=-0.1), "probabilities in .*first=-0.1"),
        (lambda: Mixture(last=1.1), "probabilities in .*last=1.1"),
        (lambda: Mixture(last=float("nan")), "probabilities in .*last=nan"),
        (lambda: Mixture(ramp=-1), "probabilities in .*ramp=-1"),
        (lambda: Rollouts(shortest=0), "`shortest`"),
        (lambda: Rollouts(shortest=6), "`shortest` … `longest` steps; got 6 … 5"),
        (lambda: blended(-0.1), r"in \[0, 1\]; got -0.1"),
        (lambda: blended(1.5), r"in \[0, 1\]; got 1.5"),
        (lambda: BlendedObjective(distilled(), on_policy(), 0.5), "one student; got two stud"),
    ],
)
def test_impossible_settings_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
