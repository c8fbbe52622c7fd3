"""Small runs on folders of generated pictures."""

from pathlib import Path

import pytest
from cli.run import Ended, cdeq

from cdeq.cli.stages import Run

STUDENTS = ("student-paper", "student-paper-no-aa", "student-best", "hyperdeq")
EXPLICIT = ("bn_inception", "hrnet")
TRAINED = ("pretraining", "teacher", *STUDENTS, "few-step-1", *EXPLICIT)

STEPS = [
    "--distil", *STUDENTS,
    "--source.framing.size", "8",
    "--source.framing.resize", "8",
    "--network.channels", "4", "4",
    "--network.groups", "2",
    "--network.expansion", "1",
    "--network.strides", "1",
    "--network.head", "1", "1",
    "--network.features", "4",
    "--augmentation.padding", "1",
    "--teacher.plan.steps", "4",
    "--teacher.plan.batch-size", "8",
    "--teacher.plan.validate-every", "2",
    "--teacher.pretraining.plan.steps", "2",
    "--trajectories.max-steps", "6",
    "--student.plan.steps", "3",
    "--best.plan.steps", "3",
    "--hyper.plan.steps", "2",
    "--hyper.longest", "3",
    "--few-step.steps", "2",
    "--few-step.validate-every", "0",
    "--few-step-budgets", "1",
    "--explicit", *EXPLICIT,
    "--bn-inception.network.width", "0.03",
    "--bn-inception.plan.steps", "2",
    "--bn-inception.plan.validate-every", "0",
    "--hrnet.network.widths", "4", "4",
    "--hrnet.network.modules", "1",
    "--hrnet.network.head", "2", "2",
    "--hrnet.network.strides", "1", "1",
    "--hrnet.plan.steps", "2",
    "--hrnet.plan.validate-every", "0",
    "--evaluation.budgets", "1", "2",
    "--evaluation.reference-steps", "12",
    "--evaluation.cost-budgets", "1",
    "--evaluation.cost-rounds", "1",
]  # fmt: skip
"""`own_images` with networks of a few channels, trained for a few steps."""


def small(command: str, root: Path, *more: object) -> Ended:
    source = ["--source.path", root / "pictures"]
    return cdeq(command, "own_images", *more, "--folder", root / "run", *source, *STEPS)


def run_of(root: Path) -> Run:
    """The run that a folder is of, for looking at its models."""
    from cdeq.cli import main

    seen: list[Run] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "start", lambda command, run: seen.append(run))
        small("evaluate", root)
    return seen[0]
