"""The map f, and what it computes once a solve rather than once an evaluation."""

from copy import deepcopy
from typing import TypeVar

from torch import nn

from cdeq.typing import Context, Map


class Cell(nn.Module):
    """A map f(z, x) with work that is constant along one trajectory.

    Normalised weights, injections of x and dropout masks belong into `prepare`: it runs once a
    solve, sees the context x of the encoder, and returns what `forward(z, x)` is then called
    with. A plain `nn.Module` is a cell without such work.
    """

    def prepare(self, x: Context) -> Context:
        """The context in the form that `forward` takes; by default x itself."""
        return x

    def fold(self) -> None:
        """Do what depends on the weights alone for the last time, in place; by default nothing.

        Called on copies for inference, whose weights change no more: a normalised weight, say,
        takes the place of the one that `prepare` normalises at every solve.
        """


M = TypeVar("M", bound=nn.Module)


def folded(module: M) -> M:
    """A copy for inference, in which every cell has done what depends on its weights alone.

    Example:
        >>> from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
        >>> folded(ContractionDEQ(ContractionSpec(channels=4))).deq.cell.folded
        True
    """
    copy = deepcopy(module).eval()
    for part in copy.modules():
        if isinstance(part, Cell):
            part.fold()
    return copy


def bind(cell: nn.Module, x: Context) -> Map:
    """The map z ↦ f(z, x), with the cell's constant work done.

    Example:
        >>> import torch
        >>> class Scaled(Cell):
        ...     def prepare(self, x):
        ...         return 10 * x
        ...     def forward(self, z, x):
        ...         return z / 2 + x
        >>> bind(Scaled(), torch.tensor(1.0))(torch.tensor(4.0))
        tensor(12.)
    """
    prepared = cell.prepare(x) if isinstance(cell, Cell) else x
    return lambda z: cell(z, prepared)
