"""The parts of a picture: an axis of budgets, one of values, the models' curves and levels."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cdeq.report.metrics import Metric
from cdeq.report.rows import Row, sort_models
from cdeq.report.styles import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def set_budget_axis(axes: "Axes", points: Sequence[Row], *, gap: float = 0.05) -> None:
    """Makes the horizontal axis logarithmic, with ticks at budgets that exist.

    Arguments:
        axes: Where.
        points: Rows with a number of evaluations, at least one.
        gap: The least distance between two ticks, as a share of the axis.
    """
    ticks = _spaced(sorted({row.nfe for row in points if row.nfe is not None}), gap)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, labels=[str(nfe) for nfe in ticks])
    axes.set_xlabel("function evaluations (NFE)")


def set_log_axis(axes: "Axes", values: Iterable[float]) -> None:
    """Makes the vertical axis logarithmic, fitted to some values, with plain numbers as labels.

    Arguments:
        axes: Where.
        values: What has to be inside, all above 0.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = _ends(values, (0.1, 1.0))
    margin = max((high / low) ** 0.06, 1.05)
    axes.set_ylim(low / margin, high * margin)  # by the values alone: a band may reach below 0
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 300 else (1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def set_linear_axis(axes: "Axes", values: Iterable[float]) -> None:
    """Fits the vertical axis to some values, linearly.

    Arguments:
        axes: Where.
        values: What has to be inside.
    """
    low, high = _ends(values, (0.0, 1.0))
    margin = 0.06 * (high - low) or 0.05
    axes.set_ylim(low - margin, high + margin)


def draw_curves(
    axes: "Axes",
    points: Sequence[Row],
    kind: Metric,
    looks: dict[str, Style],
    *,
    opacity: float = 0.16,
) -> None:
    """Draws one line a model, with its spread as a band, the prominent ones first and on top.

    A faint line has no band.

    Arguments:
        axes: Where.
        points: Rows with a number of evaluations, of one metric, in any order.
        kind: The metric.
        looks: The look of every model among them.
        opacity: That of the bands, between 0 and 1.
    """
    models = sort_models(row.model for row in points)
    for model in sorted(models, key=lambda model: -looks[model].order):
        rows = sorted((row for row in points if row.model == model), key=lambda row: row.nfe or 0)
        _draw_line(axes, rows, kind, looks[model])
        if not looks[model].faint:
            _draw_band(axes, rows, kind, looks[model], opacity)


def draw_level(axes: "Axes", row: Row, kind: Metric, colour: str, label: str) -> None:
    """Draws a model that has no budget as a horizontal line: the teacher dotted and thick.

    Arguments:
        axes: Where.
        row: The model's number.
        kind: The metric.
        colour: That of the line and of its band.
        label: What the legend says.
    """
    teacher = row.model == "teacher"
    axes.axhline(
        row.value,
        label=label,
        color=colour,
        linestyle=":" if teacher else "-.",
        linewidth=1.6 if teacher else 1.0,
        zorder=2,
    )
    axes.axhspan(*_band(row, kind), color=colour, alpha=0.1, linewidth=0, zorder=1)


def can_show(row: Row, kind: Metric) -> bool:
    """Whether the metric's axis has a place for the value.

    Example:
        >>> from cdeq.report.metrics import find_metric
        >>> row = Row("m", 1, "relative_error", "test", 0.0, None, (0,))
        >>> can_show(row, find_metric("accuracy")), can_show(row, find_metric("relative_error"))
        (True, False)
    """
    return math.isfinite(row.value) and (row.value > 0 or not kind.log)


def hidden(rows: Iterable[Row], kind: Metric) -> str:
    """Lists the values that the metric's axis cannot show, by budget, for a note in the picture.

    Example:
        >>> from cdeq.report.metrics import find_metric
        >>> rows = [Row("m", 4, "accuracy", "test", math.inf, None, (0,))]
        >>> hidden(rows, find_metric("accuracy"))
        'inf at 4'
    """
    missing = sorted((row.nfe or 0, row.value) for row in rows if not can_show(row, kind))
    return ", ".join(f"{value:g} at {nfe}" for nfe, value in missing)


def _draw_line(axes: "Axes", rows: Sequence[Row], kind: Metric, style: Style) -> None:
    y = [row.value if can_show(row, kind) else math.nan for row in rows]
    axes.plot(
        _budgets(rows),
        y,
        label=rows[0].model,
        color=style.colour,
        linestyle=style.line,
        linewidth=style.width,
        marker=style.marker,
        markersize=style.size,
        markeredgecolor="white",
        markeredgewidth=0.0 if style.faint else 0.6,
        zorder=style.order,
    )


def _draw_band(
    axes: "Axes", rows: Sequence[Row], kind: Metric, style: Style, opacity: float
) -> None:
    low, high = zip(*(_band(row, kind) for row in rows), strict=True)
    axes.fill_between(
        _budgets(rows),
        low,
        high,
        color=style.colour,
        alpha=opacity,
        linewidth=0,
        zorder=style.order - 1,
    )


def _budgets(rows: Iterable[Row]) -> list[float]:
    return [float(row.nfe) for row in rows if row.nfe is not None]


def _band(row: Row, kind: Metric) -> tuple[float, float]:
    """The ends of value ± spread; NaN where there is nothing to draw."""
    if row.spread is None or not can_show(row, kind):
        return math.nan, math.nan
    return row.value - row.spread, row.value + row.spread


def _spaced(budgets: Sequence[int], gap: float) -> list[int]:
    """Leaves out the budgets whose labels would run into their left neighbour's."""
    kept = [budgets[0]]
    for nfe in budgets[1:]:
        if math.log(nfe / kept[-1]) > gap * math.log(budgets[-1] / budgets[0]):
            kept.append(nfe)
    return kept


def _ends(values: Iterable[float], otherwise: tuple[float, float]) -> tuple[float, float]:
    found = sorted(values)
    return (found[0], found[-1]) if found else otherwise
