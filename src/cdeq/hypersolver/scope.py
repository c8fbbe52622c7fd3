"""Which numbers of a state are mixed by the same weights: a whole sample's, or a position's."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


class Scope(ABC):
    """How far one set of mixing weights reaches. Subclasses are frozen dataclasses of settings.

    A unit is what has weights of its own. Features stand last in what `gather` takes, wherever
    they stand in the state.
    """

    @abstractmethod
    def gather(self, codes: Sequence[Tensor], *, batched: bool) -> Tensor:
        """The codes of all tensors of a state as one code a unit, features last.

        Arguments:
            codes: One tensor a tensor of the state, all with the same features.
            batched: Whether the first dimension counts samples.

        Raises:
            ValueError: When the tensors do not have the units in common.
        """

    @abstractmethod
    def spread(self, weight: Tensor, part: Tensor, *, axis: int, batched: bool) -> Tensor:
        """One number a unit, in a shape that broadcasts over a tensor of the state.

        Arguments:
            weight: The numbers, in the order of the units.
            part: The tensor.
            axis: Where its features stand.
            batched: Whether its first dimension counts samples.
        """


@dataclass(frozen=True)
class Pooled(Scope):
    """Weights of its own for each sample, told by its mean over positions.

    The tensors of a state may have different positions (resolutions, say). An answer at one
    position depends on all others: a sequence that must not see ahead is not for it.

    Example:
        >>> import torch
        >>> images = torch.arange(8.0).reshape(2, 2, 2, 1)
        >>> Pooled().gather([images], batched=True)
        tensor([[1.5000],
                [5.5000]])
    """

    def gather(self, codes: Sequence[Tensor], *, batched: bool) -> Tensor:
        samples = len(codes[0]) if batched else 1
        means = [code.reshape(samples, -1, code.shape[-1]).mean(1) for code in codes]
        return sum(means[1:], means[0])

    def spread(self, weight: Tensor, part: Tensor, *, axis: int, batched: bool) -> Tensor:
        return weight.reshape(-1, *[1] * (part.ndim - 1))


@dataclass(frozen=True)
class PerPosition(Scope):
    """Weights of its own for each position: a node of a graph, a token, a pixel.

    No position hears of another, so whatever is causal or equivariant in f stays it.

    Example:
        >>> import torch
        >>> sequence = torch.zeros(2, 5, 3)
        >>> PerPosition().spread(torch.rand(10), sequence, axis=-1, batched=True).shape
        torch.Size([2, 5, 1])
    """

    def gather(self, codes: Sequence[Tensor], *, batched: bool) -> Tensor:
        if len({code.shape for code in codes}) != 1:
            raise ValueError(
                "a weight a position is for tensors that have their positions in common; got "
                f"{[tuple(code.shape[:-1]) for code in codes]}; use `Pooled`."
            )
        return sum(codes[1:], codes[0])

    def spread(self, weight: Tensor, part: Tensor, *, axis: int, batched: bool) -> Tensor:
        return weight.reshape(part.movedim(axis, -1).shape[:-1]).unsqueeze(axis)
