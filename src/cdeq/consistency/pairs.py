"""Training pairs: which points of a trajectory meet which loss."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from cdeq.consistency.time import Schedule
from cdeq.core.state import like, tensors
from cdeq.typing import State

Index = Int[Tensor, "*b"]
"""One iteration index for all samples (no dimension), or one a sample."""


class Window(NamedTuple):
    """Three consecutive points of a trajectory and its end; indices below 0 repeat z_0."""

    z: tuple[State, State, State]
    """z_{k-2}, z_{k-1}, z_k."""
    t: tuple[Tensor, Tensor, Tensor]
    """Their virtual times."""
    endpoint: State
    """z_K."""


def window(trajectory: tuple[State, ...], schedule: Schedule, k: Index) -> Window:
    """The points around iteration k that the distillation loss needs.

    The current point with its predecessor is the student's input, the predecessor with its own
    predecessor the EMA target's.

    Arguments:
        trajectory: z_0 … z_K.
        schedule: Where they stand in virtual time.
        k: Index in 0 … K: one for the whole batch, or one a sample (the first dimension).

    Raises:
        ValueError: When an index lies outside the trajectory.

    Example:
        >>> from cdeq import ExponentialSchedule
        >>> trajectory = tuple(torch.full((2, 1), float(k)) for k in range(5))
        >>> pairs = window(trajectory, ExponentialSchedule(), torch.tensor([1, 3]))
        >>> [z.squeeze(1).tolist() for z in pairs.z], pairs.endpoint.squeeze(1).tolist()
        ([[0.0, 1.0], [0.0, 2.0], [1.0, 3.0]], [4.0, 4.0])
    """
    last = len(trajectory) - 1
    if bool(((k < 0) | (k > last)).any()):
        raise ValueError(
            f"k indexes a trajectory z_0 … z_{last}; got values {k.flatten().tolist()}."
        )
    indices = tuple((k - back).clamp_min(0) for back in (2, 1, 0))
    before, previous, current = (select(trajectory, index) for index in indices)
    t_before, t_previous, t_current = (schedule(index) for index in indices)
    return Window((before, previous, current), (t_before, t_previous, t_current), trajectory[last])


def select(trajectory: tuple[State, ...], k: Index) -> State:
    """The state of iteration k; with one index a sample, each sample's own.

    Raises:
        ValueError: When there are several indices, but not one a sample.

    Example:
        >>> trajectory = (torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [10.0]]))
        >>> select(trajectory, torch.tensor([1, 0]))
        tensor([[1.],
                [0.]])
    """
    if k.ndim == 0:
        return trajectory[int(k)]
    samples = tensors(trajectory[0])[0].shape[:1]
    if k.shape != samples:
        raise ValueError(
            "k is one index for all samples or one a sample, along a state's first dimension; got "
            f"{tuple(k.shape)} indices for {tuple(samples)} samples."
        )
    chosen = tuple(tensors(trajectory[i]) for i in k.tolist())
    columns = zip(*chosen, strict=True)
    rows = tuple(torch.stack([part[row] for row, part in enumerate(c)]) for c in columns)
    return like(trajectory[0], rows)


def sample_indices(
    last: int,
    size: tuple[int, ...],
    *,
    first: int = 1,
    generator: torch.Generator | None = None,
) -> Index:
    """Indices k ~ U{first, …, K}.

    Algorithm 2 draws from {1, …, K}, so the student never trains on z_0 as its current point,
    though inference starts there; `first=0` includes it.

    Arguments:
        last: K.
        size: `(b,)` for one a sample, `()` for one in all.
        first: The smallest index.
        generator: The source of randomness.

    Raises:
        ValueError: When the range is empty.

    Example:
        >>> sample_indices(3, (100,)).unique()
        tensor([1, 2, 3])
    """
    if not 0 <= first <= last:
        raise ValueError(
            f"indices are drawn from first … K with 0 ≤ first ≤ K; got {first} … {last}."
        )
    return torch.randint(first, last + 1, size, generator=generator)


@dataclass(frozen=True, kw_only=True)
class EndpointAugmentation:
    r"""Replace points of a trajectory by its end.

    .. math:: z_k \leftarrow z_K \quad \text{with probability } p_\text{aug}, \qquad
        k = k_\text{min}, \dots, K - k_\text{tail}

    independently for every sample and k. Drawn anew at each call, where the paper draws once when
    it caches.

    Paper: Eq. (13), Algorithm 4.

    Arguments:
        probability: p_aug in [0, 1]; 0 changes nothing.
        first: k_min ≥ 1, so that z_0 stays.
        tail: k_tail ≥ 0.

    Raises:
        ValueError: When a setting is outside its range.

    Example:
        >>> trajectory = tuple(torch.full((1, 1), float(k)) for k in range(5))
        >>> augmented = EndpointAugmentation(probability=1.0, first=1, tail=2)(trajectory)
        >>> [z.item() for z in augmented]
        [0.0, 4.0, 4.0, 3.0, 4.0]
    """

    probability: float = 0.1
    first: int = 1
    tail: int = 4

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(
                f"`probability` is p_aug in [0, 1] of Eq. (13); got {self.probability}."
            )
        if self.first < 1 or self.tail < 0:
            raise ValueError(
                "Algorithm 4 keeps z_0 and the last k_tail points, so `first` ≥ 1 and `tail` ≥ 0; "
                f"got first={self.first}, tail={self.tail}."
            )

    def __call__(
        self,
        trajectory: tuple[State, ...],
        *,
        batched: bool = True,
        generator: torch.Generator | None = None,
    ) -> tuple[State, ...]:
        """The augmented trajectory; the given one is left alone."""
        last = len(trajectory) - 1
        samples = tensors(trajectory[0])[0].shape[0] if batched else 1
        draws = torch.rand(last + 1, samples, generator=generator) < self.probability
        return tuple(
            _replace(z, trajectory[last], draws[k]) if self.first <= k <= last - self.tail else z
            for k, z in enumerate(trajectory)
        )


def _replace(z: State, endpoint: State, chosen: Tensor) -> State:
    def mix(part: Tensor, end: Tensor) -> Tensor:
        mask = chosen.to(part.device).reshape((-1,) + (1,) * (part.ndim - 1))
        return torch.where(mask, end, part)

    parts = zip(tensors(z), tensors(endpoint), strict=True)
    return like(z, tuple(mix(part, end) for part, end in parts))
