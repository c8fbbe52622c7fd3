"""A DEQ-Transformer of a few numbers, which is a contraction, and segments of a text for it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from cdeq import Picard
from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.deq_transformer import DEQTransformer, TransformerSpec

WORDS, LENGTH, MEMORY = 12, 10, 4
OTHER = torch.tensor([1, 2, 3, 4, 0, 6, 7, 8, 5, 10, 11, 9])
"""Another token of the same cluster, so that exactly the same products are computed."""
SPEC = TransformerSpec(
    vocabulary=WORDS, features=8, heads=2, inner=6, memory=MEMORY, cutoffs=(5, 9), shrink=2,
    solver=Picard(), max_steps=150, adjoint_steps=60,
)  # fmt: skip


@torch.no_grad()
def disturbed(module: nn.Module, size: float = 0.1) -> nn.Module:
    """As if trained: no number is left at its start."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter += size * torch.rand(parameter.shape, dtype=parameter.dtype)
    return module


@torch.no_grad()
def model_of(**changes: object) -> DEQTransformer:
    """In float64, and a contraction: what attention adds is large beside z, and mostly of x."""
    torch.manual_seed(0)
    model = disturbed(DEQTransformer(replace(SPEC, **changes)).double()).eval()
    cell = model.deq.cell
    cell.injection.length.fill_(1.0)
    cell.qkv.length.fill_(0.1)
    cell.output.length.fill_(12.0)
    cell.first.length.fill_(0.5)
    return model


def text_of(length: int = LENGTH, samples: int = 3) -> Tensor:
    return torch.randint(WORDS, (samples, length + 1), generator=torch.Generator().manual_seed(2))


def segment(text: Tensor, start: int, end: int, past: int = MEMORY) -> LanguageBatch:
    """Tokens start … end - 1, with the `past` before them; nonsense where there are none."""
    places = torch.arange(start - past, start)
    known = (places >= 0).expand(len(text), past)
    before = text[:, places.clamp_min(0)].where(known, -7)
    return LanguageBatch(text[:, start:end], text[:, start + 1 : end + 1], before, known)


def whole(text: Tensor) -> LanguageBatch:
    return segment(text, 0, text.shape[1] - 1, past=0)


def told(text: Tensor, start: int = 6) -> LanguageBatch:
    """The end of a text, with any memory of what is before."""
    memory = torch.randn(
        len(text), MEMORY, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    return segment(text, start, text.shape[1] - 1)._replace(memory=memory)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
