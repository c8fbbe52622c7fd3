"""Virtual time: where iteration k of a solver stands in [ε, T], and what is left to do there.

Everything depends on the normalised time τ ∈ [0, 1]; ε and T enter through `TimeSpan` alone.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TimeSpan:
    r"""The interval [ε, T] of virtual time.

    .. math:: t = \epsilon + \tau \, (T - \epsilon)

    Arguments:
        eps: The start ε ≥ 0.
        end: The end T > ε.

    Raises:
        ValueError: When 0 ≤ ε < T does not hold.

    Example:
        >>> TimeSpan(eps=0.0, end=2.0).scale(torch.tensor(0.25))
        tensor(0.5000)
    """

    eps: float = 2e-3
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.eps < self.end:
            raise ValueError(
                f"virtual time needs 0 ≤ eps < end; got eps={self.eps}, end={self.end}."
            )

    def scale(self, tau: Tensor) -> Tensor:
        """τ → t."""
        return self.eps + tau * (self.end - self.eps)

    def normalize(self, t: Tensor) -> Tensor:
        """t → τ, the inverse of `scale`."""
        return (t - self.eps) / (self.end - self.eps)


class Schedule(ABC):
    """A strictly increasing map from iteration k to virtual time t_k, with t_0 = ε."""

    span: TimeSpan

    @abstractmethod
    def ratio(self, k: Tensor) -> Tensor:
        """The normalised time τ_k ∈ [0, 1], which is 0 at k = 0."""

    def __call__(self, k: Tensor) -> Tensor:
        """t_k, in the shape of k."""
        return self.span.scale(self.ratio(k))

    def times(self, steps: int) -> Float[Tensor, " j"]:
        """t_0 … t_{J-1}: where J-step inference (Algorithm 1) calls the student.

        Raises:
            ValueError: When `steps` is below 1.
        """
        if steps < 1:
            raise ValueError(f"`steps` counts the student's evaluations, at least 1; got {steps}.")
        return self(torch.arange(steps))


@dataclass(frozen=True, kw_only=True)
class ExponentialSchedule(Schedule):
    r"""The paper's time mapping, fine where the solver moves fast.

    .. math:: t_k = \epsilon + (1 - e^{-\rho k}) (T - \epsilon)

    It never reaches T: the teacher's last state has :math:`t_K < T`. In float32 neighbouring times
    become equal from about ρ k = 16 on; pass k in float64 where that matters.

    Paper: Eq. (6); for inference Appendix B.3 writes :math:`1 - \beta^j`, the same with
    :math:`\beta = e^{-\rho}`.

    Arguments:
        rate: The compression rate ρ > 0.
        span: The interval [ε, T].

    Raises:
        ValueError: When `rate` is not positive.

    Example:
        >>> ExponentialSchedule.from_ratio(0.5, span=TimeSpan(eps=0.0)).times(3)
        tensor([0.0000, 0.5000, 0.7500])
    """

    rate: float = 0.3
    span: TimeSpan = field(default_factory=TimeSpan)

    def __post_init__(self) -> None:
        if not self.rate > 0.0:
            raise ValueError(f"`rate` is the compression rate ρ > 0 of Eq. (6); got {self.rate}.")

    @classmethod
    def from_ratio(cls, ratio: float, *, span: TimeSpan = TimeSpan()) -> "ExponentialSchedule":
        """The schedule of Appendix B.3: each step leaves the fraction `ratio` of the time span."""
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"`ratio` is the base β in (0, 1) of Appendix B.3; got {ratio}.")
        return cls(rate=-math.log(ratio), span=span)

    def ratio(self, k: Tensor) -> Tensor:
        return -torch.expm1(-self.rate * k)


@dataclass(frozen=True, kw_only=True)
class PowerSchedule(Schedule):
    r"""The power grid of the released code, which ends at T exactly.

    .. math:: t_k = \Big( \epsilon^{1/p} + \tfrac{k}{K} \, (T^{1/p} - \epsilon^{1/p}) \Big)^p

    Deviates from the paper's Eq. (6).

    Arguments:
        power: The exponent p > 0.
        steps: The last index K, with t_K = T; a larger k is refused.
        span: The interval [ε, T].

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> PowerSchedule(power=1.0, steps=2, span=TimeSpan(eps=0.0)).times(3)
        tensor([0.0000, 0.5000, 1.0000])
    """

    power: float = 7.0
    steps: int = 37
    span: TimeSpan = field(default_factory=TimeSpan)

    def __post_init__(self) -> None:
        if not self.power > 0.0:
            raise ValueError(f"`power` is the exponent p > 0 of the grid; got {self.power}.")
        if self.steps < 1:
            raise ValueError(f"`steps` is the grid's last index K ≥ 1; got {self.steps}.")

    def ratio(self, k: Tensor) -> Tensor:
        if bool((k > self.steps).any()):
            raise ValueError(
                f"the power grid ends at k = {self.steps}, where t = T; got k = {int(k.max())}; "
                "make `steps` the teacher's budget."
            )
        low, high = self.span.eps ** (1 / self.power), self.span.end ** (1 / self.power)
        tau = self.span.normalize((low + k / self.steps * (high - low)) ** self.power)
        return tau.clamp(0.0, 1.0)  # rounding of the power reaches past both ends


@dataclass(frozen=True, kw_only=True)
class Boundary:
    r"""How much of the current state a student keeps at time t.

    .. math:: c_\text{skip}(t) = \Big( \frac{t - \epsilon}{T - \epsilon} \Big)^\gamma , \qquad
        c_\text{out}(t) = 1 - c_\text{skip}(t)

    At t = T the student is the identity, at t = ε it is all network.

    Paper: Eq. (5).

    Arguments:
        power: The exponent γ ≥ 1.
        span: The interval [ε, T].

    Raises:
        ValueError: When `power` is below 1.

    Example:
        >>> Boundary(power=2.0, span=TimeSpan(eps=0.0))(torch.tensor(0.5))
        (tensor(0.2500), tensor(0.7500))
    """

    power: float = 1.0
    span: TimeSpan = field(default_factory=TimeSpan)

    def __post_init__(self) -> None:
        if not self.power >= 1.0:
            raise ValueError(f"`power` is the exponent γ ≥ 1 of Eq. (5); got {self.power}.")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The pair (c_skip, c_out), each in the shape of t."""
        tau = self.span.normalize(t).clamp_min(0.0)  # rounding below 0 is NaN under a fractional γ
        c_skip = tau**self.power
        return c_skip, 1.0 - c_skip
