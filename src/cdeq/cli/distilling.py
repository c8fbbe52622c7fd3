"""The middle stages of a run: write the teacher's trajectories, and distil from them."""

import time
from collections.abc import Callable

import torch
from rich.progress import track

from cdeq.cli.run_folder import DONE, Stage, write_json
from cdeq.cli.stages import Run, finish_stage, fit_stage, teacher_stage
from cdeq.consistency.refine import Student
from cdeq.consistency.time import Schedule
from cdeq.data.indexed import to_device
from cdeq.digest import digest_of
from cdeq.errors import CDEQError, StoreError
from cdeq.evaluation.sweep import distilled, sweep
from cdeq.models.base import EquilibriumModel
from cdeq.plain import to_plain
from cdeq.training.processes import on_main
from cdeq.trajectories import (
    Manifest,
    OnlineTrajectories,
    TrajectorySource,
    TrajectoryStore,
    write_cache,
)


def student_stage(run: Run, name: str, teacher: EquilibriumModel) -> Stage:
    """The distillation of one student."""
    recipe, settings = run.recipe, run.recipe.students[name]
    decides = {key: part for key, part in vars(settings).items() if key != "inference"}
    watched = {
        "evaluation": {"budgets": recipe.evaluation.budgets},
        "student": {**decides, "inference": settings.inference},
    }
    return run.training(
        name,
        settings.plan,
        watched,
        student=decides,
        trajectories=recipe.trajectories,
        teacher_weights=digest_of(teacher),
    )


def cache(run: Run) -> None:
    """Write the teacher's trajectories to disk."""
    recipe, folder = run.recipe, run.folder / "cache"
    teacher = run.teacher()
    source, manifest = online(run, teacher)
    if recipe.trajectories.online:
        run.console.print("Trajectories are recomputed online by this recipe; nothing to cache.")
        return
    shards = -(-manifest.samples // recipe.trajectories.shard_samples)

    def write() -> None:
        if run.fresh:
            Stage(folder, {}).discard()
        bar = iter(track(range(shards), "caching trajectories  ", console=run.console))
        start = time.perf_counter()
        write_cache(
            folder,
            manifest,
            source,
            shard_samples=recipe.trajectories.shard_samples,
            batched=teacher.deq.batched,
            progress=lambda done, total: next(bar, None),
        )
        list(bar)
        if not (folder / DONE).exists():  # reading a finished cache costs nothing
            write_json(folder / DONE, {"outcome": {"seconds": time.perf_counter() - start}})

    on_main(write)


def distill(run: Run, name: str) -> None:
    """Distil one of the recipe's students into the folder of its name."""
    teacher = run.teacher()
    stage, settings = student_stage(run, name, teacher), run.recipe.students[name]
    if run.finished(stage) is not None:
        run.console.print(f"{name}: already distilled in {stage.folder}.")
        return
    trajectories = _trajectories(run, teacher)
    if not (teacher_stage(run).outcome() or {})["converges"]:
        run.console.print(f"{name}: its teacher does not converge, so there is no end to distil.")
    torch.manual_seed(run.recipe.seed)
    objective = settings.objective(teacher, trajectories)
    student = objective.student
    score = _student_score(run, student, teacher, settings.inference)
    data = run.told("train", teacher, run.recipe.trajectories.samples)
    seconds = fit_stage(run, stage, objective, settings.plan, f"distilling {name}", score, data)

    def conclude() -> None:
        student.save_pretrained(stage.folder)
        finish_stage(stage, {"seconds": seconds})

    on_main(conclude)


def _student_score(
    run: Run, student: Student, teacher: EquilibriumModel, inference: Schedule
) -> Callable[[], float]:
    """The student's mean validation score over the budgets."""
    metric, budgets = run.recipe.metric, run.recipe.evaluation.budgets

    def score() -> float:
        method = distilled(student, inference)
        rows = sweep(
            teacher, {"student": method}, run.data.validation, metric, budgets, reference_steps=1
        )  # z* is not looked at here
        own = [r.value for r in rows if r.model == "student" and r.metric == metric.name]
        return metric.upward(sum(own) / len(own))

    return score


def online(run: Run, teacher: EquilibriumModel) -> tuple[OnlineTrajectories, Manifest]:
    """The trajectories that a run's recipe asks for, and what they are of."""
    recipe, settings = run.recipe, run.recipe.trajectories
    train = run.told("train", teacher, settings.samples)
    source = OnlineTrajectories(
        teacher=teacher,
        contexts=lambda rows: to_device(train.take(rows), teacher.device),
        solver=settings.solver,
        max_steps=settings.max_steps,
        end_tol=settings.end_tol,
    )
    manifest = Manifest(
        teacher=digest_of(teacher, settings=str(to_plain(teacher.spec))),
        data=recipe.data_digest(run.data.train),
        solver=repr(settings.solver),
        initial="zero",
        max_steps=settings.max_steps,
        samples=len(train),
        dtype=settings.dtype,
    )
    return source, manifest


def _trajectories(run: Run, teacher: EquilibriumModel) -> TrajectorySource:
    source, manifest = online(run, teacher)
    folder = run.folder / "cache"
    if run.recipe.trajectories.online:
        return source
    if not folder.exists():
        raise CDEQError(
            f"{folder} holds no trajectories yet; run `cdeq cache {run.name}` first, or recompute "
            "them all the time with `--trajectories.online`."
        )
    try:
        return TrajectoryStore(folder, manifest)
    except StoreError as error:
        raise StoreError(
            f"{error} Here that is `cdeq cache {run.name}`, or with `--fresh` to replace it."
        ) from error
