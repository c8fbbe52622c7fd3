"""The guess from words: each from the last few that are known, and from nothing else."""

import pytest
import torch
from torch import Tensor

from cdeq.models.language.cell import LanguageContext
from cdeq.models.language.initializer import CausalInitializer

FEATURES, SAMPLES, PRESENT = 6, 2, 5
WINDOWS = (1, 2, 3, 7)
each_window = pytest.mark.parametrize("window", WINDOWS)
each_past = pytest.mark.parametrize("past", [0, 1, 2, 9])


def guesser(window: int) -> CausalInitializer:
    torch.manual_seed(0)
    return CausalInitializer(FEATURES, window=window, hidden=16).double()


def context_of(past: int) -> LanguageContext:
    generator = torch.Generator().manual_seed(1)
    shape = (SAMPLES, past + PRESENT, FEATURES)
    inputs = torch.randn(*shape, dtype=torch.float64, generator=generator)
    known = torch.ones(SAMPLES, past, dtype=torch.bool)
    known[0, : (past + 1) // 2] = False
    return LanguageContext(inputs, inputs[:, :past], known)


def guess(network: CausalInitializer, x: LanguageContext) -> Tensor:
    return network(torch.zeros(SAMPLES, PRESENT, FEATURES, dtype=torch.float64), x).detach()


def by_hand(network: CausalInitializer, x: LanguageContext) -> Tensor:
    """Word by word: the newest word meets the last matrix of the window."""
    past, window = x.known.shape[1], network.window
    found = torch.empty(SAMPLES, PRESENT, FEATURES, dtype=torch.float64)
    for b in range(SAMPLES):
        for i in range(PRESENT):
            inner = network.convolution.bias.clone()
            for back in range(window):
                j = past + i - back
                if j >= past or (j >= 0 and x.known[b, j]):
                    inner += network.convolution.weight[:, :, window - 1 - back] @ x.inputs[b, j]
            found[b, i] = network.output.weight @ inner.clamp(min=0) + network.output.bias
    return found.detach()


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@each_window
@each_past
def test_it_is_the_formula(window: int, past: int) -> None:
    network, x = guesser(window), context_of(past)
    close(guess(network, x), by_hand(network, x))


@each_window
@each_past
def test_a_word_matters_for_as_many_guesses_as_the_window_is_long(window: int, past: int) -> None:
    """And for none before it, to the last bit; not at all where it is not known."""
    network, x = guesser(window), context_of(past)
    before, places = guess(network, x), past + torch.arange(PRESENT)
    for place in range(past + PRESENT):
        inputs = x.inputs.clone()
        inputs[:, place] = 3 * inputs[:, place] + 1
        moved = (guess(network, x._replace(inputs=inputs)) != before).any(-1)
        told = x.known[:, place] if place < past else torch.ones(SAMPLES, dtype=torch.bool)
        reached = (places >= place) & (places < place + window)
        assert torch.equal(moved, told.unsqueeze(1) & reached)


@each_window
@each_past
def test_what_is_unknown_may_be_anything(window: int, past: int) -> None:
    network, x = guesser(window), context_of(past)
    inputs = x.inputs.clone()
    inputs[:, :past][~x.known] = torch.nan
    assert torch.equal(guess(network, x._replace(inputs=inputs)), guess(network, x))


@each_window
@pytest.mark.parametrize("past", [1, 2, 9])
def test_it_reads_on_from_segment_to_segment(window: int, past: int) -> None:
    """The words of the past are those that stood there when it was the present."""
    network, x = guesser(window), context_of(past)
    x = x._replace(known=torch.ones_like(x.known))
    longer = LanguageContext(x.inputs, x.memory[:, :0], x.known[:, :0])
    whole = network(torch.zeros(SAMPLES, past + PRESENT, FEATURES), longer).detach()
    close(guess(network, x), whole[:, past:])


def test_states_and_memories_say_nothing() -> None:
    network, x = guesser(3), context_of(2)
    before = guess(network, x)
    other = x._replace(memory=x.memory + torch.nan)
    elsewhere = torch.full((SAMPLES, PRESENT, FEATURES), torch.nan, dtype=torch.float64)
    assert torch.equal(network(elsewhere, other).detach(), before)


@each_window
def test_every_number_in_it_is_learned(window: int) -> None:
    network = guesser(window)
    network(torch.zeros(SAMPLES, PRESENT, FEATURES), context_of(9)).square().sum().backward()
    used = [bool((parameter.grad != 0).any()) for parameter in network.parameters()]
    assert used == [True] * 4
    size = 16 * (FEATURES * window + 1) + FEATURES * (16 + 1)
    assert sum(parameter.numel() for parameter in network.parameters()) == size
