"""The stages of a run: train, cache, distil. Each is skipped when it is done already."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from cdeq.cli.run_folder import DONE, Stage, versions, write_json
from cdeq.consistency.refine import Student
from cdeq.consistency.time import Schedule
from cdeq.data.indexed import to_device
from cdeq.digest import digest_of
from cdeq.errors import CDEQError, StoreError
from cdeq.evaluation.audit import audit
from cdeq.evaluation.sweep import distilled, sweep
from cdeq.models.base import EquilibriumModel
from cdeq.plain import Plain, to_plain
from cdeq.recipes import Recipe
from cdeq.recipes.base import Splits
from cdeq.training.engine import device_of, fit, forget
from cdeq.training.objective import Objective
from cdeq.training.plan import Plan
from cdeq.training.processes import on_main
from cdeq.training.teacher import TeacherObjective
from cdeq.trajectories import (
    Manifest,
    OnlineTrajectories,
    TrajectorySource,
    TrajectoryStore,
    write_cache,
)


@dataclass(frozen=True)
class Run:
    """A recipe at work in a folder.

    Arguments:
        name: The recipe's.
        recipe: All settings.
        folder: Where everything goes.
        console: Where messages go.
        command: The command line, for the records.
        fresh: Replace what the stages left there before.
    """

    name: str
    recipe: Recipe
    folder: Path
    console: Console
    command: str
    fresh: bool = False

    @cached_property
    def data(self) -> Splits:
        """The data in its three parts."""
        return self.recipe.data()

    def stage(self, name: str, **settings: object) -> Stage:
        """A stage by name, and everything that decides its outcome."""
        decides = {"seed": self.recipe.seed, **settings}
        return Stage(self.folder / name, {key: to_plain(part) for key, part in decides.items()})

    def training(
        self, name: str, plan: Plan, watched: Mapping[str, object], **settings: object
    ) -> Stage:
        """A stage that trains a model.

        Arguments:
            name: Of its folder.
            plan: How it is trained.
            watched: What decides the validation score; without validation it decides nothing.
            settings: What decides its outcome besides.
        """
        recipe, data = self.recipe, {"train": self.recipe.data_digest(self.data.train)}
        if plan.validate_every:
            data |= {"validation": recipe.data_digest(self.data.validation)}
            settings |= watched
        hardware = {name: getattr(recipe.hardware, name) for name in ("devices", "precision")}
        return self.stage(name, data=data, hardware=hardware, **settings)

    def finished(self, stage: Stage) -> dict[str, Plain] | None:
        """What a stage reported when it finished; None when it is to be done (again).

        Raises:
            StoreError: When its folder belongs to other settings.
        """
        return None if self.fresh else stage.outcome()

    def begin(self, stage: Stage) -> None:
        """Make room for a stage, and write what it is made by."""
        if self.fresh:
            stage.discard()
        origin = {"recipe": to_plain(self.recipe), "versions": versions(), "command": self.command}
        stage.begin(origin)

    def teacher(self) -> EquilibriumModel:
        """The trained teacher.

        Raises:
            CDEQError: When it has not been trained yet.
            StoreError: When it was trained with other settings.
        """
        stage = teacher_stage(self)
        done = stage.outcome()
        if done is None:
            raise CDEQError(
                f"{stage.folder} holds no trained teacher yet; run `cdeq train {self.name}` first."
            )
        return self.recipe.read_model(str(stage.folder)).to(device_of(self.recipe.hardware))


def teacher_stage(run: Run) -> Stage:
    """The teacher's training."""
    recipe = run.recipe
    plan = recipe.teacher.plan
    watched = {"evaluation": {"reference_steps": recipe.evaluation.reference_steps}}
    return run.training("teacher", plan, watched, network=recipe.network, teacher=recipe.teacher)


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


def train(run: Run) -> None:
    """Train the teacher, then audit its convergence on the test set."""
    stage, recipe, data = teacher_stage(run), run.recipe, run.data
    if (done := run.finished(stage)) is not None:
        said = f"Teacher: already trained in {stage.folder}.\n{done['summary']}"
        run.console.print(said, highlight=False, soft_wrap=True)
        return
    torch.manual_seed(recipe.seed)
    model = recipe.model()
    objective = TeacherObjective(model, recipe.teacher.loss, recipe.augment())

    def score() -> float:
        return sweep(
            model, {}, data.validation, recipe.metric, (1,),
            reference_steps=recipe.evaluation.reference_steps,
        )[0].value  # fmt: skip

    seconds = fit_stage(run, stage, objective, recipe.teacher.plan, "training the teacher", score)

    def conclude() -> None:
        judged = audit(model, data.test, recipe.metric)
        model.save_pretrained(stage.folder)
        verdict = {"converges": judged.converges, "summary": judged.summary()}
        write_json(stage.folder / "audit.json", {**asdict(judged), **verdict})
        finish_stage(stage, {"seconds": seconds, **verdict})
        run.console.print(judged.summary(), highlight=False, soft_wrap=True)

    on_main(conclude)


def cache(run: Run) -> None:
    """Write the teacher's trajectories to disk."""
    recipe, folder = run.recipe, run.folder / "cache"
    teacher = run.teacher()
    source, manifest = _online(run, teacher)
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
    seconds = fit_stage(run, stage, objective, settings.plan, f"distilling {name}", score)

    def conclude() -> None:
        student.save_pretrained(stage.folder)
        finish_stage(stage, {"seconds": seconds})

    on_main(conclude)


def fit_stage(
    run: Run,
    stage: Stage,
    objective: Objective,
    plan: Plan,
    label: str,
    score: Callable[[], float],
) -> float:
    """Train in the stage's folder; the seconds it took."""
    on_main(lambda: run.begin(stage))
    report = fit(
        objective,
        run.data.train,
        plan,
        stage.folder,
        seed=run.recipe.seed,
        identity=stage.identity,
        label=label,
        hardware=run.recipe.hardware,
        score=score if plan.validate_every else None,
    )
    return report.seconds


def finish_stage(stage: Stage, outcome: dict[str, object]) -> None:
    """Say what came of a stage whose weights are safe."""
    stage.finish(outcome)
    forget(stage.folder)  # last: until here a killed run has its training back


def _student_score(
    run: Run, student: Student, teacher: EquilibriumModel, inference: Schedule
) -> Callable[[], float]:
    """The student's mean validation score over the budgets."""
    metric, budgets = run.recipe.metric, run.recipe.evaluation.budgets

    def score() -> float:
        method = distilled(student, inference)
        rows = sweep(teacher, {"student": method}, run.data.validation, metric, budgets)
        own = [r.value for r in rows if r.model == "student" and r.metric == metric.name]
        return sum(own) / len(own)

    return score


def _online(run: Run, teacher: EquilibriumModel) -> tuple[OnlineTrajectories, Manifest]:
    recipe, train = run.recipe, run.data.train
    settings = recipe.trajectories
    source = OnlineTrajectories(
        teacher=teacher,
        contexts=lambda rows: to_device(train.take(rows), teacher.device),
        solver=settings.solver,
        max_steps=settings.max_steps,
    )
    manifest = Manifest(
        teacher=digest_of(teacher, settings=str(to_plain(teacher.spec))),
        data=recipe.data_digest(train),
        solver=repr(settings.solver),
        initial="zero",
        max_steps=settings.max_steps,
        samples=len(train),
        dtype=settings.dtype,
    )
    return source, manifest


def _trajectories(run: Run, teacher: EquilibriumModel) -> TrajectorySource:
    source, manifest = _online(run, teacher)
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
