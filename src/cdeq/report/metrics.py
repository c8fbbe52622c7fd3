"""What a metric's numbers mean: which way is better, how many digits, which axis.

A metric is registered once, and names a family: `relative_error` also covers `relative_error_p95`.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One kind of number in a result file.

    Arguments:
        name: Its name in `Row.metric`; longer names that continue it after `_` belong to it too.
        higher: Whether a higher value is better.
        spec: Chooses the format specification for a value; the spread is shown in the same one.
        log: Whether a picture shows it on a logarithmic axis.
        drawn: Whether it has a picture of its own.
        level: Whether the converged teacher's value is a level that few steps should reach. Not
            so for residuals, where it only tells at which tolerance the solve was stopped.

    Example:
        >>> find_metric("accuracy").show(0.96666, 0.0021)
        '0.967 ± 0.002'
    """

    name: str
    higher: bool
    spec: Callable[[float], str]
    log: bool = False
    drawn: bool = True
    level: bool = True

    @property
    def arrow(self) -> str:
        """The direction that is better, as an arrow.

        Example:
            >>> find_metric("accuracy").arrow, find_metric("perplexity").arrow
            ('↑', '↓')
        """
        return "↑" if self.higher else "↓"

    def show(self, value: float, spread: float | None = None) -> str:
        """Writes a value, and its spread if there is one, with a sensible number of digits.

        The spread of a value that is not finite says nothing and is left out.

        Arguments:
            value: Any number, `inf` and `nan` included.
            spread: A standard deviation, or `None` where there is only one seed.

        Example:
            >>> find_metric("relative_error").show(0.0342, 0.0018)
            '3.4e-02 ± 1.8e-03'
            >>> find_metric("relative_residual").show(float("inf"), float("nan"))
            'inf'
            >>> find_metric("parameters").show(1234567)
            '1,234,567'
        """
        spec = self.spec(value)
        if spread is None or not math.isfinite(value):
            return f"{value:{spec}}"
        return f"{value:{spec}} ± {spread:{spec}}"


def _three_decimals(value: float) -> str:
    return ".3f"


def _two_digits(value: float) -> str:
    return ".1e"


def _two_decimals(value: float) -> str:
    return ".2f"


def _one_decimal(value: float) -> str:
    return ".1f"


def _whole(value: float) -> str:
    return ",.0f"


def _one_or_two_decimals(value: float) -> str:
    return ".2f" if abs(value) < 100 else ".1f"


METRICS = (
    Metric(name="accuracy", higher=True, spec=_three_decimals),
    Metric(name="perplexity", higher=False, spec=_one_or_two_decimals, log=True),
    Metric(name="relative", higher=False, spec=_two_digits, log=True, level=False),
    Metric(name="psnr", higher=True, spec=_two_decimals),
    Metric(name="attained", higher=True, spec=_three_decimals, drawn=False),
    Metric(name="ratio", higher=False, spec=_three_decimals, drawn=False),
    Metric(name="interval", higher=False, spec=_three_decimals, drawn=False, level=False),
    Metric(name="certified", higher=True, spec=_three_decimals),
    Metric(name="agreement", higher=True, spec=_three_decimals),
    Metric(name="evaluations", higher=False, spec=_two_decimals),
    Metric(name="parameters", higher=False, spec=_whole),
    Metric(name="seconds", higher=False, spec=_one_decimal),
    Metric(name="effort", higher=False, spec=_two_decimals),
    Metric(name="products", higher=False, spec=_whole, drawn=False),
    Metric(name="time", higher=False, spec=_one_decimal, drawn=False),
    Metric(name="memory", higher=False, spec=_one_decimal, drawn=False),
)
"""Every metric the project reports.

`relative` is the family of relative errors and residuals, `psnr` is in decibels, `attained` is a
score over that of the converged teacher, `ratio` the same where lower is better, `interval` half
the width of a score's 95 % interval over samples, `certified` is the share of samples whose
residual met a tolerance, `agreement` the share that get the teacher's own answer, `evaluations`
how many of f a sample took, `effort` is training time over the teacher's, `products` counts
products of the adjacency matrix, `time` is that of an answer over that of one evaluation, and
`memory` is the most MiB that it held at once.
"""


def find_metric(name: str) -> Metric:
    """Finds the metric that a name in a result file belongs to.

    Arguments:
        name: A registered name, alone or continued after `_`.

    Raises:
        ValueError: If no metric of `METRICS` covers the name, because then nobody knows whether
            a higher value is better.

    Example:
        >>> find_metric("relative_residual").higher
        False
        >>> find_metric("acuracy")
        Traceback (most recent call last):
        ValueError: `metric` must be one whose better direction is known (accuracy, perplexity, \
relative, psnr, attained, ratio, interval, certified, agreement, evaluations, parameters, \
seconds, effort, products, time, memory, alone or continued after `_`); got 'acuracy', did you \
mean 'accuracy'?
    """
    for metric in METRICS:
        if name == metric.name or name.startswith(f"{metric.name}_"):
            return metric
    known = [metric.name for metric in METRICS]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "add it to `cdeq.report.METRICS`."
    raise ValueError(
        "`metric` must be one whose better direction is known "
        f"({', '.join(known)}, alone or continued after `_`); got {name!r}, {hint}"
    )
