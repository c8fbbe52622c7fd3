"""Small runs on a generated graph."""

from pathlib import Path

from cli.run import Ended, cdeq, rows_of

from cdeq.recipes.graph_explicit import EXPLICIT

SOURCE = ["--source.length", "5", "--source.features", "12", "--source.noise", "0.1"]
STEPS = [
    "--network.hidden", "4",
    "--network.max-steps", "40",
    "--teacher.loss.shortest", "20",
    "--teacher.loss.longest", "20",
    "--teacher.plan.steps", "6",
    "--teacher.plan.validate-every", "3",
    "--trajectories.max-steps", "8",
    "--distil", "student-best", "ignn-solver",
    "--best.plan.steps", "4",
    "--hyper.plan.steps", "3",
    "--hyper.longest", "3",
    "--few-step.steps", "3",
    "--few-step-budgets", "1", "3",
    "--gcn.network.hidden", "4",
    "--gcn.plan.steps", "7",
    "--gcn.plan.checkpoint-every", "2",
    "--gat.network.hidden", "4",
    "--gat.plan.steps", "3",
    "--gcnii.network.hidden", "4",
    "--gcnii.network.layers", "3",
    "--gcnii.plan.steps", "3",
    "--gpm.network.hidden", "4",
    "--gpm.plan.steps", "3",
    "--evaluation.budgets", "1", "3",
    "--evaluation.cost-budgets", "1", "3",
    "--evaluation.cost-rounds", "1",
]  # fmt: skip
"""`chains` with networks of a few features, trained for a few steps."""

STUDENTS = ("student-best", "ignn-solver")
TRAINED = ("teacher", *STUDENTS, "few-step-1", "few-step-3", *EXPLICIT)


def small(command: str, folder: Path, *more: object) -> Ended:
    return cdeq(command, "chains", "--folder", folder, *SOURCE, *STEPS, *more)


def table(folder: Path, metric: str) -> dict[tuple[str, int | None], float]:
    found = [row for row in rows_of(folder) if row.metric == metric]
    assert {row.split for row in found} == {"test"}
    return {(row.model, row.nfe): row.value for row in found}


ITERATIVE = [(name, nfe) for name in ("picard", "anderson", *STUDENTS) for nfe in (1, 3)]
CONVERGED = [("teacher", None), *((name, None) for name in EXPLICIT)]
