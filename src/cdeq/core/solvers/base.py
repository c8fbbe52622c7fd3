"""The contract of a solver: a frozen value, an explicit memory, one evaluation of f a step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from cdeq.typing import Flat, FlatMap

S = TypeVar("S")


@dataclass(frozen=True)
class Step(Generic[S]):
    """What one evaluation of f at z_k gave.

    The residual may be a view into the memory: use it before the next step.
    """

    z: Flat
    """The next point z_{k+1}."""
    value: Flat
    """f(z_k)."""
    residual: Flat
    """f(z_k) - z_k, free of charge."""
    state: S
    """The memory for the next step."""


class Solver(ABC, Generic[S]):
    """A fixed-point solver. Subclasses are frozen dataclasses that hold settings only.

    `init` makes the memory for a run that starts at z, and `step` consumes it: it evaluates f
    exactly once, so a budget of K evaluations is K steps, for every solver. Rows never influence
    each other.
    """

    @abstractmethod
    def init(self, z: Flat) -> S:
        """The memory before the first step."""

    @abstractmethod
    def step(self, f: FlatMap, z: Flat, state: S) -> Step[S]:
        """One evaluation of f, and the point that follows from it."""


def require_fraction(name: str, value: float, meaning: str) -> None:
    """Refuse a setting outside (0, 1].

    Raises:
        ValueError: Names the setting, its meaning and the value that came.
    """
    if not 0.0 < value <= 1.0:
        raise ValueError(f"`{name}` is {meaning} in (0, 1]; got {value}.")
