"""Training pairs: windows, index sampling, endpoint augmentation (Algorithm 4)."""

import pytest
import torch

from cdeq import (
    EndpointAugmentation,
    ExponentialSchedule,
    PowerSchedule,
    Schedule,
    Window,
    sample_indices,
    window,
)
from cdeq.consistency.pairs import select
from cdeq.core.state import tensors
from cdeq.typing import State

K, B = 7, 4
SCHEDULES = (ExponentialSchedule(), PowerSchedule(steps=K))


def single(k: int) -> torch.Tensor:
    """Every number tells its iteration, its sample and its place."""
    places = torch.arange(6.0).reshape(2, 3)
    return 100.0 * k + 10 * torch.arange(1.0, B + 1).reshape(B, 1, 1) + places


TRAJECTORIES = {
    "tensor": tuple(single(k) for k in range(K + 1)),
    "pair": tuple((single(k), -single(k)[:, 0]) for k in range(K + 1)),
}
each_trajectory = pytest.mark.parametrize(
    "trajectory", TRAJECTORIES.values(), ids=list(TRAJECTORIES)
)


def equal(a: State, b: State) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def sample(state: State, i: int) -> State:
    return tuple(part[i : i + 1] for part in tensors(state))


@each_trajectory
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("k", range(K + 1))
def test_a_window_holds_three_consecutive_points(trajectory, schedule: Schedule, k: int) -> None:
    """Below 0 it repeats z_0 and its time."""
    pairs = window(trajectory, schedule, torch.tensor(k))
    assert isinstance(pairs, Window)
    assert equal(pairs.endpoint, trajectory[-1])
    for z, t, i in zip(pairs.z, pairs.t, (k - 2, k - 1, k), strict=True):
        assert equal(z, trajectory[max(i, 0)])
        assert torch.equal(t, schedule(torch.tensor(max(i, 0))))


@each_trajectory
@pytest.mark.parametrize("indices", ([0, 1, 2, 7], [7, 7, 7, 7], [3, 0, 5, 1], [0, 0, 0, 0]))
def test_one_index_a_sample_is_a_loop_over_samples(trajectory, indices) -> None:
    schedule = ExponentialSchedule()
    together = window(trajectory, schedule, torch.tensor(indices))
    for i, k in enumerate(indices):
        alone = window(trajectory, schedule, torch.tensor(k))
        for ours, theirs in zip(together.z, alone.z, strict=True):
            assert equal(sample(ours, i), sample(theirs, i))
        for ours, theirs in zip(together.t, alone.t, strict=True):
            torch.testing.assert_close(ours[i], theirs)
    assert equal(together.endpoint, trajectory[-1])


@each_trajectory
def test_selecting_copies_no_more_than_it_returns(trajectory) -> None:
    chosen = select(trajectory, torch.tensor([1, 2, 3, 4]))
    for part, whole in zip(tensors(chosen), tensors(trajectory[0]), strict=True):
        assert part.shape == whole.shape
    assert equal(select(trajectory, torch.tensor(3)), trajectory[3])


@pytest.mark.parametrize("k", (torch.tensor(-1), torch.tensor(8), torch.tensor([0, 1, 2, 8])))
def test_an_index_outside_the_trajectory_is_refused(k) -> None:
    with pytest.raises(ValueError, match=r"z_0 … z_7; got values"):
        window(TRAJECTORIES["tensor"], ExponentialSchedule(), k)


@pytest.mark.parametrize("indices", ([1], [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2, 3, 4]]))
def test_there_is_one_index_or_one_a_sample(indices) -> None:
    with pytest.raises(ValueError, match="one a sample"):
        window(TRAJECTORIES["tensor"], ExponentialSchedule(), torch.tensor(indices))


@pytest.mark.parametrize("first", (0, 1, 5))
def test_indices_are_uniform_from_first_to_last(first) -> None:
    generator = torch.Generator().manual_seed(3)
    draws = sample_indices(K, (20000,), first=first, generator=generator)
    counts = torch.bincount(draws, minlength=K + 1).double()
    assert counts[:first].sum() == 0
    expected = 20000 / (K + 1 - first)
    assert ((counts[first:] - expected).abs() < 5 * expected**0.5).all()


def test_algorithm_2_never_draws_the_start() -> None:
    assert set(sample_indices(3, (500,)).tolist()) == {1, 2, 3}
    assert sample_indices(K, ()).shape == ()


def test_the_generator_decides() -> None:
    draws = [
        sample_indices(99, (50,), generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(("last", "first"), [(3, 4), (3, -1), (0, 1)])
def test_an_empty_range_is_refused(last, first) -> None:
    with pytest.raises(ValueError, match=f"got {first} … {last}"):
        sample_indices(last, (2,), first=first)


LONG, MANY = 30, 500


def long_trajectory() -> tuple[State, ...]:
    return tuple(
        (torch.full((MANY, 2, 3), float(k)), torch.full((MANY,), float(k)))
        for k in range(LONG + 1)
    )


@pytest.mark.parametrize("probability", (0.0, 0.1, 0.5, 1.0))
@pytest.mark.parametrize(("first", "tail"), [(1, 4), (5, 0), (1, 30), (2, 40)])
def test_augmentation_replaces_whole_states_with_its_probability(probability, first, tail) -> None:
    """Independently for every sample and point; never z_0 nor the last k_tail."""
    trajectory = long_trajectory()
    augment = EndpointAugmentation(probability=probability, first=first, tail=tail)
    augmented = augment(trajectory, generator=torch.Generator().manual_seed(4))
    assert len(augmented) == LONG + 1
    inside = range(first, LONG - tail + 1)
    for k, (image, number) in enumerate(augmented):
        replaced = number == LONG if k < LONG else torch.zeros(MANY, dtype=torch.bool)
        assert torch.equal(
            image, torch.where(replaced, float(LONG), float(k)).reshape(-1, 1, 1).expand(-1, 2, 3)
        )
        share = replaced.double().mean()
        spread = (probability * (1 - probability) / MANY) ** 0.5
        expected = probability if k in inside and k < LONG else 0.0
        assert abs(share - expected) <= (5 * spread if expected else 0.0)
    assert all(map(equal, trajectory, long_trajectory()))
    assert augmented[0] is trajectory[0]


def test_neighbouring_points_are_replaced_independently() -> None:
    augment = EndpointAugmentation(probability=0.5, first=1, tail=1)
    augmented = augment(long_trajectory(), generator=torch.Generator().manual_seed(5))
    a, b = (augmented[k][1] == LONG for k in (10, 11))
    assert abs((a & b).double().mean() - 0.25) < 0.1


def test_an_unbatched_state_is_replaced_as_one() -> None:
    graph = tuple(torch.full((50, 2), float(k)) for k in range(9))
    augment = EndpointAugmentation(probability=0.5, first=1, tail=0)
    augmented = augment(graph, batched=False, generator=torch.Generator().manual_seed(6))
    values = [state.unique().tolist() for state in augmented]
    assert all(value in ([k], [8.0]) for k, value in enumerate(values))
    assert 0 < sum(value == [8.0] for value in values[1:8]) < 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probability": 1.1}, "`probability`"),
        ({"probability": float("nan")}, "`probability`"),
        ({"first": 0}, "keeps z_0"),
        ({"tail": -1}, "k_tail"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        EndpointAugmentation(**settings)
