"""The baselines of a run: the same f with few steps, and explicit networks, trained on labels."""

from dataclasses import replace

import torch

from cdeq.cli.run_folder import DONE, Stage
from cdeq.cli.stages import Run, finish_stage, fit_stage, pretrain
from cdeq.errors import StoreError
from cdeq.evaluation.explicit import AnyExplicit, score_explicit
from cdeq.evaluation.sweep import score_few_step
from cdeq.models.base import EquilibriumModel
from cdeq.training.engine import device_of
from cdeq.training.processes import on_main
from cdeq.training.teacher import FewStepObjective


def few_step_stage(run: Run, steps: int) -> Stage:
    """The training of a baseline."""
    recipe = run.recipe
    name, plan, first = f"few-step-{steps}", recipe.few_step, recipe.teacher.pretraining
    return run.training(name, plan, {}, network=recipe.network, few_step=plan, first=first)


def few_step(run: Run, steps: int) -> None:
    """Train the honest baseline: the same f on labels, with this many unrolled steps; where the
    teacher is pre-trained, from there, so that both have the same beginning."""
    stage, recipe = few_step_stage(run, steps), run.recipe
    if run.finished(stage) is not None:
        run.console.print(f"few-step-{steps}: already trained in {stage.folder}.")
        return
    torch.manual_seed(recipe.seed)
    model = recipe.model()
    before = _begun(run, model)
    objective = FewStepObjective(model, steps, recipe.augment())

    def score() -> float:
        found = score_few_step(model, steps, run.data.validation, recipe.metric)
        return recipe.metric.upward(found.value)

    seconds = before + fit_stage(
        run, stage, objective, recipe.few_step, f"training few-step {steps}", score
    )

    def conclude() -> None:
        model.save_pretrained(stage.folder)
        finish_stage(stage, {"seconds": seconds})

    on_main(conclude)


def _begun(run: Run, model: EquilibriumModel) -> float:
    """Pre-train as the teacher does; what it has done is never replaced from here."""
    try:
        return pretrain(replace(run, fresh=False), model)
    except StoreError as error:
        raise StoreError(
            f"{error} Pre-training is the teacher's: `cdeq train {run.name} --fresh` repeats both."
        ) from error


def explicit_stage(run: Run, name: str) -> Stage:
    """The training of an explicit network."""
    settings = run.recipe.explicit_networks[name]
    return run.training(name, settings.plan, {}, explicit=settings)


def explicit(run: Run, name: str) -> None:
    """Train one of the recipe's explicit networks into the folder of its name."""
    stage, recipe = explicit_stage(run, name), run.recipe
    if run.finished(stage) is not None:
        run.console.print(f"{name}: already trained in {stage.folder}.")
        return
    settings = recipe.explicit_networks[name]
    torch.manual_seed(recipe.seed)
    model = recipe.explicit_model(name)
    objective = settings.objective(model, recipe.augment())
    data = recipe.explicit_data(name, run.data)

    def score() -> float:
        found = score_explicit(name, model, data.validation, recipe.metric)
        return recipe.metric.upward(found.value)

    seconds = fit_stage(
        run, stage, objective, settings.plan, f"training {name}", score, data.train
    )

    def conclude() -> None:
        model.save_pretrained(stage.folder)
        finish_stage(stage, {"seconds": seconds})

    on_main(conclude)


def few_step_models(run: Run) -> dict[int, EquilibriumModel]:
    """The finished ones, by their number of steps, where the teacher is."""
    names = (path.parent.name for path in run.folder.glob(f"few-step-*/{DONE}"))
    steps = sorted(int(name.rsplit("-", 1)[1]) for name in names)
    folders = {n: stage.folder for n in steps if (stage := few_step_stage(run, n)).outcome()}
    here = device_of(run.recipe.hardware)
    return {n: run.recipe.read_model(str(folder)).to(here) for n, folder in folders.items()}


def explicit_models(run: Run) -> dict[str, AnyExplicit]:
    """The finished ones, by name, where the teacher is: their costs are over its own."""
    recipes, here = run.recipe.explicit_networks, device_of(run.recipe.hardware)
    stages = {name: explicit_stage(run, name) for name in recipes}
    return {
        name: recipes[name].read(stage.folder).to(here)
        for name, stage in stages.items()
        if stage.outcome() is not None
    }
