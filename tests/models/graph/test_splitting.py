"""Splittings and resolvents by themselves: each is its formula, and as fast as it says."""

import pytest
import torch
from models.graph.zoo import adjacency_of
from problems import jacobians, seeded
from torch import Tensor

from cdeq.models.graph.mignn import cayley
from cdeq.models.graph.resolvent import Direct, Equation, Neumann, Resolvent
from cdeq.models.graph.splitting import DouglasRachford, ForwardBackward, PeacemanRachford

W = 0.8
STATE = seeded(9, 4, seed=6, dtype=torch.float64)
EQUATION = Equation(
    seeded(9, 4, seed=7, dtype=torch.float64),
    W * cayley(seeded(4, 4, seed=8, dtype=torch.float64)),
    adjacency_of("odd"),
)
RESOLVENTS = (
    Neumann(terms=1),
    Neumann(terms=4),
    Neumann(terms=1, warm=False),
    Neumann(terms=4, warm=False),
    Direct(),
)
each_resolvent = pytest.mark.parametrize("resolvent", RESOLVENTS, ids=repr)
each_step = pytest.mark.parametrize("step", (0.4, 1.0, 3.0))


def propagated(z: Tensor) -> Tensor:
    """A Z Wᵀ + B."""
    dense = EQUATION.adjacency.matrix.to_dense()
    return dense @ z @ EQUATION.weight.T + EQUATION.injection


def system(step: float) -> Tensor:
    """(1 + a) I - a A ⊗ W."""
    wide = torch.kron(EQUATION.adjacency.matrix.to_dense(), EQUATION.weight.contiguous())
    return (1 + step) * torch.eye(len(wide), dtype=torch.float64) - step * wide


@each_step
def test_the_direct_resolvent_solves_its_system(step: float) -> None:
    expected = torch.linalg.solve(system(step), STATE.flatten()).view_as(STATE)
    guess = torch.full_like(STATE, torch.nan)  # which it does not look at
    torch.testing.assert_close(Direct().bind(EQUATION, step)(STATE, guess), expected)


@each_step
@pytest.mark.parametrize("warm", (True, False))
def test_many_terms_are_the_direct_resolvent(step: float, warm: bool) -> None:
    expected = Direct().bind(EQUATION, step)(STATE, STATE)
    found = Neumann(terms=300, warm=warm).bind(EQUATION, step)(STATE, STATE.relu())
    torch.testing.assert_close(found, expected)


@each_step
@pytest.mark.parametrize("terms", (1, 2, 5))
def test_the_cold_series_is_the_sum_of_powers(step: float, terms: int) -> None:
    """k products give the powers 0 … k of E = I - system / (1 + a)."""
    power = torch.eye(36, dtype=torch.float64)
    ratio, series = power - system(step) / (1 + step), torch.zeros_like(power)
    for _ in range(terms + 1):
        series, power = series + power, power @ ratio
    expected = (series @ STATE.flatten() / (1 + step)).view_as(STATE)
    found = Neumann(terms=terms, warm=False).bind(EQUATION, step)(STATE, 1e3 * STATE)
    torch.testing.assert_close(found, expected)


@each_step
@pytest.mark.parametrize("terms", (1, 4))
def test_a_warm_resolvent_leaves_its_solution_alone(step: float, terms: int) -> None:
    right = (system(step) @ STATE.flatten()).view_as(STATE)
    torch.testing.assert_close(Neumann(terms=terms).bind(EQUATION, step)(right, STATE), STATE)


@pytest.mark.parametrize("step", (0.4, 1.0))
def test_forward_backward_is_a_step_towards_the_equation(step: float) -> None:
    expected = torch.lerp(STATE, propagated(STATE), step).relu()
    torch.testing.assert_close(ForwardBackward(step=step).bind(EQUATION)(STATE), expected)


def test_peaceman_rachford_with_one_warm_term_is_the_equation_before_its_relu() -> None:
    f = PeacemanRachford(resolvent=Neumann(terms=1)).bind(EQUATION)
    torch.testing.assert_close(f(STATE), propagated(STATE.relu()))


@each_step
def test_peaceman_rachford_reflects_twice(step: float) -> None:
    """2 J - I after 2 ReLU - I, with J from the dense system."""
    once = 2 * STATE.relu() - STATE
    right = (once + step * EQUATION.injection).flatten()
    expected = 2 * torch.linalg.solve(system(step), right).view_as(STATE) - once
    f = PeacemanRachford(step=step, resolvent=Direct()).bind(EQUATION)
    torch.testing.assert_close(f(STATE), expected)


@each_resolvent
@each_step
def test_douglas_rachford_goes_half_way(resolvent: Resolvent, step: float) -> None:
    whole = PeacemanRachford(step=step, resolvent=resolvent)
    half = DouglasRachford(step=step, resolvent=resolvent)
    expected = (STATE + whole.bind(EQUATION)(STATE)) / 2
    torch.testing.assert_close(half.bind(EQUATION)(STATE), expected)
    assert half.factor(W) == pytest.approx((1 + whole.factor(W)) / 2)
    assert half.products == whole.products


@pytest.mark.parametrize("step", (0.4, 1.0))
@pytest.mark.parametrize("resolvent", (Neumann(terms=1), Neumann(terms=4), Direct()), ids=repr)
def test_the_factor_is_reached_where_nothing_is_cut_off(resolvent: Resolvent, step: float) -> None:
    """With W = w I and u > 0, f is linear and its factor belongs to A's eigenvector of 1."""
    splitting = PeacemanRachford(step=step, resolvent=resolvent)
    equation = EQUATION._replace(weight=W * torch.eye(4, dtype=torch.float64))
    f = splitting.bind(equation)
    jacobian = jacobians(f, torch.ones_like(STATE), batched=False)[0]
    found = float(torch.linalg.matrix_norm(jacobian, 2))
    assert found == pytest.approx(splitting.factor(W), abs=1e-12)


@pytest.mark.parametrize("terms", (1, 2, 5))
@pytest.mark.parametrize("step", (0.4, 1.0))
def test_the_factor_is_the_formula(terms: int, step: float) -> None:
    q = step * W / (1 + step)
    expected = 1 - 2 * step * (1 - W) * (1 - q**terms) / (1 + step * (1 - W))
    assert Neumann(terms=terms).factor(step, W) == pytest.approx(expected)
    in_the_limit = Neumann(terms=200).factor(step, W)
    assert in_the_limit == pytest.approx(Direct().factor(step, W))
    assert Neumann(terms=200, warm=False).factor(step, W) == pytest.approx(in_the_limit)


@pytest.mark.parametrize("norm", (0.0, 0.5, 0.999))
def test_up_to_a_step_of_one_every_splitting_contracts(norm: float) -> None:
    for step in (1e-3, 0.5, 1.0):
        assert ForwardBackward(step=step).factor(norm) < 1.0
        for resolvent in RESOLVENTS:
            assert PeacemanRachford(step=step, resolvent=resolvent).factor(norm) < 1.0
    assert PeacemanRachford(step=100.0, resolvent=Direct()).factor(norm) < 1.0


@pytest.mark.parametrize(
    ("make", "settings", "text"),
    [
        (ForwardBackward, {"step": 0.0}, "forward-backward splitting in"),
        (ForwardBackward, {"step": 1.1}, "forward-backward splitting in .*; got 1.1"),
        (PeacemanRachford, {"step": 0.0}, "`step` is the step a > 0"),
        (DouglasRachford, {"step": -1.0}, "`step` is the step a > 0 .*; got -1.0"),
        (DouglasRachford, {"step": float("inf")}, "`step` is the step a > 0"),
        (Neumann, {"terms": 0}, "sparse products of one resolvent, ≥ 1; got 0"),
    ],
)
def test_impossible_settings_are_refused(make: type, settings: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(**settings)
