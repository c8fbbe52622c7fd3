"""`cdeq.distill`: a student of anybody's fixed point in one call."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from cdeq.core.solve import residual_norm
from cdeq.core.tree import map_tensors
from cdeq.data.indexed import Indices, to_device
from cdeq.digest import digest_of, digest_of_tensors
from cdeq.errors import CDEQError
from cdeq.models.base import Batch, EquilibriumModel
from cdeq.plain import to_plain
from cdeq.recipes.base import TrajectoryRecipe
from cdeq.recipes.students import UntiedRecipe
from cdeq.recipes.variants import AnyDistilled, AnyStudent
from cdeq.training.distill import DistillationObjective
from cdeq.training.engine import fit
from cdeq.training.hyper import HyperObjective
from cdeq.training.on_policy import BlendedObjective, RolloutObjective
from cdeq.training.plan import Hardware, Plan
from cdeq.trajectories.source import Indices as Rows
from cdeq.trajectories.source import (
    OnlineTrajectories,
    RememberedTrajectories,
    TrajectorySource,
    ends,
)
from cdeq.typing import State

ANYBODYS = UntiedRecipe(plan=Plan(steps=400, learning_rate=3e-3))
"""The best student with a careful learning rate."""

AnyObjective: TypeAlias = (
    DistillationObjective | BlendedObjective | RolloutObjective | HyperObjective
)


def distill(
    model: EquilibriumModel,
    batches: Iterable[Batch],
    *,
    recipe: AnyStudent = ANYBODYS,
    trajectories: TrajectoryRecipe = TrajectoryRecipe(max_steps=40),
    worst_residual: float = 0.1,
    folder: str | Path | None = None,
    seed: int = 0,
    hardware: Hardware | None = None,
    label: str = "distilling",
) -> AnyDistilled:
    """Distil a student of a model from batches of its inputs, with or without labels or a head.

    The model is left as it is: weights, training modes, gradient flags, device; and so is torch's
    global randomness. Only weights that a plain function hides may be left with a `.grad`.

    Arguments:
        model: The teacher: an `EquilibriumModel`, or any callable in a `FunctionModel`.
        batches: Each is what the model encodes; an update takes one as it is, in random order.
        recipe: Which student, and how it learns; its `plan.batch_size` says nothing here.
        trajectories: The solver whose runs are distilled, and its budget. They are kept in memory
            unless they are to be recomputed `online`.
        worst_residual: The median relative residual that they may leave on the first batch.
        folder: Where checkpoints and logs go; the same call continues there. None keeps none.
        seed: Decides initial weights, order and all randomness.
        hardware: Where to train; None is a CPU for a model on one, else what the engine chooses.
        label: What the progress bar says; "" shows none.

    Raises:
        TypeError: When `batches` is a single batch.
        ValueError: When there is no batch, nothing to train, or no task loss where one is weighed.
        StoreError: When the folder's checkpoint is damaged, or of other weights, data or settings.
        CDEQError: When the teacher does not converge, or the loss is no longer finite.

    Example:
        >>> from cdeq import FunctionModel
        >>> model = FunctionModel(lambda z, x: torch.tanh(0.5 * z.roll(1, 1) + x), (8,))
        >>> recipe = UntiedRecipe(plan=Plan(steps=2))
        >>> student = distill(model, [torch.randn(16, 8)], recipe=recipe, label="")
        >>> student.steps
        2
    """
    data, home = _Batches(batches), model.device
    source = _runs(model, data, trajectories)
    with _same_randomness(), _left_alone(model), _folder(folder) as place:
        _require_an_end(model, data, source, worst_residual)
        objective = _objective(recipe, model, source, seed)
        settings = to_plain({"recipe": recipe, "trajectories": trajectories, "seed": seed})
        fit(
            objective,
            data,
            replace(recipe.plan, batch_size=1),
            place,
            seed=seed,
            identity=digest_of(model, settings=f"{settings}{data.digest()}"),
            label=label,
            hardware=hardware or Hardware(accelerator="cpu" if home.type == "cpu" else "auto"),
        )
        return objective.student.eval().to(home)


def _runs(
    model: EquilibriumModel, data: "_Batches", settings: TrajectoryRecipe
) -> TrajectorySource:
    runs = _Runs(model, data, settings)
    return runs if settings.online else RememberedTrajectories(runs)


class _Runs(NamedTuple):
    """Trajectories of whole batches."""

    model: EquilibriumModel
    data: "_Batches"
    settings: TrajectoryRecipe

    def __call__(self, indices: Rows) -> tuple[State, ...]:
        return self._of(indices)([0])

    def ends(self, indices: Rows) -> State:
        return self._of(indices).ends([0])

    def _of(self, indices: Rows) -> OnlineTrajectories:
        """A batch is all there is, so that an unbatched state is number 0 in every one."""
        model, data, settings = self
        return OnlineTrajectories(
            teacher=model,
            contexts=lambda rows: to_device(data.take(torch.as_tensor(indices)), model.device),
            solver=settings.solver,
            max_steps=settings.max_steps,
            end_tol=settings.end_tol,
        )


class _Batches:
    """A data set whose samples are whole batches."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        if isinstance(batches, (Tensor, Mapping)) or hasattr(batches, "_fields"):
            raise TypeError(
                "`batches` is a list of batches or another iterable of them, since an update "
                f"takes a whole one; got a single {type(batches).__name__}: put it in a list."
            )
        self.batches = list(batches)
        if not self.batches:
            raise ValueError("distillation needs at least one batch of inputs; got none.")

    def __len__(self) -> int:
        return len(self.batches)

    def take(self, indices: Indices) -> Batch:
        return self.batches[int(indices)]

    def digest(self) -> str:
        """A fingerprint of all tensors in them."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            sparse = tensor.layout is not torch.strided
            whole = tensor.to_sparse_coo().coalesce() if sparse else tensor
            found.extend((whole.indices(), whole.values()) if sparse else (whole,))
            return tensor

        map_tensors(note, self.batches)
        return digest_of_tensors(*found)


def _require_an_end(
    model: EquilibriumModel, data: _Batches, source: TrajectorySource, worst: float
) -> None:
    """Refuse a teacher whose runs end nowhere, looking at the first batch.

    Raises:
        CDEQError: Says how far its runs are from an end.
    """
    first = torch.tensor([0])
    with torch.no_grad():
        x = model.encode(to_device(data.take(first), model.device))
        z = ends(source, first)
        residual = residual_norm(model.bind(x), z, batched=model.deq.batched).median()
    if not residual <= worst:
        raise CDEQError(
            "a student learns the end of its teacher's runs, and there is none here: after the "
            f"solver's budget the median relative residual is {float(residual):.1e}, more than "
            f"{worst:.1e}; raise `max_steps`, or train the teacher to converge."
        )


def _objective(
    recipe: AnyStudent, model: EquilibriumModel, source: TrajectorySource, seed: int
) -> AnyObjective:
    """The distillation of a fresh student.

    Raises:
        ValueError: When there is nothing to train.
    """
    torch.manual_seed(seed)
    objective = recipe.objective(model, source)
    if not any(parameter.requires_grad for parameter in objective.parameters()):
        raise ValueError(
            "a student learns by its weights, and this one has none: f shows none to copy (a "
            "plain function hides its own), and the recipe adds no readout; pass f as the module "
            "that it is, or distil with `readout=True`."
        )
    return objective


@contextmanager
def _same_randomness() -> Iterator[None]:
    """Put torch's generators back afterwards, those of all accelerators, which are seeded too."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        yield


@contextmanager
def _left_alone(model: EquilibriumModel) -> Iterator[None]:
    """In evaluation mode; device, training modes and gradient flags are put back afterwards."""
    home = model.device
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        yield
    finally:
        model.to(home)
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _folder(given: str | Path | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with TemporaryDirectory() as passing:
        yield Path(passing)
