"""How long and how fast to train, and on what hardware: plain settings."""

import math
from dataclasses import dataclass
from typing import Literal


def require_count(name: str, value: int) -> None:
    """Refuse a count below 1.

    Raises:
        ValueError: Says what came.
    """
    if value < 1:
        raise ValueError(f"`{name}` is a count of at least 1; got {value}.")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The optimisation of one model by AdamW with warm-up and cosine decay.

    Arguments:
        steps: Updates, at least 1.
        batch_size: Samples an update, over all devices.
        learning_rate: The highest rate.
        warmup: Updates over which the rate rises from 0.
        weight_decay: Decoupled; 0 is plain Adam, the paper's optimiser.
        clip: The largest gradient norm; 0 does not clip.
        validate_every: Updates between looks at the validation score; the best weights are kept.
            0 keeps the last.
        checkpoint_every: Updates between checkpoints.

    Raises:
        ValueError: When a setting is outside its range.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.0
    clip: float = 1.0
    validate_every: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            require_count(name, getattr(self, name))
        for name in ("learning_rate", "warmup", "weight_decay", "clip", "validate_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` is not negative; got {getattr(self, name)}.")

    def rate(self, step: int) -> float:
        r"""The learning rate of one update, counted from 0.

        .. math:: \eta \, \min\Big(1, \frac{s + 1}{\text{warmup}}\Big) \,
            \tfrac12 \Big( 1 + \cos \frac{\pi s}{\text{steps}} \Big)

        Example:
            >>> plan = Plan(steps=100, learning_rate=1.0, warmup=10)
            >>> [round(plan.rate(s), 3) for s in (0, 9, 50, 99)]
            [0.1, 0.98, 0.5, 0.0]
        """
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where to train.

    Arguments:
        accelerator: "auto", "cpu", "gpu" or another name the engine knows.
        devices: How many share each batch.
        strategy: How they share it: "ddp" is data parallelism, which "auto" chooses as well.
        precision: Of the evaluations of f; weights and states stay in float32.
        workers: Processes that load data; 0 loads in the training process.

    Raises:
        ValueError: When a setting is outside its range.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.devices < 1 or self.workers < 0:
            raise ValueError(
                "`devices` is a count of at least 1 and `workers` of at least 0; got "
                f"{self.devices} and {self.workers}."
            )
