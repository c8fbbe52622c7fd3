"""The students a recipe can distil, by name: the paper's, the best, and the ablation between them;
and the learned solvers that they are compared with.

Each is one change of `student` (the paper's), `best` or `hyper` (the learned solver), so a
recipe's plans hold for all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from cdeq.consistency.increments import LowRank, Shared
from cdeq.consistency.rollout import RolloutLoss
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.untied import UntiedDEQ
from cdeq.hypersolver.scope import PerPosition
from cdeq.hypersolver.solver import HyperDEQ
from cdeq.recipes.hyper import HyperRecipe
from cdeq.recipes.students import OnPolicy, StudentRecipe, UntiedRecipe
from cdeq.training.on_policy import Mixture

StudentName = Literal[
    "student-paper",
    "student-paper-no-aa",
    "student-best",
    "paper-no-task",
    "paper-reversed",
    "paper-from-0",
    "paper-on-policy",
    "paper-on-policy-kl",
    "annealed",
    "annealed-mixed",
    "untied-1",
    "untied-2",
    "untied-4",
    "untied-8",
    "untied-2-no-kl",
    "untied-2-no-readout",
    "untied-2-mixed",
    "untied-2-through",
    "untied-2-off-policy",
    "untied-2-rank-2",
    "untied-2-rank-8",
    "untied-2-shared",
    "untied-2-initializer",
    "hyperdeq",
    "ignn-solver",
]

AnyDistilled: TypeAlias = ConsistencyDEQ | UntiedDEQ | HyperDEQ
"""What such settings build."""

AnyStudent: TypeAlias = StudentRecipe | UntiedRecipe | HyperRecipe
Variant = Callable[[StudentRecipe, UntiedRecipe, HyperRecipe], AnyStudent]


def _paper(**changes: Any) -> Variant:  # noqa: ANN401 - as `replace` takes them
    return lambda paper, best, hyper: replace(paper, **changes)


def _untied(**changes: Any) -> Variant:  # noqa: ANN401 - as `replace` takes them
    """A change of the plain form: full increments, steps trained each on its own, with KL."""

    def change(paper: StudentRecipe, best: UntiedRecipe, hyper: HyperRecipe) -> UntiedRecipe:
        plain = UntiedRecipe(plan=best.plan, tail=best.tail, beyond=0, loss=RolloutLoss())
        return replace(plain, **changes)

    return change


def _loss(**changes: Any) -> Variant:  # noqa: ANN401 - as `replace` takes them
    return lambda paper, best, hyper: replace(paper, loss=replace(paper.loss, **changes))


def _on_policy(head_weight: float) -> Variant:
    return _paper(on_policy=OnPolicy(weight=0.5, loss=RolloutLoss(head_weight=head_weight)))


def _ignn_solver(paper: StudentRecipe, best: UntiedRecipe, hyper: HyperRecipe) -> HyperRecipe:
    """The learned solver with weights for each node, smoothed over the graph."""
    return replace(hyper, scope=PerPosition(), smoothed=True)


VARIANTS: Mapping[StudentName, Variant] = {
    "student-paper": _paper(accelerate=True),
    "student-paper-no-aa": _paper(accelerate=False),
    "student-best": lambda paper, best, hyper: best,
    "paper-no-task": _loss(task_weight=0.0),
    "paper-reversed": _loss(reverse_pair=True),
    "paper-from-0": lambda paper, best, hyper: replace(
        paper, sampling=replace(paper.sampling, first=0)
    ),
    "paper-on-policy": _on_policy(head_weight=0.0),
    "paper-on-policy-kl": _on_policy(head_weight=1.0),
    "annealed": _untied(steps=8, increments=Shared(decay=0.8, learned=False)),
    "annealed-mixed": _untied(steps=8, increments=Shared(decay=0.8, learned=False), mixed=True),
    "untied-1": _untied(steps=1),
    "untied-2": _untied(),
    "untied-4": _untied(steps=4),
    "untied-8": _untied(steps=8),
    "untied-2-no-kl": _untied(loss=RolloutLoss(head_weight=0.0)),
    "untied-2-no-readout": _untied(readout=False),
    "untied-2-mixed": _untied(mixed=True),
    "untied-2-through": _untied(loss=RolloutLoss(detach=False)),
    "untied-2-off-policy": _untied(mixture=Mixture(first=1.0, last=1.0)),
    "untied-2-rank-2": _untied(increments=LowRank(rank=2)),
    "untied-2-rank-8": _untied(increments=LowRank(rank=8)),
    "untied-2-shared": _untied(increments=Shared()),
    "untied-2-initializer": _untied(initializer=True),
    "hyperdeq": lambda paper, best, hyper: hyper,
    "ignn-solver": _ignn_solver,
}
"""What each name means."""
