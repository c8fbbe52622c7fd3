"""The commands; each is a function of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cdeq.cli import baselines, distilling, evaluating, generating, predicting, scoring, stages
from cdeq.cli.generating import Generate
from cdeq.cli.measuring import Ready
from cdeq.cli.predicting import Predict
from cdeq.cli.run_folder import DONE
from cdeq.cli.stages import Run
from cdeq.data.labels import Labels
from cdeq.data.tokenizer import load_tokenizer
from cdeq.errors import CDEQError
from cdeq.models.base import EquilibriumModel
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.vision.mdeq import MDEQ
from cdeq.recipes.base import TOKENIZER
from cdeq.recipes.image import LABELS, ImageRecipe
from cdeq.recipes.language import LanguageRecipe
from cdeq.training.engine import device_of, launch
from cdeq.training.processes import on_main, part

Options: TypeAlias = Generate | Predict
"""What commands can be told besides a recipe."""


def train(run: Run) -> None:
    """Train the teacher and audit its convergence."""
    stages.train(run)


def cache(run: Run) -> None:
    """Write the teacher's trajectories to disk."""
    distilling.cache(run)


def distill(run: Run) -> None:
    """Distil the students; `--distil student-paper` for one of them."""
    for name in run.recipe.students:
        distilling.distill(run, name)


def baseline(run: Run) -> None:
    """Train the baseline: the same f on labels, a network for each number of steps."""
    for steps in run.recipe.few_step_budgets or run.recipe.evaluation.budgets:
        baselines.few_step(run, steps)


def explicit(run: Run) -> None:
    """Train explicit networks to compare with; `--explicit gcn` for one of them."""
    if not run.recipe.explicit_networks:
        run.console.print("This recipe has no explicit networks; nothing to train.")
    for name in run.recipe.explicit_networks:
        baselines.explicit(run, name)


def evaluate(run: Run) -> None:
    """Score teacher, solvers and students on the test set."""
    scoring.show(evaluating.evaluate(run), run.console)


def generate(run: Run, options: Generate) -> None:
    """Go on with a prompt, as the teacher and as students have it, side by side."""
    recipe, folder = run.recipe, run.folder / "teacher"
    if not isinstance(recipe, LanguageRecipe):
        raise CDEQError(f"texts are what language models go on with; {run.name} trains none.")
    _require_trained(run, folder)
    teacher = DEQTransformer.from_pretrained(folder).to(device_of(recipe.hardware))
    students, tokenizer = _ready(run, teacher), load_tokenizer(folder / TOKENIZER)
    generating.generate(options, teacher, students, tokenizer, run.console, length=recipe.length)


def predict(run: Run, options: Predict) -> None:
    """Say what image files show, as the teacher or students have it."""
    recipe, folder = run.recipe, run.folder / "teacher"
    if not isinstance(recipe, ImageRecipe):
        raise CDEQError(f"files of images are what MDEQ classifies; {run.name} trains another.")
    _require_trained(run, folder)
    teacher = MDEQ.from_pretrained(folder).to(device_of(recipe.hardware))
    labels = Labels.load(folder / LABELS)
    predicting.predict(options, teacher, _ready(run, teacher), labels, run.console)


def _require_trained(run: Run, folder: Path) -> None:
    if not (folder / DONE).exists():
        raise CDEQError(f"{folder} holds no trained teacher yet; run `cdeq train {run.name}`.")


def _ready(run: Run, teacher: EquilibriumModel) -> dict[str, Ready]:
    """The run's trained students, for which no data are needed."""
    return {
        name: Ready(
            settings.read(run.folder / name, teacher).to(teacher.device), settings.inference
        )
        for name, settings in run.recipe.students.items()
        if (run.folder / name / DONE).exists()
    }


def demo(run: Run) -> None:
    """All of it: train, cache, distil, train baselines, evaluate, draw."""
    train(run)
    cache(run)
    distill(run)
    baseline(run)
    if run.recipe.explicit_networks:
        explicit(run)
    on_main(lambda: _conclude(run))


def _conclude(run: Run) -> None:
    evaluating.evaluate(run)
    scoring.show(scoring.report([run.folder], run.folder / "report", run.console), run.console)
    run.console.print(f"\nEverything is in {run.folder}.")


@dataclass(frozen=True)
class Command:
    """One of `cdeq COMMAND RECIPE`.

    Arguments:
        run: What it does, given the run, and the options where it has such.
        keys: The recipe's fields that matter to it, for `--help`; all are accepted.
        trains: Whether it trains, and so uses all devices.
        options: What it can be told besides, with its defaults.
    """

    run: Callable[..., None]
    keys: tuple[str, ...]
    trains: bool = False
    options: Options | None = None

    @property
    def summary(self) -> str:
        """What it does, in a sentence."""
        return self.run.__doc__ or ""


NETWORKS = (
    *("gcn", "gat", "gcnii", "gpm"),
    *("transformer_xl", "tcn", "gated_conv", "qrnn"),
    *("alexnet", "bn_inception", "hrnet"),
)
"""The keys of explicit networks, of all domains."""

COMMANDS: Mapping[str, Command] = {
    "train": Command(
        train, ("seed", "source", "network", "teacher", "augmentation", "hardware"), trains=True
    ),
    "cache": Command(cache, ("source", "trajectories")),
    "distill": Command(
        distill,
        ("seed", "source", "distil", "student", "best", "hyper", "trajectories", "hardware"),
        trains=True,
    ),
    "baseline": Command(
        baseline,
        ("seed", "source", "network", "few_step", "few_step_budgets", "hardware"),
        trains=True,
    ),
    "explicit": Command(
        explicit, ("seed", "source", "explicit", *NETWORKS, "hardware"), trains=True
    ),
    "evaluate": Command(evaluate, ("source", "evaluation")),
    "generate": Command(generate, ("seed", "source"), options=Generate()),
    "predict": Command(predict, ("seed",), options=Predict()),
    "demo": Command(demo, (), trains=True),
}
"""By name."""


def start(name: str, run: Run, options: Options | None = None) -> None:
    """Do what the command says."""
    command = COMMANDS[name]
    if command.trains:
        launch(run.recipe.hardware)
    command.run(run) if options is None else command.run(run, options)
    part()
