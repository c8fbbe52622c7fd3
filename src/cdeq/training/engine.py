"""The training loop, on Lightning's Fabric; nothing else imports the engine.

Fabric gives devices, data parallelism, precision, clipping and loggers, and leaves the loop to
us. We keep it because resuming must be exact: batch order and randomness of a step are pure
functions of the seed and the step, so a checkpoint is the weights, the optimiser and a number.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cdeq.data.indexed import IndexedData, Indices, step_indices
from cdeq.errors import StoreError
from cdeq.models.base import Batch
from cdeq.training.objective import Objective
from cdeq.training.plan import Hardware, Plan
from cdeq.training.stopping import Interrupted, StopRequest

CHECKPOINT = "checkpoint.pt"
Score = Callable[[], float]
"""A validation score of the weights as they stand; higher is better."""


@dataclass(frozen=True)
class Report:
    """What a training run cost.

    Arguments:
        steps: Updates done in all.
        seconds: Wall time of this process's share of them.
        best: The best validation score, where one was watched.
    """

    steps: int
    seconds: float
    best: float | None


@dataclass
class _Progress:
    """What changes in training besides weights and optimiser: what a checkpoint adds."""

    step: int = 0
    score: float | None = None
    weights: dict[str, Tensor] | None = None


def fit(
    objective: Objective,
    data: IndexedData,
    plan: Plan,
    folder: Path,
    *,
    seed: int,
    identity: str,
    label: str,
    hardware: Hardware = Hardware(),
    score: Score | None = None,
) -> Report:
    """Minimise an objective, from the start or from where a checkpoint in the folder stands.

    A resumed run ends with the same weights as an uninterrupted one. At the end the objective
    holds the weights with the best validation score (or the last ones), and the checkpoint is
    removed.

    Arguments:
        objective: What is trained, in place.
        data: Samples.
        plan: How long and how fast.
        folder: Where the checkpoint and the logs go.
        seed: Decides batch order and all randomness.
        identity: A digest of every setting that decides the result; a checkpoint of another run is
            refused.
        label: What the progress bar says.
        hardware: Where to train.
        score: Watched every `plan.validate_every` updates.

    Raises:
        StoreError: When a checkpoint is damaged or belongs to another run.
        Interrupted: On Ctrl-C, after a checkpoint was written.
    """
    start, fabric = time.perf_counter(), _fabric(hardware, folder)
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    wrapped, optimizer = fabric.setup(objective, optimizer)
    at = _Progress()
    state = {"objective": wrapped, "optimizer": optimizer}
    _restore(fabric, folder / CHECKPOINT, state, at, identity)
    save = partial(_save, fabric, folder / CHECKPOINT, state, at, identity)
    update = partial(_update, fabric, wrapped, optimizer, plan, seed)
    log = partial(_log, fabric, _loggers(folder, at.step))
    steps = _batches(data, plan, at.step, seed, fabric, hardware.workers)
    quiet = not fabric.is_global_zero
    with StopRequest() as stop, _Bar(label, plan.steps, at.step, quiet=quiet) as advance:
        for batch, indices in steps:
            losses = update(batch, indices, at.step)
            objective.after_step()
            at.step += 1
            _watch(objective, at, plan, score)
            log(losses, at, plan)
            advance(losses["loss"], at.score)
            _pause(at, plan, save, stop)
    _finish(fabric, objective, at, folder / CHECKPOINT)
    return Report(at.step, time.perf_counter() - start, at.score)


def _fabric(hardware: Hardware, folder: Path) -> Fabric:
    fabric = Fabric(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        strategy=hardware.strategy,
        precision=cast(Any, hardware.precision),
    )
    fabric.launch()
    folder.mkdir(parents=True, exist_ok=True)
    return fabric


def _update(
    fabric: Fabric,
    objective: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    seed: int,
    batch: Batch,
    indices: Indices,
    step: int,
) -> Mapping[str, Tensor]:
    """One update; everything random in it follows from the seed, the step and the rank."""
    for group in optimizer.param_groups:
        group["lr"] = plan.rate(step)
    step_seed = (seed * 1_000_003 + step) * 1_009 + fabric.global_rank
    torch.manual_seed(step_seed)  # dropout and the like, which take no generator
    objective.train()
    losses = objective(batch, indices, torch.Generator().manual_seed(step_seed))
    optimizer.zero_grad()
    fabric.backward(losses["loss"])
    if plan.clip > 0.0:
        fabric.clip_gradients(objective, optimizer, max_norm=plan.clip, error_if_nonfinite=False)
    optimizer.step()
    return losses


class _Steps(Dataset[tuple[Batch, Indices]]):
    """The batches of a run by step, each rank's share of them."""

    def __init__(self, data: IndexedData, plan: Plan, seed: int, rank: int, ranks: int) -> None:
        self.data, self.plan, self.seed, self.rank, self.ranks = data, plan, seed, rank, ranks

    def __getitem__(self, step: int) -> tuple[Batch, Indices]:
        indices = step_indices(
            step, samples=len(self.data), batch_size=self.plan.batch_size, seed=self.seed
        )[self.rank :: self.ranks]
        return self.data.take(indices), indices


def _batches(
    data: IndexedData, plan: Plan, start: int, seed: int, fabric: Fabric, workers: int
) -> Iterator[tuple[Batch, Indices]]:
    steps = _Steps(data, plan, seed, fabric.global_rank, fabric.world_size)
    order = range(start, plan.steps)
    loader = DataLoader(steps, batch_size=None, sampler=order, num_workers=workers)
    for batch, indices in loader:
        yield fabric.to_device(batch), indices


def _watch(objective: Objective, at: _Progress, plan: Plan, score: Score | None) -> None:
    """Keep the weights with the best validation score."""
    if score is None or plan.validate_every == 0:
        return
    if at.step % plan.validate_every and at.step != plan.steps:
        return
    objective.eval()
    value = score()
    if at.score is None or value >= at.score:
        state = objective.state_dict()
        at.score, at.weights = value, {name: t.detach().clone() for name, t in state.items()}


def _pause(at: _Progress, plan: Plan, save: Callable[[], None], stop: StopRequest) -> None:
    """Checkpoint when it is time, and leave when that was asked for."""
    if at.step == plan.steps:
        return
    if stop.received or at.step % plan.checkpoint_every == 0:
        save()
    if stop.received:
        raise Interrupted(
            f"stopped after {at.step} of {plan.steps} updates; the same command continues there."
        )


def _save(fabric: Fabric, path: Path, state: dict[str, Any], at: _Progress, identity: str) -> None:
    partial_path = path.with_suffix(".partial")
    extra = {"step": at.step, "score": at.score, "weights": at.weights, "identity": identity}
    try:
        fabric.save(partial_path, {**state, **extra})
        if fabric.is_global_zero:
            os.replace(partial_path, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        partial_path.unlink(missing_ok=True)
        raise StoreError(
            f"could not write the checkpoint {path} ({error}); the previous one is unchanged, so "
            "make room and run the same command again."
        ) from error


def _finish(fabric: Fabric, objective: Objective, at: _Progress, checkpoint: Path) -> None:
    """The best weights, and no checkpoint."""
    if at.weights is not None:
        objective.load_state_dict(at.weights)
    fabric.barrier()
    if fabric.is_global_zero:
        checkpoint.unlink(missing_ok=True)


def _restore(
    fabric: Fabric, path: Path, state: dict[str, Any], at: _Progress, identity: str
) -> None:
    if not path.exists():
        return
    loaded: dict[str, Any] = {**state, "identity": "", "step": 0, "score": None, "weights": None}
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        if held["identity"] != identity:
            raise StoreError(
                f"{path} belongs to a run with other settings (digest {held['identity'][:12]}, "
                f"now {identity[:12]}); restore them, choose another folder, or start afresh with "
                "`--fresh`."
            )
        fabric.load(path, loaded, weights_only=True)
    except (OSError, RuntimeError, KeyError, EOFError, ValueError) as error:
        raise StoreError(
            f"{path} is no readable checkpoint ({error}); remove it, or start afresh "
            "with `--fresh`."
        ) from error
    at.step, at.score, at.weights = loaded["step"], loaded["score"], loaded["weights"]


def _loggers(folder: Path, start: int) -> list[CSVLogger | TensorBoardLogger]:
    """One log folder a (re)start; a log from the same step is of updates that are now repeated."""
    version = f"from-{start}"
    shutil.rmtree(folder / "logs" / version, ignore_errors=True)
    return [
        logger(folder, name="logs", version=version) for logger in (CSVLogger, TensorBoardLogger)
    ]


def _log(
    fabric: Fabric, loggers: list[Any], losses: Mapping[str, Tensor], at: _Progress, plan: Plan
) -> None:
    due = at.step % 10 == 0 or at.step == plan.steps
    if not due or not fabric.is_global_zero:
        return
    values = {name: float(value.detach()) for name, value in losses.items()}
    if at.score is not None:
        values["best_validation"] = at.score
    for logger in loggers:
        logger.log_metrics(values, step=at.step)
        logger.save()


class _Bar:
    """A progress bar that shows the loss."""

    def __init__(self, label: str, total: int, start: int, *, quiet: bool) -> None:
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.progress = Progress(*columns, disable=quiet)
        self.task = self.progress.add_task(label, total=total, completed=start, note="")

    def __enter__(self) -> Callable[[Tensor, float | None], None]:
        self.progress.start()
        return self._advance

    def __exit__(self, *exc: object) -> None:
        self.progress.stop()

    def _advance(self, loss: Tensor, score: float | None) -> None:
        note = f"loss {float(loss.detach()):.4f}"
        if score is not None:
            note += f"  best {score:.4f}"
        self.progress.update(self.task, advance=1, note=note)
