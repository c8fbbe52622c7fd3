"""The commands; each is a function of a run, or of files."""

from collections.abc import Callable
from dataclasses import replace

from cdeq.cli import scoring, stages
from cdeq.cli.run_folder import write_origin
from cdeq.cli.stages import Run

STUDENT, STUDENT_NO_AA = "student-paper", "student-paper-no-aa"


def train(run: Run) -> None:
    """Train the teacher and audit its convergence."""
    stages.train(run)


def cache(run: Run) -> None:
    """Write the teacher's trajectories to disk."""
    stages.cache(run)


def distill(run: Run) -> None:
    """Distil the recipe's student; with `--student.no-accelerate`, the one without AA."""
    stages.distill(run, STUDENT if run.recipe.student.accelerate else STUDENT_NO_AA)


def evaluate(run: Run) -> None:
    """Score teacher, solvers and students on the test set."""
    scoring.evaluate(run)


def demo(run: Run) -> None:
    """Everything: train, cache, distil with and without AA, train baselines, evaluate, draw."""
    train(run)
    cache(run)
    distill(run)
    student = replace(run.recipe.student, accelerate=False)
    distill(replace(run, recipe=replace(run.recipe, student=student)))
    for steps in run.recipe.evaluation.budgets:
        stages.few_step(run, steps)
    evaluate(run)
    scoring.report([run.folder], run.folder / "report", run.console)
    run.console.print(f"\nEverything is in {run.folder}.")


RUN_COMMANDS: dict[str, Callable[[Run], None]] = {
    function.__name__: function for function in (train, cache, distill, evaluate, demo)
}
"""Commands that take a recipe and a run folder."""


def start(name: str, run: Run) -> None:
    """Write where the run comes from, then do what the command says."""
    write_origin(run.folder, run.recipe)
    RUN_COMMANDS[name](run)
