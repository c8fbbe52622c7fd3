"""Transformer-XL, TCN, gated convolutions and QRNN: their formulas, token by token, and sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.explicit import ExplicitLanguageModel
from cdeq.models.language.gated_conv import Gated, GatedConvNet, GatedConvSpec
from cdeq.models.language.qrnn import QRNN, QRNNSpec
from cdeq.models.language.tcn import TCN, TCNSpec
from cdeq.models.language.transformer_xl import TransformerXL, TransformerXLSpec

WORDS, D = 12, 8
SMALL = {"vocabulary": WORDS, "features": D}
BLOCKS = (Gated(features=10, window=4, bottleneck=4), Gated(features=D, window=3))

ALL: dict[str, Callable[[], ExplicitLanguageModel]] = {
    "transformer-xl": lambda: TransformerXL(
        TransformerXLSpec(**SMALL, layers=2, heads=2, inner=6, memory=3)
    ),
    "tcn": lambda: TCN(TCNSpec(**SMALL, layers=3, hidden=6, window=3)),
    "gated": lambda: GatedConvNet(GatedConvSpec(**SMALL, blocks=BLOCKS)),
    "qrnn": lambda: QRNN(QRNNSpec(**SMALL, layers=2, hidden=6, window=3)),
}


@torch.no_grad()
def made(build: Callable[[], ExplicitLanguageModel]) -> ExplicitLanguageModel:
    """In float64, and as if trained: no bias is left at its start."""
    torch.manual_seed(1)
    model = build().double().eval()
    for tensor in model.parameters():
        tensor += 0.2 * torch.rand(tensor.shape)
    return model


def batch_of(samples: int = 2, length: int = 9) -> LanguageBatch:
    """The start of a text."""
    text = torch.randint(WORDS, (samples, length + 1), generator=torch.Generator().manual_seed(2))
    none = text[:, :0]
    return LanguageBatch(text[:, :-1], text[:, 1:].contiguous(), none, none.bool())


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def attention(layer: nn.Module, h: Tensor, i: int) -> Tensor:
    """What position i of one text gets, W_O excluded, head by head and key by key."""
    e = D // layer.heads
    key, value = (h @ layer.pair.weight.T).split(D, dim=-1)
    query, relative = h[i] @ layer.query.weight.T, layer.relative
    parts = []
    for head in range(layer.heads):
        mine = slice(head * e, (head + 1) * e)
        scores = []
        for j in range(i + 1):
            rates = 10000.0 ** (-torch.arange(0, D, 2) / D)
            angle = (i - j) * rates
            place = torch.cat([angle.sin(), angle.cos()]).double()
            place = (relative.positions.direction @ place)[mine]
            content = (query[mine] + relative.content[head, 0]) @ key[j, mine]
            scores.append((content + (query[mine] + relative.place[head, 0]) @ place) / e**0.5)
        parts.append(torch.stack(scores).softmax(0) @ value[: i + 1, mine])
    return torch.cat(parts)


def transformer_xl(model: nn.Module, words: Tensor) -> Tensor:
    h = words
    for layer in model.layers:
        rows = []
        for i in range(len(h)):
            a = layer.norms[0](h[i] + layer.output.weight @ attention(layer, h, i))
            inner = (layer.first.weight @ a + layer.first.bias).clamp_min(0)
            rows.append(layer.norms[1](a + layer.second.weight @ inner + layer.second.bias))
        h = torch.stack(rows)
    return h


def convolved(convolution: nn.Module, h: Tensor, dilation: int = 1) -> Tensor:
    """Position by position, with the normalised weights computed from their parts."""
    scale, direction = convolution.parametrizations.weight.parameters()
    norm = direction.square().sum((1, 2), keepdim=True).sqrt()
    *_, window = (weight := scale * direction / norm).shape
    rows = []
    for t in range(len(h)):
        seen = [j for j in range(window) if t - j * dilation >= 0]
        terms = [weight[:, :, window - 1 - j] @ h[t - j * dilation] for j in seen]
        rows.append(convolution.bias + torch.stack(terms).sum(0))
    return torch.stack(rows)


def tcn(model: nn.Module, words: Tensor) -> Tensor:
    h = words
    for i, block in enumerate(model.blocks):
        g = convolved(block.first, h, 2**i).clamp_min(0)
        g = convolved(block.second, g, 2**i).clamp_min(0)
        if h.shape != g.shape:
            h = h @ block.skip.weight[:, :, 0].T + block.skip.bias
        h = (g + h).clamp_min(0)
    return h


def gated(model: nn.Module, words: Tensor) -> Tensor:
    h = words
    for block in model.blocks:
        g = h
        for convolution in block.convolutions:
            value, gate = convolved(convolution, g).chunk(2, dim=1)
            g = value / (1 + (-gate).exp())
        h = ((h if h.shape == g.shape else convolved(block.skip, h)) + g) / 2**0.5
    scale, direction = model.output.parametrizations.weight.parameters()
    weight = scale * direction / direction.square().sum(1, keepdim=True).sqrt()
    return h @ weight.T + model.output.bias


def qrnn(model: nn.Module, words: Tensor) -> Tensor:
    h = words
    for layer in model.layers:
        features = h.shape[1]
        weight = layer.gates.weight.unflatten(1, (features, -1))  # the oldest token first
        window, width = weight.shape[2], len(weight) // 3
        padded, c, rows = F.pad(h, (0, 0, window - 1, 0)), torch.zeros(width).double(), []
        for t in range(len(h)):
            near = (weight * padded[t : t + window].T).sum((1, 2)) + layer.gates.bias
            z, f, o = near.split(width)
            c = f.sigmoid() * c + (1 - f.sigmoid()) * z.tanh()
            rows.append(o.sigmoid() * c)
        h = torch.stack(rows)
    return h


FORMULAS = {"transformer-xl": transformer_xl, "tcn": tcn, "gated": gated, "qrnn": qrnn}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fused", [True, False])
def test_a_network_is_its_formula(name: str, fused: bool) -> None:
    """Attention is fused where no gradient is wanted."""
    model, batch = made(ALL[name]), batch_of()
    words = model.vocabulary.embed(batch.tokens)
    expected = torch.stack([FORMULAS[name](model, text) for text in words])
    with torch.set_grad_enabled(not fused):
        close(model(batch), expected)


def test_gradients_are_those_of_the_formula() -> None:
    for name, build in ALL.items():
        model, batch = made(build), batch_of()
        words = model.vocabulary.embed(batch.tokens)
        expected = torch.stack([FORMULAS[name](model, text) for text in words])
        inside = [p for n, p in model.named_parameters() if not n.startswith("vocabulary")]
        found = torch.autograd.grad(model(batch).square().sum(), inside)
        wanted = torch.autograd.grad(expected.square().sum(), inside)
        for one, other in zip(found, wanted, strict=True):
            close(one, other)


def test_a_short_memory_is_a_moving_window() -> None:
    """One layer with a memory of 4 sees of a text what it sees of its last 4 + 2 tokens."""
    spec = TransformerXLSpec(**SMALL, layers=1, heads=2, inner=6, memory=4)
    model, batch = made(lambda: TransformerXL(spec)), batch_of(length=12)
    memory = None
    for start in range(0, 12, 2):
        places = torch.arange(start - 4, start)
        known = (places >= 0).expand(2, 4)
        told = LanguageBatch(
            batch.tokens[:, start : start + 2],
            batch.target[:, start : start + 2],
            batch.tokens[:, places.clamp_min(0)],
            known,
            memory,
        )
        answer = model.run(told)
        memory = answer.memory
        recent = batch._replace(tokens=batch.tokens[:, max(0, start - 4) : start + 2])
        close(answer.hidden, model(recent)[:, -2:])


def test_a_gated_block_keeps_the_size_of_what_passes() -> None:
    spec = GatedConvSpec(
        vocabulary=WORDS, features=64, blocks=(Gated(features=64, window=4),) * 12
    )
    torch.manual_seed(0)
    words = torch.randn(4, 64, 60 + spec.past)
    exists, h = torch.ones(4, 1, 60 + spec.past, dtype=torch.bool), words
    for block in GatedConvNet(spec).blocks:
        h = block(h, exists)
    assert h.shape[2] == 60
    assert 0.5 < float(h.detach().std()) < 2.0


def test_weights_are_dropped_once_a_batch() -> None:
    """So that equal texts have equal answers, and what is left of a weight counts more."""
    model = made(lambda: QRNN(QRNNSpec(**SMALL, layers=2, hidden=6, weight_dropout=0.5))).train()
    twice = LanguageBatch(*(part[:1].expand(2, -1) for part in batch_of()[:4]))
    first, other = model(twice), model(twice)
    close(first[0], first[1])
    assert not torch.equal(first, other)


@pytest.mark.parametrize("length", [1, 9])
def test_penalties_are_their_formula_and_paid_in_training_alone(length: int) -> None:
    spec = QRNNSpec(
        **SMALL, layers=2, hidden=6, activation_penalty=2.0, change_penalty=3.0, head_dropout=0.5
    )
    model, batch = made(lambda: QRNN(spec)), batch_of(length=length)
    raw = model.run(batch)
    assert raw.penalty is None
    torch.manual_seed(0)
    answer = model.train().run(batch)
    large = torch.stack([sample.square().mean() for sample in answer.hidden])
    pairs = range(1, length)
    changes = [(raw.hidden[:, t] - raw.hidden[:, t - 1]).square().mean(1) for t in pairs]
    change = torch.stack(changes).mean(0) if changes else 0.0
    assert answer.penalty is not None
    close(answer.penalty, 2 * large + 3 * change)
    torch.manual_seed(0)
    close(model.losses(batch), model.loss(answer.hidden, batch) + answer.penalty)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


VOCABULARY = WORDS * D + WORDS


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # each layer: q, k, v, output and positions; u, v; two maps; two normalisations
        ("transformer-xl", 2 * (5 * D * D + 2 * D + 2 * 6 * D + 6 + D + 4 * D)),
        # two convolutions of window 3, each with its bias and its lengths, and skips 8-6, 6-8
        (
            "tcn",
            (3 * 6 * (D + 6) + 4 * 6)
            + (3 * 6 * (6 + 6) + 4 * 6)
            + (3 * D * (6 + D) + 4 * D)
            + (D * 6 + 6)
            + (6 * D + D),
        ),
        # value and gate, each with bias and length: 8 to 4, 4 of 4 to 4, 4 to 10; 3 of 10 to 8;
        # skips 8-10 and 10-8, and the output
        (
            "gated",
            (2 * 4 * (D + 2) + 2 * 4 * (4 * 4 + 2) + 2 * 10 * (4 + 2))
            + 2 * D * (3 * 10 + 2)
            + 10 * (D + 2)
            + D * (10 + 2)
            + D * (D + 2),
        ),
        # three gates: 3 words to 6, 6 to 8
        ("qrnn", 3 * 6 * (3 * D + 1) + 3 * D * (6 + 1)),
    ],
)
def test_parameters_are_as_many_as_the_formula_says(name: str, count: int) -> None:
    assert size(ALL[name]()) == VOCABULARY + count


CUTOFFS = {"vocabulary": 267_735, "cutoffs": (20_000, 40_000, 200_000), "shrink": 1}


@pytest.mark.parametrize(
    ("build", "millions"),
    [
        (
            lambda: TransformerXL(
                TransformerXLSpec(
                    **CUTOFFS, features=410, heads=10, inner=2100, layers=16, memory=150
                )
            ),
            151,
        ),
        (lambda: QRNN(QRNNSpec(**CUTOFFS, features=400, hidden=2500, layers=4)), 154),
    ],
    ids=["transformer-xl", "qrnn"],
)
def test_published_sizes_can_be_said(
    build: Callable[[], ExplicitLanguageModel], millions: int
) -> None:
    """Transformer-XL base has 151 million parameters; the others are counted above."""
    with torch.device("meta"):
        assert size(build()) == pytest.approx(millions * 1e6, rel=5e-3)
