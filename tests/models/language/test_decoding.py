"""Choosing tokens: which are left, how likely each is, and that draws keep to it."""

import math

import pytest
import torch
from torch import Tensor

from cdeq.models.language.decoding import Decoding

GREEDY = Decoding(temperature=0.0)
SETTINGS = [
    Decoding(),
    Decoding(temperature=0.5),
    Decoding(temperature=3.0, top_k=4),
    Decoding(top_p=0.7),
    Decoding(temperature=2.0, top_k=6, top_p=0.6),
    GREEDY,
]


def log_probs_of(rows: int = 5, words: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(rows, words, generator=generator, dtype=torch.float64)
    return logits.log_softmax(1)


def by_hand(log_probs: list[float], decoding: Decoding) -> dict[int, float]:
    """The probabilities of the tokens that are left, one row, token after token."""
    weights = {w: math.exp(value / decoding.temperature) for w, value in enumerate(log_probs)}
    ranked = sorted(weights, key=weights.__getitem__, reverse=True)[: decoding.top_k]
    total, kept, sum_kept = sum(weights[w] for w in ranked), [], 0.0
    for w in ranked:
        if decoding.top_p is not None and sum_kept >= decoding.top_p * total:
            break
        kept.append(w)
        sum_kept += weights[w]
    return {w: weights[w] / sum_kept for w in kept}


@pytest.mark.parametrize("decoding", SETTINGS[:-1], ids=str)
def test_the_distribution_is_what_is_said(decoding: Decoding) -> None:
    log_probs = log_probs_of()
    found = decoding.distribution(log_probs).exp()
    for row, given in zip(found, log_probs.tolist(), strict=True):
        left = {w: p for w, p in enumerate(row.tolist()) if p}
        assert left == pytest.approx(by_hand(given, decoding))


@pytest.mark.parametrize("decoding", SETTINGS, ids=str)
def test_a_constant_is_of_no_influence(decoding: Decoding) -> None:
    log_probs = log_probs_of()
    torch.testing.assert_close(
        decoding.distribution(log_probs + 5.0), decoding.distribution(log_probs)
    )


@pytest.mark.parametrize("k", range(1, 12))
def test_so_many_tokens_are_left_even_of_equals(k: int) -> None:
    log_probs = torch.zeros(2, 9)
    left = Decoding(top_k=k).distribution(log_probs).isfinite().sum(1)
    assert left.tolist() == [min(k, 9)] * 2


@pytest.mark.parametrize("p", [1e-9, 0.2, 0.5, 0.9, 0.999])
def test_the_fewest_tokens_are_left_that_are_likely_enough(p: float) -> None:
    given = log_probs_of().exp()
    left = Decoding(top_p=p).distribution(given.log()).isfinite()
    for probs, mine in zip(given, left, strict=True):
        kept = probs[mine].sort().values
        assert kept[1:].sum() < p <= kept.sum()
        assert not (~mine).any() or probs[~mine].max() <= kept[0]


def test_the_whole_probability_is_every_token() -> None:
    steep = torch.tensor([[0.0, -20.0, -40.0]])  # the first alone sums to 1 in float32
    assert Decoding(top_p=1.0).distribution(steep).isfinite().all()


def test_extreme_temperatures() -> None:
    log_probs = log_probs_of()
    coldest = Decoding(temperature=1e-6).distribution(log_probs.float())
    torch.testing.assert_close(coldest.exp(), GREEDY.distribution(log_probs.float()).exp())
    hottest = Decoding(temperature=1e9).distribution(log_probs).exp()
    torch.testing.assert_close(hottest, torch.full_like(hottest, 1 / 9))


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(top_k=1), Decoding(top_p=1e-9)], ids=str)
def test_the_most_probable_token(decoding: Decoding) -> None:
    log_probs = log_probs_of()
    assert torch.equal(decoding.choose(log_probs), log_probs.argmax(1))


def test_what_is_certain_is_not_drawn_for() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    GREEDY.choose(log_probs_of(), generator)
    assert torch.equal(generator.get_state(), before)
    Decoding().choose(log_probs_of(), generator)
    assert not torch.equal(generator.get_state(), before)


DRAWS = 20_000


def drawn(decoding: Decoding, row: Tensor, seed: int = 0) -> Tensor:
    """Many draws from one distribution."""
    generator = torch.Generator().manual_seed(seed)
    return decoding.choose(row.expand(DRAWS, -1), generator)


@pytest.mark.parametrize("decoding", SETTINGS, ids=str)
def test_draws_are_as_frequent_as_they_are_likely(decoding: Decoding) -> None:
    row = log_probs_of()[0]
    expected = decoding.distribution(row.unsqueeze(0))[0].exp()
    found = torch.bincount(drawn(decoding, row), minlength=9) / DRAWS
    assert (found[expected == 0] == 0).all()
    deviation = (expected * (1 - expected) / DRAWS).sqrt()
    assert ((found - expected).abs() <= 4.5 * deviation).all()


def test_equal_numbers_draw_equal_tokens() -> None:
    row = log_probs_of()[0]
    first = drawn(Decoding(), row)
    assert torch.equal(drawn(Decoding(), row), first)
    assert not torch.equal(drawn(Decoding(), row, seed=1), first)


def test_close_distributions_are_drawn_from_alike() -> None:
    """With exponential races tokens differ with probability 2 v / (1 + v) at most, where v is how
    far apart the distributions are in total variation."""
    row, noise = log_probs_of()[:2]
    other = (row + 0.05 * noise).log_softmax(0)
    apart = float((row.exp() - other.exp()).abs().sum() / 2)
    bound = 2 * apart / (1 + apart)
    differ = (drawn(Decoding(), row) != drawn(Decoding(), other)).double().mean()
    assert 0.0 < differ <= bound + 4 * math.sqrt(bound / DRAWS)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": -1.0}, "0 for the most probable token"),
        ({"temperature": math.nan}, "0 for the most probable token"),
        ({"temperature": math.inf}, "0 for the most probable token"),
        ({"temperature": 1e-7}, "at least 1e-6; got 1e-07"),
        ({"top_k": 0}, "at least 1; got 0"),
        ({"top_p": 0.0}, r"in \(0, 1\]; got 0.0"),
        ({"top_p": 1.5}, r"in \(0, 1\]; got 1.5"),
        ({"top_p": math.nan}, r"in \(0, 1\]; got nan"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Decoding(**wrong)  # type: ignore[arg-type]
