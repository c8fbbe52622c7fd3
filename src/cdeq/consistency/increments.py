r"""How the weights of learned steps differ from the teacher's.

.. math:: \theta_j = \theta + \Delta_j

Every choice starts at Δ = 0, so that an untrained step is an evaluation of the teacher's f. What a
step costs is the same for all of them once the weights are merged; what differs is the number of
parameters that are trained and stored.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdeq.core.cell import Cell
from cdeq.core.solvers.base import require_fraction


class Increments(ABC):
    """A form of Δ_1 … Δ_J. Subclasses are frozen dataclasses that hold settings only."""

    @abstractmethod
    def copies(self, cell: nn.Module, steps: int) -> list[nn.Module]:
        """The cells of the learned steps, all equal to the teacher's, which is left alone.

        What they train requires gradients; everything else in them does not.
        """


@dataclass(frozen=True, kw_only=True)
class Full(Increments):
    """Each step has a Δ_j of its own: copies of the weights.

    Arguments:
        parts: Train only parameters whose names start with one of these; () trains all.
        free: Let go of what the cell holds its weights to (a norm, a ball) by folding each copy
            first. The teacher needs a contraction to have an equilibrium at all; a learned step
            that is taken once does not.

    Raises:
        ValueError: When copying, if a part is the beginning of no parameter's name.

    Example:
        >>> cell = nn.Linear(2, 2)
        >>> [copy] = Full(parts=("bias",)).copies(cell, steps=1)
        >>> [name for name, p in copy.named_parameters() if p.requires_grad]
        ['bias']
    """

    parts: tuple[str, ...] = ()
    free: bool = False

    def copies(self, cell: nn.Module, steps: int) -> list[nn.Module]:
        plain = deepcopy(cell)
        if self.free and isinstance(plain, Cell):
            plain.fold()
        names = [name for name, _ in plain.named_parameters()]
        for part in self.parts:
            if not any(name.startswith(part) for name in names):
                raise ValueError(
                    f"`parts` are beginnings of the names of the cell's parameters, {names}; got "
                    f"{part!r}."
                )
        return [self._copy(plain) for _ in range(steps)]

    def _copy(self, cell: nn.Module) -> nn.Module:
        copy = deepcopy(cell)
        for name, parameter in copy.named_parameters():
            parameter.requires_grad_(not self.parts or name.startswith(self.parts))
        return copy


@dataclass(frozen=True, kw_only=True)
class LowRank(Increments):
    r"""Each step has a Δ_j of low rank, :math:`\Delta_j = A_j B_j`.

    A weight of more than two dimensions is seen as a matrix with its first dimension as rows.
    Parameters that this would not make smaller (biases, say) have a full Δ_j. B starts at zero and
    A at random, drawn from torch's global generator.

    References:
        | LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021)
        | https://arxiv.org/abs/2106.09685

    Arguments:
        rank: The rank r ≥ 1.

    Raises:
        ValueError: When the rank is below 1.
    """

    rank: int = 4

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"`rank` is the rank r ≥ 1 of each Δ_j; got {self.rank}.")

    def copies(self, cell: nn.Module, steps: int) -> list[nn.Module]:
        return [self._copy(cell) for _ in range(steps)]

    def _copy(self, cell: nn.Module) -> nn.Module:
        copy = deepcopy(cell).requires_grad_(True)
        for owner, name, weight in list(_own_parameters(copy)):
            rows, columns = weight.shape[:1].numel(), weight.shape[1:].numel()
            if weight.ndim > 1 and self.rank * (rows + columns) < weight.numel():
                weight.requires_grad_(False)
                delta = _Product(rows, columns, self.rank).to(weight)
                parametrize.register_parametrization(owner, name, delta)
        return copy


@dataclass(frozen=True, kw_only=True)
class Shared(Increments):
    r"""One Δ for all steps, let through by a gate: :math:`\Delta_j = c_j \, \Delta`.

    Gates that fall with j anneal the steps towards the teacher's own map.

    Arguments:
        decay: Gates start as :math:`c_j = \sigma^j`, j = 0, 1, …, with this σ in (0, 1].
        learned: Whether the gates are trained too.

    Raises:
        ValueError: When σ is outside its range.
    """

    decay: float = 1.0
    learned: bool = True

    def __post_init__(self) -> None:
        require_fraction("decay", self.decay, "the ratio σ of successive gates")

    def copies(self, cell: nn.Module, steps: int) -> list[nn.Module]:
        copies = [deepcopy(cell).requires_grad_(False) for _ in range(steps)]
        gates = [
            nn.Parameter(torch.tensor(self.decay**j), requires_grad=self.learned)
            for j in range(steps)
        ]
        for each in zip(*map(list, map(_own_parameters, copies)), strict=True):
            delta = nn.Parameter(torch.zeros_like(each[0][2]))
            for (owner, name, weight), gate in zip(each, gates, strict=True):
                gated = _Gated(delta, gate).to(weight.device)
                parametrize.register_parametrization(owner, name, gated)
        return copies


class _Product(nn.Module):
    """W ↦ W + A B."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(rows, rank) / rank**0.5)
        self.right = nn.Parameter(torch.zeros(rank, columns))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.left @ self.right).reshape(weight.shape)


class _Gated(nn.Module):
    """W ↦ W + c Δ, with c and Δ in common with other steps and other weights."""

    def __init__(self, delta: nn.Parameter, gate: nn.Parameter) -> None:
        super().__init__()
        self.delta, self.gate = delta, gate

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.gate.to(weight) * self.delta


def _own_parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Every parameter with the module that holds it and its name there."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            yield owner, name, parameter


def merge(cell: nn.Module, plain: nn.Module) -> nn.Module:
    """A copy of a learned step's cell with plain weights θ + Δ, folded, for inference.

    Arguments:
        cell: The learned step's.
        plain: The teacher's, of the same form but for the increments.

    Example:
        >>> cell = nn.Linear(8, 8)
        >>> [learned] = LowRank(rank=1).copies(cell, steps=1)
        >>> [name for name, _ in merge(learned, cell).named_parameters()]
        ['weight', 'bias']
    """
    if any(isinstance(module, (_Product, _Gated)) for module in cell.modules()):
        # not `remove_parametrizations`, which changes a class that deep copies have in common
        merged = deepcopy(plain)
        with torch.no_grad():
            for name, value in merged.state_dict().items():
                value.copy_(attrgetter(name)(cell))
    else:
        merged = deepcopy(cell)
    if isinstance(merged, Cell):
        merged.fold()
    return merged.requires_grad_(False)
