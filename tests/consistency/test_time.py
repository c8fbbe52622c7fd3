"""Virtual time: where iterations stand, and what a student keeps there."""

import math

import pytest
import torch

from cdeq import Boundary, ExponentialSchedule, PowerSchedule, Schedule, TimeSpan

SPANS = (TimeSpan(), TimeSpan(eps=0.0), TimeSpan(eps=0.01, end=5.0), TimeSpan(eps=1e-3, end=0.7))
EPS = torch.tensor(TimeSpan().eps)
POWERS = (0.5, 1.0, 2.0, 3.0, 7.0)
each_span = pytest.mark.parametrize("span", SPANS, ids=str)
each_precision = pytest.mark.parametrize("precision", (torch.float32, torch.float64), ids=str)


def schedules(span: TimeSpan) -> list[Schedule]:
    exponential = [ExponentialSchedule(rate=rate, span=span) for rate in (0.05, 0.3, 0.4)]
    return exponential + [PowerSchedule(power=p, steps=30, span=span) for p in POWERS]


@each_span
@each_precision
def test_time_starts_at_eps_grows_and_stays_in_its_span(span, precision) -> None:
    k = torch.arange(31, dtype=precision)
    rounding = 4 * torch.finfo(precision).eps * span.end
    for schedule in schedules(span):
        t = schedule(k)
        assert t.dtype == precision
        assert abs(t[0].item() - span.eps) <= rounding
        assert (t[1:] > t[:-1]).all()
        assert t.max() <= span.end + rounding
        assert ((schedule.ratio(k) >= 0) & (schedule.ratio(k) <= 1)).all()
        torch.testing.assert_close(span.normalize(t), schedule.ratio(k), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(t.float(), schedule.times(31), rtol=1e-5, atol=1e-6)


@each_span
def test_the_exponential_grid_is_equation_6(span) -> None:
    schedule = ExponentialSchedule(rate=0.3, span=span)
    k = torch.arange(100, dtype=torch.float64)
    expected = [span.eps + (1 - math.exp(-0.3 * i)) * (span.end - span.eps) for i in range(100)]
    torch.testing.assert_close(schedule(k), torch.tensor(expected, dtype=torch.float64))
    assert schedule(torch.tensor(0)).item() == torch.tensor(span.eps).item()


def test_the_exponential_grid_never_reaches_its_end_and_the_power_grid_does() -> None:
    """In float64, as long as that tells e^-ρk from 0."""
    k = torch.arange(110, dtype=torch.float64)
    t = ExponentialSchedule(rate=0.3, span=TimeSpan(eps=0.0))(k)
    assert (t[1:] > t[:-1]).all()
    assert (t < 1.0).all()
    for span in SPANS:
        for power in POWERS:
            end = PowerSchedule(power=power, steps=20, span=span)(torch.tensor(20))
            torch.testing.assert_close(end, torch.tensor(span.end))


@pytest.mark.parametrize("rate", (0.01, 0.3, 1.0, 5.0))
def test_the_ratio_of_appendix_b3_is_a_rate(rate) -> None:
    k = torch.arange(20, dtype=torch.float64)
    ratio = math.exp(-rate)
    by_ratio = ExponentialSchedule.from_ratio(ratio)
    assert by_ratio.rate == pytest.approx(rate, rel=1e-12)
    torch.testing.assert_close(by_ratio.ratio(k), 1 - ratio**k)
    torch.testing.assert_close(by_ratio(k), ExponentialSchedule(rate=rate)(k))


@each_span
@pytest.mark.parametrize("power", POWERS)
def test_the_power_grid_is_uniform_in_its_root(power, span) -> None:
    t = PowerSchedule(power=power, steps=12, span=span)(torch.arange(13, dtype=torch.float64))
    roots = t ** (1 / power)
    gaps = roots[1:] - roots[:-1]
    torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-6, atol=1e-9)


def test_times_are_where_inference_calls_the_student() -> None:
    schedule = ExponentialSchedule.from_ratio(0.5)
    assert schedule.times(1).tolist() == [torch.tensor(schedule.span.eps).item()]
    assert torch.equal(schedule.times(5)[:3], schedule.times(3))
    shape = torch.tensor([[0, 1], [2, 3]])
    assert torch.equal(schedule(shape), schedule.times(4).reshape(2, 2))


@each_span
def test_scale_and_normalize_are_inverse(span) -> None:
    tau = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(span.normalize(span.scale(tau)), tau)
    ends = span.scale(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([span.eps, span.end], dtype=torch.float64))


@each_span
@each_precision
@pytest.mark.parametrize("power", (1.0, 1.5, 2.0, 3.7))
def test_boundary_coefficients_share_one_between_them(power, span, precision) -> None:
    """At every time that any schedule of the same span gives, rounding included."""
    boundary = Boundary(power=power, span=span)
    for schedule in schedules(span):
        t = schedule(torch.arange(31, dtype=precision))
        c_skip, c_out = boundary(t)
        torch.testing.assert_close(c_skip + c_out, torch.ones_like(t))
        torch.testing.assert_close(c_skip, span.normalize(t).clamp(0, 1) ** power)
        assert (c_skip[1:] >= c_skip[:-1]).all()
        assert c_skip[0].abs() < 1e-6


@each_span
@each_precision
def test_the_boundary_is_all_network_at_eps_and_the_identity_at_the_end(span, precision) -> None:
    for power in (1.0, 1.5, 4.0):
        ends = torch.tensor([span.eps, span.end], dtype=precision)
        c_skip, c_out = Boundary(power=power, span=span)(ends)
        torch.testing.assert_close(c_skip, torch.tensor([0.0, 1.0], dtype=precision))
        torch.testing.assert_close(c_out, torch.tensor([1.0, 0.0], dtype=precision))


def test_a_time_that_rounding_put_before_eps_is_eps() -> None:
    before = torch.nextafter(EPS, torch.tensor(0.0))
    for power in (1.0, 1.5, 2.0):
        assert [c.item() for c in Boundary(power=power)(before)] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TimeSpan(eps=-0.1), "0 ≤ eps < end"),
        (lambda: TimeSpan(eps=1.0, end=1.0), "0 ≤ eps < end"),
        (lambda: TimeSpan(eps=float("nan")), "0 ≤ eps < end"),
        (lambda: ExponentialSchedule(rate=0.0), "`rate`"),
        (lambda: ExponentialSchedule(rate=float("nan")), "`rate`"),
        (lambda: ExponentialSchedule.from_ratio(1.0), "`ratio`"),
        (lambda: ExponentialSchedule.from_ratio(0.0), "`ratio`"),
        (lambda: PowerSchedule(power=0.0), "`power`"),
        (lambda: PowerSchedule(steps=0), "`steps`"),
        (lambda: PowerSchedule(steps=5)(torch.tensor([2, 6])), "ends at k = 5"),
        (lambda: ExponentialSchedule().times(0), "`steps`"),
        (lambda: Boundary(power=0.9), "`power`"),
    ],
)
def test_settings_out_of_range_are_refused(build, message) -> None:
    with pytest.raises(ValueError, match=f"{message}.*got"):
        build()
