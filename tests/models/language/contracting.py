"""A language model of a few numbers whose equilibrium is found to the last digits."""

import torch
from torch import Tensor

from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.deq_transformer import DEQTransformer, TransformerSpec
from cdeq.models.language.reading import Answerer, solved

WORDS = 11


@torch.no_grad()
def contracting(memory: int = 16, words: int = WORDS, **changes: object) -> DEQTransformer:
    """In float64; its words decide more than its states, so that f contracts."""
    torch.manual_seed(1)
    small = {"features": 8, "heads": 2, "inner": 12, "cutoffs": (5,), "shrink": 2}
    spec = TransformerSpec(vocabulary=words, memory=memory, **{**small, **changes})
    model = DEQTransformer(spec).double().eval()
    cell = model.deq.cell
    for layer, factor in (
        (cell.qkv, 2), (cell.injection, 60), (cell.output, 40), (cell.first, 10),
        (cell.second, 10), (cell.relative.positions, 10),
    ):  # fmt: skip
        layer.length *= factor
    for tensor in (cell.injection.bias, cell.relative.content, cell.relative.place):
        tensor.normal_()
    return model


def text_of(rows: int = 3, length: int = 14, words: int = WORDS, seed: int = 2) -> Tensor:
    return torch.randint(words, (rows, length), generator=torch.Generator().manual_seed(seed))


def exactly(model: DEQTransformer) -> Answerer:
    return solved(model, tol=1e-12, max_steps=100)


@torch.no_grad()
def at_once(model: DEQTransformer, text: Tensor) -> tuple[Tensor, Tensor]:
    """The equilibrium of a text as one segment, and log p of what comes after each token."""
    none = text[:, :0]
    x = model.encode(LanguageBatch(text, text, none, none.bool()))
    z = exactly(model)(x, model.initial(x)).z
    return z, model.log_probs(model.decode(z, x))  # type: ignore[return-value]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
