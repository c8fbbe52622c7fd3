"""A small model, its data, and methods that are swept over it."""

import torch
from torch import Tensor, nn

from cdeq import (
    Anderson,
    Broyden,
    Picard,
)
from cdeq.data.images import ImageSet
from cdeq.evaluation.sweep import (
    Measurement,
    Method,
    truncated,
)
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec

SPEC = ContractionSpec(channels=3, size=4, classes=3, factor=0.9)


BUDGETS = (1, 2, 5)


SOLVERS = {"picard": Picard(), "anderson": Anderson(), "broyden": Broyden()}


def model() -> ContractionDEQ:
    torch.manual_seed(0)
    return ContractionDEQ(SPEC).eval()


def images(count: int = 10) -> ImageSet:
    draw = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    return ImageSet(draw, torch.arange(count) % 3)


class CountedCell(nn.Module):
    """A cell that counts its evaluations."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.calls = cell, 0

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return self.cell(z, self.cell.prepare(x))


def counted() -> tuple[ContractionDEQ, CountedCell]:
    built = model()
    built.deq.cell = cell = CountedCell(built.deq.cell)
    return built, cell


def methods() -> dict[str, Method]:
    return {name: truncated(solver) for name, solver in SOLVERS.items()}


def rows(found: list[Measurement], model: str, metric: str) -> dict[int | None, float]:
    return {row.nfe: row.value for row in found if (row.model, row.metric) == (model, metric)}
