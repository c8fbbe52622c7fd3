"""Plans: the learning rate of every update, and what is refused."""

import math

import pytest

from cdeq.training.plan import Hardware, Plan


@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
def test_the_rate_rises_linearly_under_a_cosine(warmup: int) -> None:
    plan = Plan(steps=40, learning_rate=0.5, warmup=warmup)
    for step in range(40):
        cosine = 0.5 * math.cos(math.pi * step / 80) ** 2
        expected = cosine * (min(warmup, step + 1) / warmup if warmup else 1.0)
        assert plan.rate(step) == pytest.approx(expected, rel=1e-12)


def test_the_rate_never_rises_after_the_warmup_and_stays_positive() -> None:
    rates = [Plan(steps=100, warmup=10).rate(step) for step in range(100)]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize("name", ["steps", "batch_size", "checkpoint_every"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_start_at_one(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is a count of at least 1; got {value}"):
        Plan(**{"steps": 1, name: value})


@pytest.mark.parametrize(
    "name", ["learning_rate", "warmup", "weight_decay", "clip", "validate_every"]
)
@pytest.mark.parametrize("value", [-1, math.nan])
def test_nothing_is_negative(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is not negative; got {value}"):
        Plan(steps=1, **{name: value})


@pytest.mark.parametrize("settings", [{"devices": 0}, {"devices": -1}, {"workers": -1}], ids=str)
def test_impossible_hardware_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="`devices` is a count of at least 1"):
        Hardware(**settings)
