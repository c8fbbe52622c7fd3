"""The laws that all explicit language models keep: what they read, remember, drop and learn."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cdeq.errors import StoreError
from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.explicit import ExplicitLanguageModel, ExplicitSpec
from cdeq.models.language.gated_conv import Gated, GatedConvNet, GatedConvSpec
from cdeq.models.language.qrnn import QRNN, QRNNSpec
from cdeq.models.language.tcn import TCN, TCNSpec
from cdeq.models.language.transformer_xl import TransformerXL, TransformerXLSpec

WORDS, LENGTH = 12, 15
SMALL = {"vocabulary": WORDS, "features": 8, "cutoffs": (5, 9), "shrink": 2}
BLOCKS = (
    Gated(features=8, window=3),
    Gated(features=6, window=2),
    Gated(features=10, window=4, bottleneck=4),
)

Made = tuple[type[ExplicitLanguageModel], ExplicitSpec]
ALL: dict[str, Made] = {
    "transformer-xl": (
        TransformerXL,
        TransformerXLSpec(**SMALL, layers=2, heads=2, inner=6, memory=LENGTH),
    ),
    "tcn": (TCN, TCNSpec(**SMALL, layers=2, hidden=6, window=2)),
    "tcn-even": (TCN, TCNSpec(**SMALL, layers=2, hidden=8, window=3)),
    "gated": (GatedConvNet, GatedConvSpec(**SMALL, blocks=BLOCKS)),
    "qrnn": (QRNN, QRNNSpec(**SMALL, layers=3, hidden=6)),
    "qrnn-1": (QRNN, QRNNSpec(**SMALL, layers=1, window=1)),
}
REMEMBERING = [name for name in ALL if name.startswith(("transformer", "qrnn"))]
READING = [name for name in ALL if name not in REMEMBERING]
each_model = pytest.mark.parametrize("name", ALL)


@torch.no_grad()
def model_of(name: str, **changes: object) -> ExplicitLanguageModel:
    """In float64, and as if trained: no bias is left at its start."""
    torch.manual_seed(1)
    kind, spec = ALL[name]
    model = kind(replace(spec, **changes)).double().eval()
    for tensor in model.parameters():
        tensor += 0.2 * torch.rand(tensor.shape)
    return model


def text_of(samples: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(WORDS, (samples, length + 1), generator=torch.Generator().manual_seed(2))


def segment(text: Tensor, start: int, end: int, past: int) -> LanguageBatch:
    """Tokens start … end - 1, with the `past` before them; nonsense where there are none."""
    places = torch.arange(start - past, start)
    known = (places >= 0).expand(len(text), past)
    before = text[:, places.clamp_min(0)].where(known, -7)
    return LanguageBatch(text[:, start:end], text[:, start + 1 : end + 1], before, known)


def whole(text: Tensor) -> LanguageBatch:
    return segment(text, 0, text.shape[1] - 1, 0)


def segments(text: Tensor, length: int, past: int) -> Iterator[LanguageBatch]:
    for start in range(0, text.shape[1] - 1, length):
        yield segment(text, start, min(start + length, text.shape[1] - 1), past)


def carried(model: ExplicitLanguageModel, batches: Iterator[LanguageBatch]) -> Tensor:
    """The hidden features of all segments, read in order."""
    memory, parts = None, []
    for batch in batches:
        answer = model.run(model.recall(batch, memory))
        memory = answer.memory
        parts.append(answer.hidden)
    return torch.cat(parts, dim=1)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@each_model
@pytest.mark.parametrize("length", [1, 3, 7])
def test_segments_are_one_text(name: str, length: int) -> None:
    model, text = model_of(name), text_of()
    close(carried(model, segments(text, length, model.spec.past)), model(whole(text)))


@each_model
def test_no_token_is_seen_before_its_turn(name: str) -> None:
    """The other token is of the same cluster, so that exactly the same products are computed."""
    model, text = model_of(name), text_of()
    before = model(whole(text))
    for place in range(LENGTH):
        other = text.clone()
        other[:, place] = torch.tensor([1, 2, 3, 4, 0, 6, 7, 8, 5, 10, 11, 9])[text[:, place]]
        after = model(whole(other))
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.equal(after[:, place], before[:, place])


@pytest.mark.parametrize("name", READING)
def test_the_past_is_as_long_as_is_said(name: str) -> None:
    model, past = model_of(name), ALL[name][1].past
    batch = segment(text_of(1, past + 5), past + 4, past + 5, past + 4)
    answer = model(batch)
    for place in range(past + 4):
        other = batch.past.clone()
        other[0, place] = (other[0, place] + 1) % WORDS
        changed = model(batch._replace(past=other))
        assert torch.equal(changed, answer) == (place < 4)


@each_model
def test_samples_do_not_see_each_other(name: str) -> None:
    model, text = model_of(name), text_of(3)
    together = carried(model, segments(text, 5, model.spec.past))
    for row in range(3):
        alone = carried(model, segments(text[row : row + 1], 5, model.spec.past))
        close(together[row : row + 1], alone)


@each_model
def test_a_text_that_starts_knows_nothing_of_what_was_before(name: str) -> None:
    """In one batch with a text that goes on, and whatever the past holds where it is unknown."""
    model, text = model_of(name), text_of()
    past = model.spec.past
    memory = model.run(segment(text, 0, 5, past)).memory
    starting, going = segment(text[:1], 0, 4, past), segment(text[1:], 5, 9, past)
    mixed = LanguageBatch(*(torch.cat(parts) for parts in zip(starting[:4], going[:4])))  # noqa: B905
    if memory is not None:
        memory[0] = torch.nan
        going = going._replace(memory=memory[1:])
    answer = model.run(model.recall(mixed, memory))
    close(
        answer.hidden[:1],
        model(starting._replace(past=starting.past[:, :0], known=starting.known[:, :0])),
    )
    close(answer.hidden[1:], model(going))
    if memory is not None:
        assert bool(answer.memory.isfinite().all())


@pytest.mark.parametrize("name", REMEMBERING)
def test_memories_are_numbers_of_each_sample(name: str) -> None:
    model, text = model_of(name).train(), text_of()
    first = model.run(segment(text, 0, 5, model.spec.past))
    assert isinstance(first.memory, Tensor) and not first.memory.requires_grad
    assert first.memory.ndim == 3 and len(first.memory) == len(text)
    again = model.run(model.recall(segment(text, 5, 9, model.spec.past), first.memory))
    assert again.memory.shape == first.memory.shape


@pytest.mark.parametrize("name", READING)
def test_networks_that_read_again_remember_nothing(name: str) -> None:
    assert model_of(name).run(whole(text_of())).memory is None


@each_model
def test_losses_are_those_of_the_distribution(name: str) -> None:
    model, batch = model_of(name), whole(text_of())
    log_probs = model.log_probs(model(batch))
    close(log_probs.exp().sum(-1), torch.ones(2, LENGTH, dtype=torch.float64))
    expected = -log_probs.gather(2, batch.target.unsqueeze(2)).mean((1, 2))
    close(model.losses(batch), expected)
    close(model.loss(model(batch), batch), expected)


@each_model
def test_every_parameter_learns(name: str) -> None:
    model, memory, parts = model_of(name).train(), None, []
    for batch in segments(text_of(), 8, model.spec.past):
        told = model.recall(batch, memory)
        memory = model.run(told).memory
        parts.append(model.losses(told).mean())
    torch.stack(parts).mean().backward()
    quiet = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max()]
    assert not quiet


@each_model
def test_a_network_comes_back(name: str, tmp_path: Path) -> None:
    model, batch = model_of(name).float(), whole(text_of())
    model.save_pretrained(tmp_path)
    read = type(model).from_pretrained(tmp_path)
    assert read.spec == model.spec and not read.training
    assert torch.equal(read(batch), model(batch))
    other = QRNN if name.startswith("tcn") else TCN
    with pytest.raises(StoreError, match=f"holds a {type(model).__name__}, not a"):
        other.from_pretrained(tmp_path)


DROPPED = [
    (name, share)
    for name, (_, spec) in ALL.items()
    for share in ("dropout", "word_dropout", "head_dropout", "weight_dropout")
    if hasattr(spec, share) and (name, share) != ("qrnn-1", "dropout")  # nothing is between
]


@pytest.mark.parametrize(("name", "share"), DROPPED)
def test_training_alone_drops_what_its_seed_says(name: str, share: str) -> None:
    model, plain, batch = model_of(name, **{share: 0.4}), model_of(name), whole(text_of())
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(batch), plain(batch))
    assert torch.equal(plain.train()(batch), plain.eval()(batch))
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model.train()(batch))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@each_model
def test_features_are_dropped_at_all_positions_or_none(name: str) -> None:
    model = model_of(name, head_dropout=0.4).train()
    batch = whole(text_of())
    dropped = model(batch)
    kept = (dropped != 0.0).any(1, keepdim=True)
    close(dropped, model.eval()(batch) * kept / 0.6)
    assert not bool(kept.all())


MEMORISED: dict[str, Callable[[], ExplicitLanguageModel]] = {
    "transformer-xl": lambda: TransformerXL(
        TransformerXLSpec(vocabulary=WORDS, features=32, layers=2, inner=64, memory=8)
    ),
    "tcn": lambda: TCN(TCNSpec(vocabulary=WORDS, features=32, hidden=32, layers=3)),
    "gated": lambda: GatedConvNet(
        GatedConvSpec(vocabulary=WORDS, features=32, blocks=(Gated(features=32, window=4),) * 3)
    ),
    "qrnn": lambda: QRNN(QRNNSpec(vocabulary=WORDS, features=32, hidden=48, layers=2)),
}


@pytest.mark.parametrize("name", MEMORISED)
def test_a_short_text_is_learned_by_heart(name: str) -> None:
    torch.manual_seed(0)
    model, text = MEMORISED[name]().train(), text_of(2, 24)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        memory = None
        for batch in segments(text, 8, model.spec.past):
            answer = model.run(model.recall(batch, memory))
            memory = answer.memory
            adam.zero_grad()
            model.loss(answer.hidden, batch).mean().backward()
            adam.step()
    with torch.no_grad():
        hidden = carried(model.eval(), segments(text, 8, model.spec.past))
        loss = model.loss(hidden[:, 4:], whole(text[:, 4:])).mean()
    assert float(loss) < 0.3  # guessing costs 2.5


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TransformerXLSpec, {"layers": 0}, "`layers` is a count of at least 1; got 0"),
        (TransformerXLSpec, {"heads": 3}, "divided evenly among `heads`; got 160 and 3"),
        (TransformerXLSpec, {"features": 5, "heads": 5}, "`features` are even"),
        (TransformerXLSpec, {"memory": -1}, "`memory` counts tokens from 0 up; got -1"),
        (TransformerXLSpec, {"deviation": 0.0}, "`deviation` is above 0"),
        (TCNSpec, {"window": 0}, "`window` is a count of at least 1; got 0"),
        (TCNSpec, {"features": 0}, "`features` is a count of at least 1; got 0"),
        (TCNSpec, {"dropout": 1.0}, r"`dropout` is a share in \[0, 1\); got 1.0"),
        (TCNSpec, {"vocabulary": 9, "cutoffs": (9,)}, "ascending between 1 and 8"),
        (GatedConvSpec, {"blocks": ()}, "at least one of `blocks`; got none"),
        (GatedConvSpec, {"word_dropout": -0.1}, r"`word_dropout` is a share in \[0, 1\)"),
        (Gated, {"features": 4, "window": 0}, "a bottleneck of at least 1; got Gated"),
        (Gated, {"features": 4, "window": 1, "bottleneck": 0}, "a bottleneck of at least 1"),
        (QRNNSpec, {"hidden": 0}, "`hidden` is a count of at least 1; got 0"),
        (QRNNSpec, {"weight_dropout": 1.5}, "`weight_dropout` is a share"),
        (QRNNSpec, {"change_penalty": float("nan")}, "`change_penalty` weighs a penalty"),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@each_model
def test_a_network_without_vocabulary_is_refused(name: str) -> None:
    kind, spec = ALL[name]
    with pytest.raises(ValueError, match="built for a known `vocabulary`"):
        kind(replace(spec, vocabulary=None))


@each_model
def test_unknown_words_are_refused(name: str) -> None:
    batch = whole(text_of())
    for token in (-1, WORDS):
        with pytest.raises(ValueError, match=f"knows {WORDS} tokens, counted from 0"):
            model_of(name)(batch._replace(tokens=torch.full_like(batch.tokens, token)))


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_memory_of_another_network_is_refused(name: str) -> None:
    batch = segment(text_of(), 5, 9, ALL[name][1].past)
    with pytest.raises(ValueError, match="a memory has"):
        model_of(name)(batch._replace(memory=torch.zeros(2, 1, 3)))


def test_a_memory_needs_a_past_that_tells_whose_it_is() -> None:
    model, batch = model_of("qrnn"), whole(text_of())
    with pytest.raises(ValueError, match="tells of the last 1 tokens at least"):
        model(model.recall(batch, model.run(batch).memory))
