"""The stages of a run: train, cache, distil, few-step. Each is skipped when it is done already."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from cdeq.cli.run_folder import Stage, write_json
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.digest import digest_of
from cdeq.errors import CDEQError
from cdeq.evaluation.audit import audit
from cdeq.evaluation.sweep import distilled, score_few_step, sweep
from cdeq.models.base import EquilibriumModel
from cdeq.plain import to_plain
from cdeq.recipes import Recipe
from cdeq.recipes.base import Splits, StudentRecipe, identity
from cdeq.training.distill import DistillationObjective
from cdeq.training.engine import fit
from cdeq.training.objective import Objective
from cdeq.training.plan import Plan
from cdeq.training.teacher import FewStepObjective, TeacherObjective
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
        fresh: Replace what the stages left there before.
    """

    name: str
    recipe: Recipe
    folder: Path
    console: Console
    fresh: bool = False

    def stage(self, name: str, *decides: object) -> Stage:
        """A stage by name; with `fresh`, without its past."""
        recipe = self.recipe
        stage = Stage(
            self.folder / name, identity(recipe.seed, recipe.hardware.precision, *decides)
        )
        if self.fresh:
            stage.discard()
        return stage

    def teacher(self) -> EquilibriumModel:
        """The trained teacher.

        Raises:
            CDEQError: When it has not been trained yet.
        """
        folder = self.folder / "teacher"
        if not (folder / "done.json").exists():
            raise CDEQError(f"{folder} holds no trained teacher yet; run `cdeq train` first.")
        return self.recipe.read_model(str(folder))

    def student(self, name: str) -> ConsistencyDEQ:
        """A distilled student."""
        return ConsistencyDEQ.from_pretrained(self.folder / name, self.teacher())


def train(run: Run) -> None:
    """Train the teacher, then audit its convergence on the test set."""
    recipe = run.recipe
    data = recipe.data()
    parts = (to_plain(recipe)["network"], recipe.teacher, recipe.data_digest(data.train))  # type: ignore[index,call-overload]
    stage = run.stage("teacher", *parts)
    if (done := stage.outcome()) is not None:
        run.console.print(f"Teacher: already trained in {stage.folder}.")
        run.console.print(done["summary"])
        return
    torch.manual_seed(recipe.seed)
    model = recipe.model()
    objective = TeacherObjective(model, recipe.teacher.loss, recipe.augment())
    plan = recipe.teacher.plan

    def score() -> float:
        return sweep(
            model, {}, data.validation, recipe.metric, (1,),
            reference_steps=recipe.evaluation.reference_steps,
        )[0].value  # fmt: skip

    report = _fit(run, stage, objective, data, plan, "training the teacher", score)
    judged = audit(model.cpu(), data.test, recipe.metric)
    model.save_pretrained(stage.folder)
    write_json(stage.folder / "audit.json", {**asdict(judged), "converges": judged.converges})
    run.console.print(judged.summary())
    stage.finish({"seconds": report, "summary": judged.summary()})


def cache(run: Run) -> None:
    """Write the teacher's trajectories on the training set to disk."""
    recipe, data = run.recipe, run.recipe.data()
    source, manifest = _online(run, data)
    stage = run.stage("cache", to_plain(manifest))
    if recipe.trajectories.online:
        run.console.print("Trajectories are recomputed online by this recipe; nothing to cache.")
        return
    shards = -(-len(data.train) // recipe.trajectories.shard_samples)
    bar = iter(track(range(shards), "caching trajectories  ", console=run.console))
    write_cache(
        stage.folder,
        manifest,
        source,
        shard_samples=recipe.trajectories.shard_samples,
        progress=lambda done, total: next(bar, None),
    )
    list(bar)


def distill(run: Run, name: str) -> None:
    """Distil the recipe's student into the folder `name`."""
    recipe, data = run.recipe, run.recipe.data()
    teacher = run.teacher()
    stage = run.stage(name, recipe.student, recipe.trajectories, digest_of(teacher))
    if stage.outcome() is not None:
        run.console.print(f"{name}: already distilled in {stage.folder}.")
        return
    torch.manual_seed(recipe.seed)
    settings = recipe.student
    student = settings.build(teacher)
    objective = DistillationObjective(
        student,
        teacher,
        _trajectories(run, data),
        settings.schedule,
        loss=settings.loss,
        sampling=settings.sampling,
    )
    score = _student_score(run, student, teacher, data, settings)
    seconds = _fit(run, stage, objective, data, settings.plan, f"distilling {name}", score)
    student.cpu().save_pretrained(stage.folder)
    stage.finish({"seconds": seconds, "inference": to_plain(settings.inference)})


def few_step(run: Run, steps: int) -> None:
    """Train the honest baseline: the same f on labels, with this many unrolled steps."""
    recipe, data = run.recipe, run.recipe.data()
    network = to_plain(recipe)["network"]  # type: ignore[index,call-overload]
    stage = run.stage(
        f"few-step-{steps}", network, recipe.few_step, recipe.data_digest(data.train)
    )
    if stage.outcome() is not None:
        run.console.print(f"few-step-{steps}: already trained in {stage.folder}.")
        return
    torch.manual_seed(recipe.seed)
    model = recipe.model()
    objective = FewStepObjective(model, steps, recipe.augment())

    def score() -> float:
        return score_few_step(model, steps, data.validation, recipe.metric).value

    label = f"training few-step {steps}"
    seconds = _fit(run, stage, objective, data, recipe.few_step, label, score)
    model.cpu().save_pretrained(stage.folder)
    stage.finish({"seconds": seconds})


def _fit(
    run: Run,
    stage: Stage,
    objective: Objective,
    data: Splits,
    plan: Plan,
    label: str,
    score: Callable[[], float],
) -> float:
    """Train in the stage's folder; the seconds it took."""
    report = fit(
        objective,
        data.train,
        plan,
        stage.folder,
        seed=run.recipe.seed,
        identity=stage.identity,
        label=label,
        hardware=run.recipe.hardware,
        score=score if plan.validate_every else None,
    )
    return report.seconds


def _student_score(
    run: Run,
    student: ConsistencyDEQ,
    teacher: EquilibriumModel,
    data: Splits,
    settings: StudentRecipe,
) -> Callable[[], float]:
    """The student's mean validation score over the budgets."""
    budgets = run.recipe.evaluation.budgets

    def score() -> float:
        method = distilled(student, settings.inference)
        rows = sweep(teacher, {"student": method}, data.validation, run.recipe.metric, budgets)
        own = [
            r.value for r in rows if r.model == "student" and r.metric == run.recipe.metric.name
        ]
        return sum(own) / len(own)

    return score


def _online(run: Run, data: Splits) -> tuple[OnlineTrajectories, Manifest]:
    recipe, teacher = run.recipe, run.teacher()
    settings = recipe.trajectories
    source = OnlineTrajectories(
        teacher=teacher,
        contexts=data.train.take,
        solver=settings.solver,
        max_steps=settings.max_steps,
    )
    manifest = Manifest(
        teacher=digest_of(teacher, settings=str(to_plain(teacher.spec))),
        data=recipe.data_digest(data.train),
        solver=repr(settings.solver),
        initial="zero",
        max_steps=settings.max_steps,
        samples=len(data.train),
        dtype=settings.dtype,
    )
    return source, manifest


def _trajectories(run: Run, data: Splits) -> TrajectorySource:
    source, manifest = _online(run, data)
    if run.recipe.trajectories.online:
        return source
    return TrajectoryStore(run.folder / "cache", manifest)
