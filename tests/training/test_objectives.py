"""What is minimised: the same numbers by another route, and nothing else is touched."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.toys import OBJECTIVES, PLAN, SPEC, distilled, images, run, same, taught, teacher

from cdeq.consistency.loss import DistillationLoss
from cdeq.core.regularize import jacobian_penalty, radius_penalty
from cdeq.evaluation.metrics import ACCURACY
from cdeq.evaluation.sweep import score_few_step
from cdeq.models.function import FunctionModel
from cdeq.models.vision.contraction import ContractionDEQ
from cdeq.training.distill import Sampling
from cdeq.training.on_policy import judge
from cdeq.training.teacher import FewStepObjective, TeacherLoss, TeacherObjective

BATCH, ROWS = images().take(torch.arange(12)), torch.arange(12)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize("name", ["teacher", "few-step", "distillation"])
def test_a_loss_is_a_function_of_weights_batch_and_seed(name: str) -> None:
    objective = OBJECTIVES[name][0]().train()
    first, again = (objective(BATCH, ROWS, seeded()) for _ in range(2))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


# Teacher


def test_every_budget_is_drawn_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, seen, generator = taught(), list[int](), seeded()
    solve = objective.model.deq.solve

    def spy(*args: object, max_steps: int) -> object:
        seen.append(max_steps)
        return solve(*args, max_steps=max_steps)

    monkeypatch.setattr(objective.model.deq, "solve", spy)
    for _ in range(60):
        objective(BATCH, ROWS, generator)
    assert set(seen) == set(range(2, 9))


def test_what_is_penalised_is_the_map_that_was_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, maps = teacher(), list[object]()
    bind = model.bind

    def spy(x: object) -> object:
        maps.append(bind(x))
        return maps[-1]

    monkeypatch.setattr(model, "bind", spy)
    weights = {"jacobian_weight": 1.0, "radius_weight": 1.0, "radius_limit": 0.01}
    TeacherLoss(shortest=2, longest=3, **weights)(model, BATCH, seeded())
    assert len(maps) == 1


@pytest.mark.parametrize(("probability", "starts"), [(0.0, {0.0}), (1.0, {1.0})])
def test_the_share_of_random_starts(
    probability: float, starts: set[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = teacher(), set[float]()
    solve = model.deq.solve

    def spy(x: object, z0: torch.Tensor, **settings: int) -> object:
        seen.add(round(float(z0.std())))
        return solve(x, z0, **settings)

    monkeypatch.setattr(model.deq, "solve", spy)
    loss = TeacherLoss(shortest=2, longest=3, random_start=probability)
    for _ in range(20):
        loss(model, BATCH, seeded())
    assert seen == starts


def test_a_share_of_the_updates_has_the_whole_penalty() -> None:
    model, generator = teacher(), seeded()
    loss = TeacherLoss(shortest=2, longest=3, jacobian_weight=0.5, jacobian_share=0.25)
    found = [loss(model, BATCH, generator).terms for _ in range(60)]
    struck = [terms for terms in found if "jacobian" in terms]
    assert 6 <= len(struck) <= 24
    for terms in struck:
        torch.testing.assert_close(terms["loss"], terms["task"] + 2.0 * terms["jacobian"])
    assert all(terms.keys() == {"loss"} for terms in found if "jacobian" not in terms)


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("radius", [0.0, 3.0])
def test_the_teacher_loss_is_its_parts(weight: float, radius: float) -> None:
    model, steps = teacher(), 60
    loss = TeacherLoss(
        shortest=steps, longest=steps, random_start=0.0, jacobian_weight=weight,
        radius_weight=radius, radius_limit=0.01,
    )  # fmt: skip
    generator = seeded()
    got = loss(model, BATCH, generator).terms
    x = model.encode(BATCH)
    z = model.deq(x, model.initial(x), max_steps=steps).z
    task = torch.nn.functional.cross_entropy(model.decode(z, x), BATCH.label)
    again = seeded()
    torch.randint(0, 1, (), generator=again)  # the budget
    torch.rand((), generator=again)  # the start
    total, parts = task, {"task": task}
    if weight:
        parts["jacobian"] = jacobian_penalty(model.bind(x), z, generator=again).mean()
        total = total + weight * parts["jacobian"]
    if radius:
        parts["radius"] = radius_penalty(model.bind(x), z, limit=0.01, generator=again).mean()
        total = total + radius * parts["radius"]
    torch.testing.assert_close(got["loss"], total)
    named = {name: part for name, part in got.items() if name != "loss"}
    torch.testing.assert_close(named, parts if weight or radius else {})


def test_a_radius_within_its_limit_changes_no_gradient() -> None:
    """A contraction of factor .98 pays for no limit above that."""
    model = teacher()
    plain = TeacherLoss(shortest=8, longest=8, random_start=0.0)
    slopes = []
    for loss in (plain, replace(plain, radius_weight=5.0, radius_limit=0.99)):
        model.zero_grad()
        loss(model, BATCH, seeded()).terms["loss"].backward()
        slopes.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*slopes)


def test_of_a_graph_there_is_one_radius() -> None:
    """Not one a node: the samples of a batch are no rows of its state."""
    model = FunctionModel(
        lambda z, x: 0.5 * z.roll(1, 0) + x, (6, 2), loss=lambda y, x: y.square().mean(1),
        decode=lambda z, x: z, batched=False,
    )  # fmt: skip
    loss = TeacherLoss(
        shortest=30, longest=30, random_start=0.0, radius_weight=1.0, radius_limit=0.2
    )
    found = loss(model, torch.ones(6, 2), seeded()).terms
    torch.testing.assert_close(found["radius"], torch.tensor(0.09))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shortest": 0}, "both ≥ 1; got 0 … 35"),
        ({"shortest": 9, "longest": 8}, "got 9 … 8"),
        ({"random_start": 1.1}, "`random_start` is a probability"),
        ({"jacobian_share": 0.0}, "`jacobian_share` is the probability in .* always; got 0.0"),
        ({"jacobian_weight": -0.1}, "`jacobian_weight` weighs a penalty, so it is ≥ 0; got -0.1"),
        ({"radius_weight": -0.1}, "`radius_weight` weighs a penalty, so it is ≥ 0; got -0.1"),
        ({"radius_weight": float("nan")}, "`radius_weight` weighs a penalty.*; got nan"),
        ({"radius_limit": 0.0}, "`radius_limit` is a spectral radius above 0; got 0.0"),
        ({"radius_limit": float("nan")}, "`radius_limit` is a spectral radius above 0; got nan"),
    ],
)
def test_impossible_teacher_losses_are_refused(settings: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TeacherLoss(**settings)


def test_batches_are_augmented_with_the_generator() -> None:
    plain = TeacherObjective(teacher(), TeacherLoss(shortest=8, longest=8, random_start=0.0))
    doubled = TeacherObjective(
        teacher(),
        plain.teacher_loss,
        lambda batch, generator: batch._replace(image=2 * batch.image),
    )
    twice = BATCH._replace(image=2 * BATCH.image)
    assert torch.equal(
        doubled(BATCH, ROWS, seeded())["loss"], plain(twice, ROWS, seeded())["loss"]
    )


# Few steps


@pytest.mark.parametrize("steps", [1, 3])
def test_training_and_scoring_unroll_alike(steps: int) -> None:
    """The answers whose loss is taken are those whose accuracy is reported."""
    model = teacher()
    answers: list[torch.Tensor] = []
    decode = ContractionDEQ.decode

    class Noting(ContractionDEQ):
        def decode(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            answers.append(decode(self, z, x))
            return answers[-1]

    noting = Noting(SPEC)
    noting.load_state_dict(model.state_dict())
    FewStepObjective(noting, steps)(BATCH, ROWS, seeded())
    score_few_step(noting, steps, images(), ACCURACY)
    torch.testing.assert_close(answers[0], answers[1])
    torch.testing.assert_close(answers[0], unrolled(model, steps))


def unrolled(model: ContractionDEQ, steps: int) -> torch.Tensor:
    x = model.encode(BATCH)
    z = model.initial(x)
    for _ in range(steps):
        z = model.deq.cell(z, model.deq.cell.prepare(x))
    return model.decode(z, x)


# Distillation


def test_the_target_is_the_running_average(tmp_path: Path) -> None:
    objective = distilled()
    path = [parameters(objective.student)]
    update = objective.after_step

    def noting() -> None:
        update()
        path.append(parameters(objective.student))

    objective.after_step = noting  # type: ignore[method-assign]
    run("distillation", tmp_path, objective=objective)
    average = path[0]
    for weights in path[1:]:
        average = 0.98 * average + 0.02 * weights
    torch.testing.assert_close(parameters(objective.target.module), average)
    assert len(path) == PLAN.steps + 1
    assert not torch.equal(path[0], path[-1])


def parameters(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_only_the_student_is_trained(tmp_path: Path) -> None:
    objective = distilled()
    model, student = deepcopy(objective.teacher), deepcopy(objective.student)
    run("distillation", tmp_path, objective=objective)
    assert same(objective.teacher, model)
    assert not same(objective.student, student)
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert trained == {f"student.{name}" for name, _ in student.named_parameters()}


def test_nothing_has_a_training_mode() -> None:
    objective = distilled()
    for mode in (True, False, True):
        assert not any(module.training for module in objective.train(mode).modules())


def test_without_labels_the_task_weight_is_needed() -> None:
    objective = distilled()
    objective.loss = DistillationLoss(task_weight=0.0)
    losses = objective(BATCH, ROWS, seeded())
    wrong = BATCH._replace(label=BATCH.label.roll(1))
    assert float(losses["task"]) == 0.0
    assert torch.equal(objective(wrong, ROWS, seeded())["loss"], losses["loss"])
    objective.loss = DistillationLoss()
    right = objective(BATCH, ROWS, seeded())["loss"]
    assert not torch.equal(objective(wrong, ROWS, seeded())["loss"], right)


def test_a_path_is_the_same_under_mixed_precision() -> None:
    """Online or from a cache: mixed precision is for the student's evaluations."""
    objective, seen = distilled(), list[torch.Tensor]()
    source = objective.trajectories

    def noting(indices: torch.Tensor) -> tuple:
        path = source(indices)
        seen.append(torch.stack(path))
        return path

    objective.trajectories = noting
    objective(BATCH, ROWS, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective(BATCH, ROWS, seeded())
    assert torch.equal(*seen)
    assert seen[0].dtype == torch.float32


def test_states_between_unrolled_steps_stay_wide_under_mixed_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though f's own last operation is a narrow one."""
    model, seen = teacher(), list[torch.dtype]()

    def f(z: torch.Tensor) -> torch.Tensor:
        seen.append(z.dtype)
        return torch.conv2d(z, torch.eye(z.shape[1])[:, :, None, None])

    monkeypatch.setattr(model, "bind", lambda x: f)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        FewStepObjective(model, 3)(BATCH, ROWS, seeded())
    assert seen == [torch.float32] * 3


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decays_are_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"`ema_decay` is the rate μ in .* got {decay}"):
        Sampling(ema_decay=decay)


def test_a_larger_first_index_is_refused_when_it_is_met() -> None:
    objective = distilled()
    objective.sampling = replace(Sampling(), first=7)
    with pytest.raises(ValueError, match="0 ≤ first ≤ K; got 7 … 6"):
        objective(BATCH, ROWS, seeded())


def test_a_divergence_without_a_head_is_listened_to() -> None:
    model = FunctionModel(
        lambda z, x: z / 2 + x,
        (4,),
        divergence=lambda given, wanted: (given - wanted).abs().sum(1),
    )
    x = torch.rand(5, 4)
    asked = judge(model, x, 2 * x)
    assert asked is not None
    assert torch.equal(asked(x), x.sum(1))
