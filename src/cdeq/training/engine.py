"""The training loop, on Lightning's Fabric; nothing else imports the engine.

Fabric gives devices, data parallelism, precision, clipping and loggers, and leaves the loop to
us. We keep it because resuming must be exact: batch order and randomness of a step are pure
functions of the seed and the step, so a checkpoint is the weights, the optimiser and a number.
"""

import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader

from cdeq.data.indexed import IndexedData, Indices, Shares
from cdeq.errors import CDEQError, StoreError
from cdeq.models.base import Batch
from cdeq.training import checkpoint
from cdeq.training.objective import Losses, Objective, Sealed
from cdeq.training.plan import Hardware, Plan
from cdeq.training.stopping import Interrupted, StopRequest

if TYPE_CHECKING:  # the engine takes seconds to load, which help and refusals should not wait for
    from lightning.fabric import Fabric

CHECKPOINT = "checkpoint.pt"
PATIENCE = timedelta(days=1)
"""How long a process waits for another one, which may be writing a large cache."""

Score: TypeAlias = Callable[[], float]
"""A validation score of the weights as they stand; higher is better."""


@dataclass(frozen=True)
class Report:
    """What a training run cost.

    Arguments:
        steps: Updates done in all.
        seconds: Wall time, of all sessions where the run was resumed.
        best: The best validation score, where one was watched.
    """

    steps: int
    seconds: float
    best: float | None


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
    holds the weights with the best validation score (or the last ones). The checkpoint stays, so
    that nothing is lost before the caller has saved the weights; `forget` removes it.

    Arguments:
        objective: What is trained, in place.
        data: Samples.
        plan: How long and how fast.
        folder: Where the checkpoint and the logs go.
        seed: Decides batch order and all randomness.
        identity: A digest of every setting that decides the result; a checkpoint of another run is
            refused.
        label: What the progress bar says; "" shows none.
        hardware: Where to train.
        score: Watched every `plan.validate_every` updates.

    Raises:
        ValueError: When the hardware is not there, or cannot share the batches evenly.
        StoreError: When a checkpoint is damaged, belongs to another run, or cannot be written.
        CDEQError: When the loss is no longer a finite number.
        Interrupted: On Ctrl-C, after a checkpoint was written.
    """
    start = time.perf_counter()
    fabric, path = launch(hardware), folder / CHECKPOINT
    _require_even_shares(fabric, len(data), plan)
    trained = [p for p in objective.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    module, optimizer = fabric.setup(Sealed(objective), adam)
    parts = {"objective": objective, "optimizer": adam, "precision": fabric.strategy.precision}
    at = checkpoint.restore(path, parts, identity)
    fabric.barrier()  # nobody writes before everybody has read
    loop = _Loop(fabric, objective, module, optimizer, plan, seed, at)
    before = at.seconds

    def save() -> None:
        at.seconds = before + time.perf_counter() - start
        checkpoint.save(path, parts, at, identity)

    with loop.logs(folder) as log, loop.bar(label) as advance:
        for losses in loop.run(loop.batches(data, hardware.workers), save, score):
            log(losses)
            advance(losses["loss"])
    if at.weights is not None:
        objective.load_state_dict(at.weights)
    return Report(at.step, before + time.perf_counter() - start, at.score)


def forget(folder: Path) -> None:
    """Remove the checkpoint of a run whose weights are safe."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def launch(hardware: Hardware) -> "Fabric":
    """The engine on this hardware; the first call starts the other processes where there are any.

    They run the same command from its beginning, so this belongs before anything is done.

    Raises:
        ValueError: When there is no such hardware here.
    """
    fabric = _fabric(hardware)
    fabric.launch()
    return fabric


def device_of(hardware: Hardware) -> torch.device:
    """Where one process alone would compute.

    Raises:
        ValueError: When there is no such hardware here.
    """
    return _fabric(replace(hardware, devices=1, strategy="auto")).device


def _fabric(hardware: Hardware) -> "Fabric":
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else every process greets
    several = hardware.devices > 1 or hardware.strategy == "ddp"
    try:
        fabric = Fabric(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            strategy=DDPStrategy(timeout=PATIENCE) if several else "auto",
            precision=cast(Any, hardware.precision),
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"training needs hardware that is there; {hardware} is not ({error}); change it."
        ) from error
    if hardware.precision == "16-mixed" and fabric.device.type == "cpu":
        raise ValueError("a CPU computes no 16-mixed; ask for bf16-mixed, or for a GPU.")
    return fabric


def _require_even_shares(fabric: "Fabric", samples: int, plan: Plan) -> None:
    size = min(plan.batch_size, samples)
    if size % fabric.world_size:
        raise ValueError(
            "every device takes an equal share of a batch, so that all samples count the same; "
            f"got batches of {size} for {fabric.world_size} devices; choose another `batch_size`."
        )


def _diverged(step: int) -> CDEQError:
    return CDEQError(
        f"the loss of update {step} is not a finite number, so there is nothing left to train; "
        "start afresh with a smaller learning rate, or look at the data."
    )


@dataclass(frozen=True)
class _Loop:
    """What the parts of one run share."""

    fabric: "Fabric"
    objective: Objective
    module: torch.nn.Module
    """The objective as the engine wrapped it."""
    optimizer: torch.optim.Optimizer
    plan: Plan
    seed: int
    at: checkpoint.Progress

    def batches(self, data: IndexedData, workers: int) -> Iterator[tuple[Batch, Indices]]:
        fabric, steps = self.fabric, range(self.at.step, self.plan.steps)
        shares = Shares(
            data, self.plan.batch_size, self.seed, fabric.global_rank, fabric.world_size
        )
        loader = DataLoader(
            shares,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            worker_init_fn=_leave_interrupts_to_main,
        )
        for batch, indices in loader:
            yield fabric.to_device(batch), indices

    def run(
        self,
        batches: Iterator[tuple[Batch, Indices]],
        save: Callable[[], None],
        score: Score | None,
    ) -> Iterator[Losses]:
        """The losses of one update after the other."""
        at, plan = self.at, self.plan
        with StopRequest() as request:
            for batch, indices in batches:
                losses = self.update(batch, indices)
                stop, broken = self.agree(request.received, ~losses["loss"].isfinite())
                if broken:
                    raise _diverged(at.step)
                self.watch(score)
                yield losses
                due = at.step == plan.steps or at.step % plan.checkpoint_every == 0
                if (due or stop) and self.fabric.is_global_zero:
                    save()
                if stop:
                    raise Interrupted(f"stopped after {at.step} of {plan.steps} updates")

    def update(self, batch: Batch, indices: Indices) -> Losses:
        """One update; everything random in it follows from the seed, the step and the rank."""
        fabric, plan, step = self.fabric, self.plan, self.at.step
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(step)
        seed = (self.seed * 1_000_003 + step) * 1_009 + fabric.global_rank
        torch.manual_seed(seed)  # dropout and the like, which take no generator
        self.module.train()
        generator = torch.Generator().manual_seed(seed)
        losses = self.module(lambda: (batch, indices, generator))
        self.optimizer.zero_grad()
        fabric.backward(losses["loss"])
        if plan.clip > 0.0:
            fabric.clip_gradients(
                self.module, self.optimizer, max_norm=plan.clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.objective.after_step()
        self.at.step += 1
        return losses

    def agree(self, *flags: bool | Tensor) -> list[bool]:
        """Whether any process says so, flag by flag."""
        if self.fabric.world_size == 1:
            return [bool(flag) for flag in flags]
        votes = torch.tensor([float(flag) for flag in flags], device=self.fabric.device)
        total = cast(Tensor, self.fabric.all_reduce(votes, reduce_op="sum"))
        return [count > 0 for count in total.tolist()]

    def watch(self, score: Score | None) -> None:
        """Keep the weights with the best validation score; NaN is no score."""
        at, every = self.at, self.plan.validate_every
        if score is None or every == 0 or (at.step % every and at.step != self.plan.steps):
            return
        self.objective.eval()
        value = score()
        if not math.isnan(value) and (at.score is None or value >= at.score):
            state = self.objective.state_dict()
            at.score, at.weights = value, {name: t.detach().clone() for name, t in state.items()}

    @contextmanager
    def logs(self, folder: Path) -> Iterator[Callable[[Losses], None]]:
        """One log folder a (re)start; a log from the same step is of updates now repeated."""
        at, version = self.at, f"from-{self.at.step}"
        loggers: list[Any] = []
        if self.fabric.is_global_zero and at.step < self.plan.steps:
            if (older := folder / "logs" / version).exists():
                shutil.rmtree(older)
            from lightning.fabric.loggers.csv_logs import CSVLogger
            from lightning.fabric.loggers.tensorboard import TensorBoardLogger

            kinds = (CSVLogger, TensorBoardLogger)
            loggers.extend(kind(folder, name="logs", version=version) for kind in kinds)

        def log(losses: Losses) -> None:
            if at.step % 10 and at.step != self.plan.steps:
                return
            values = {name: float(value.detach()) for name, value in losses.items()}
            if at.score is not None:
                values["best_validation"] = at.score
            try:
                for logger in loggers:
                    logger.log_metrics(values, step=at.step)
                    logger.save()
            except OSError as error:
                raise StoreError(
                    f"could not write the logs in {folder} ({error.strerror or error}); make room "
                    "and run the same command again, which goes on at the last checkpoint."
                ) from error

        try:
            yield log
        finally:
            for logger in loggers:
                logger.finalize("done")

    @contextmanager
    def bar(self, label: str) -> Iterator[Callable[[Tensor], None]]:
        """A progress bar that shows the loss."""
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        at = self.at
        with Progress(*columns, disable=not (label and self.fabric.is_global_zero)) as progress:
            task = progress.add_task(label, total=self.plan.steps, completed=at.step, note="")

            def advance(loss: Tensor) -> None:
                # where lower is better, what is watched is the number with its sign turned
                best = "" if at.score is None else f"  best {abs(at.score):.4f}"
                progress.update(task, advance=1, note=f"loss {float(loss.detach()):.4f}{best}")

            yield advance


def _leave_interrupts_to_main(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
