"""The commands; each is a function of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cdeq.cli import baselines, distilling, scoring, stages
from cdeq.cli.stages import Run
from cdeq.training.engine import launch
from cdeq.training.processes import on_main, part


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
    scoring.show(scoring.evaluate(run), run.console)


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
    scoring.evaluate(run)
    scoring.show(scoring.report([run.folder], run.folder / "report", run.console), run.console)
    run.console.print(f"\nEverything is in {run.folder}.")


@dataclass(frozen=True)
class Command:
    """One of `cdeq COMMAND RECIPE`.

    Arguments:
        run: What it does.
        keys: The recipe's fields that matter to it, for `--help`; all are accepted.
        trains: Whether it trains, and so uses all devices.
    """

    run: Callable[[Run], None]
    keys: tuple[str, ...]
    trains: bool = False

    @property
    def summary(self) -> str:
        """What it does, in a sentence."""
        return self.run.__doc__ or ""


COMMANDS: Mapping[str, Command] = {
    "train": Command(train, ("seed", "network", "teacher", "hardware"), trains=True),
    "cache": Command(cache, ("trajectories",)),
    "distill": Command(
        distill,
        ("seed", "distil", "student", "best", "hyper", "trajectories", "hardware"),
        trains=True,
    ),
    "baseline": Command(
        baseline, ("seed", "network", "few_step", "few_step_budgets", "hardware"), trains=True
    ),
    "explicit": Command(
        explicit, ("seed", "explicit", "gcn", "gat", "gcnii", "gpm", "hardware"), trains=True
    ),
    "evaluate": Command(evaluate, ("evaluation",)),
    "demo": Command(demo, (), trains=True),
}
"""By name."""


def start(name: str, run: Run) -> None:
    """Do what the command says."""
    command = COMMANDS[name]
    if command.trains:
        launch(run.recipe.hardware)
    command.run(run)
    part()
