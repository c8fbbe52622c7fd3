"""What the stages of a run share, and its first: train the teacher. A stage that is done already
is skipped."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from rich.console import Console

from cdeq.cli.bars import patient_bar
from cdeq.cli.run_folder import DONE, Stage, versions, write_json
from cdeq.data.indexed import IndexedData
from cdeq.errors import CDEQError
from cdeq.evaluation.audit import audit
from cdeq.evaluation.sweep import score_few_step, sweep
from cdeq.models.base import EquilibriumModel
from cdeq.plain import Plain, to_plain
from cdeq.recipes import Recipe
from cdeq.recipes.base import Splits
from cdeq.training.engine import device_of, fit, forget
from cdeq.training.objective import Objective
from cdeq.training.plan import Plan
from cdeq.training.processes import is_main, on_main
from cdeq.training.teacher import FewStepObjective, TeacherObjective

SplitName: TypeAlias = Literal["train", "validation", "test"]


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
        with patient_bar(self.console) as progress:
            on_main(lambda: self.recipe.prepare(progress))
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
        changed = recipe.augment()
        if is_dataclass(changed):  # a function has no settings
            settings |= {"augmentation": changed}
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

    def told(
        self, name: SplitName, teacher: EquilibriumModel, samples: int | None = None
    ) -> IndexedData:
        """A part of the data with what the teacher tells about each sample, where that is more
        than can be computed sample by sample."""
        part, path = getattr(self.data, name), self.told_folder(name) / "states"
        done, start = path.with_name(DONE), time.perf_counter()
        with patient_bar(self.console) as progress:
            advance = partial(progress, f"reading {name}")
            on_main(
                lambda: self.recipe.told(part, teacher, path, samples=samples, advance=advance)
            )
        if is_main() and path.exists() and not done.exists():
            write_json(done, {"outcome": {"seconds": time.perf_counter() - start}})
        return self.recipe.told(part, teacher, path, samples=samples)

    def told_folder(self, name: SplitName) -> Path:
        """Where what a teacher tells about a part of the data is kept."""
        return self.folder / "memory" / name


def teacher_stage(run: Run) -> Stage:
    """The teacher's training."""
    recipe = run.recipe
    plan = recipe.teacher.plan
    watched = {"evaluation": {"reference_steps": recipe.evaluation.reference_steps}}
    return run.training("teacher", plan, watched, network=recipe.network, teacher=recipe.teacher)


def train(run: Run) -> None:
    """Train the teacher, then audit its convergence on the test set."""
    stage, recipe, data = teacher_stage(run), run.recipe, run.data
    if (done := run.finished(stage)) is not None:
        said = f"Teacher: already trained in {stage.folder}.\n{done['summary']}"
        run.console.print(said, highlight=False, soft_wrap=True)
        return
    for remark in recipe.remarks:
        run.console.print(remark, highlight=False, markup=False, soft_wrap=True)
    torch.manual_seed(recipe.seed)
    model = recipe.model()
    seconds = pretrain(run, model)
    objective = TeacherObjective(model, recipe.teacher.loss, recipe.augment())

    def score() -> float:
        return recipe.metric.upward(
            sweep(
                model, {}, data.validation, recipe.metric, (1,),
                reference_steps=recipe.evaluation.reference_steps,
                # closer than a choice between weights can tell
                reference_tol=max(recipe.evaluation.reference_tol or 0.0, 1e-6),
            )[0].value
        )  # fmt: skip

    seconds += fit_stage(run, stage, objective, recipe.teacher.plan, "training the teacher", score)
    probed = run.told("test", model, recipe.evaluation.probed)

    def conclude() -> None:
        judged = audit(model, probed, recipe.metric)
        model.save_pretrained(stage.folder)
        recipe.save_beside(stage.folder)
        verdict = {"converges": judged.converges, "summary": judged.summary()}
        write_json(stage.folder / "audit.json", {**asdict(judged), **verdict})
        finish_stage(stage, {"seconds": seconds, **verdict})
        run.console.print(judged.summary(), highlight=False, soft_wrap=True)

    on_main(conclude)


def pretrain(run: Run, model: EquilibriumModel) -> float:
    """Train a teacher-to-be as a network of few steps, where its recipe asks for that; the
    seconds it took."""
    recipe, first = run.recipe, run.recipe.teacher.pretraining
    if first is None:
        return 0.0
    stage = run.training("pretraining", first.plan, {}, network=recipe.network, first=first)
    if (done := run.finished(stage)) is not None:
        ready = recipe.read_model(str(stage.folder))
        model.load_state_dict(ready.state_dict())
        return float(str(done["seconds"]))
    objective = FewStepObjective(model, first.steps, recipe.augment())

    def score() -> float:
        found = score_few_step(model, first.steps, run.data.validation, recipe.metric)
        return recipe.metric.upward(found.value)

    seconds = fit_stage(run, stage, objective, first.plan, "pre-training", score)

    def conclude() -> None:
        model.save_pretrained(stage.folder)
        finish_stage(stage, {"seconds": seconds})

    on_main(conclude)
    return seconds


def fit_stage(
    run: Run,
    stage: Stage,
    objective: Objective,
    plan: Plan,
    label: str,
    score: Callable[[], float],
    data: IndexedData | None = None,
) -> float:
    """Train in the stage's folder, on the recipe's training data or others; the seconds it
    took."""
    on_main(lambda: run.begin(stage))
    report = fit(
        objective,
        run.data.train if data is None else data,
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
