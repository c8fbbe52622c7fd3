"""Pictures of a metric against the number of evaluations, like the paper's Figures 2 and 3."""

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cdeq.atomic import write_atomic
from cdeq.report.metrics import Metric, find_metric
from cdeq.report.results import Results
from cdeq.report.rows import Row, sort_models
from cdeq.report.styles import LOOK, Style, styles
from cdeq.report.tables import measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METADATA = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}


def curve(
    results: Results,
    metric: str,
    split: str,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
) -> None:
    """Draws one metric against the number of evaluations, into a file.

    See `draw` for what is in the picture. The same results give the same bytes, whatever the
    user's matplotlib settings are.

    Arguments:
        results: Where to look.
        metric: A metric whose direction is known, see `METRICS`.
        split: The part of the data.
        path: A `.png` or `.svg` file; an earlier one is replaced, missing folders are made.
        title: The title; `None` for one made from the results, "" for none.

    Raises:
        ValueError: If the suffix is another one, or there is nothing to draw.
        ImportError: If matplotlib is missing.
        StoreError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> rows = tuple(Row("picard", k, "accuracy", "test", 0.5, None, (0,)) for k in (1, 2, 4))
        >>> results = Results("digits", "digits", rows, {}, {}, "cdeq demo")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     curve(results, "accuracy", "test", Path(folder) / "accuracy.png")
        ...     (Path(folder) / "accuracy.png").read_bytes()[:4]
        b'\\x89PNG'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _METADATA:
        raise ValueError(f"`path` must end in .png or .svg, the kinds drawn here; got `{path}`.")
    buffer = io.BytesIO()
    figure = draw(results, metric, split, title=title)
    with _look():
        figure.savefig(buffer, format=suffix[1:], metadata=_METADATA[suffix])
    write_atomic(path, buffer.getvalue())


def draw(results: Results, metric: str, split: str, *, title: str | None = None) -> "Figure":
    """Draws one metric against the number of evaluations, as a matplotlib figure.

    One line a model, with its spread as a band. The horizontal axis is logarithmic with ticks at
    the budgets that exist; the vertical one is logarithmic where the metric is. A dotted line
    marks the converged teacher, and a dash-dotted one every other model that has no budget;
    neither is drawn for relative residuals and errors, where it only shows a tolerance. Points
    that an axis cannot show (diverged, or zero on a logarithmic axis) are listed in the legend.

    Arguments:
        results: Where to look.
        metric: A metric whose direction is known, see `METRICS`.
        split: The part of the data.
        title: The title; `None` for one made from the results, "" for none.

    Raises:
        ValueError: If there is nothing to draw.
        ImportError: If matplotlib is missing.

    Example:
        >>> rows = tuple(Row("picard", k, "accuracy", "test", 0.5, None, (0,)) for k in (1, 2, 4))
        >>> results = Results("digits", "digits", rows, {}, {}, "cdeq demo")
        >>> figure = draw(results, "accuracy", "test")
        >>> [float(x) for x in figure.axes[0].lines[0].get_xdata()]
        [1.0, 2.0, 4.0]
    """
    kind, rows = find_metric(metric), measured(results, metric, split)
    points = [row for row in rows if row.nfe is not None]
    levels = _levels(rows) if kind.level else []
    if not points:
        raise ValueError(
            f"a curve needs rows with a number of evaluations; {metric!r} on {split!r} has "
            "converged ones only."
        )
    with _look():
        from matplotlib.figure import Figure

        figure = Figure()
        axes = figure.add_subplot()
        _set_budget_axis(axes, points)
        axes.set_ylabel(f"{split} {metric.replace('_', ' ')} ({kind.arrow} better)")
        axes.set_title(_title(results) if title is None else title)
        if kind.log:
            _set_log_axis(axes, [row.value for row in points + levels if _can_show(row, kind)])
        looks = styles([row.model for row in points + levels])
        _draw_curves(axes, points, kind, looks)
        _draw_levels(axes, levels, kind, looks)
        figure.legend(loc="outside right center")
    return figure


@contextmanager
def _look() -> Iterator[None]:
    try:
        from matplotlib import style
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib, which is not installed; install `cdeq[report]`."
        ) from error
    with style.context(LOOK, after_reset=True):
        yield


def _title(results: Results) -> str:
    if results.recipe == results.task:
        return results.task
    return f"{results.task} ({results.recipe})"


def _levels(rows: Sequence[Row]) -> list[Row]:
    """The converged teacher, and the models that have no other row."""
    swept = {row.model for row in rows if row.nfe is not None} - {"teacher"}
    levels = {row.model: row for row in rows if row.nfe is None and row.model not in swept}
    return [levels[model] for model in sort_models(levels)]


def _can_show(row: Row, kind: Metric) -> bool:
    return math.isfinite(row.value) and (row.value > 0 or not kind.log)


def _set_budget_axis(axes: "Axes", points: Sequence[Row]) -> None:
    ticks = _spaced(sorted({row.nfe for row in points if row.nfe is not None}))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, labels=[str(nfe) for nfe in ticks])
    axes.set_xlabel("function evaluations (NFE)")


def _spaced(budgets: Sequence[int]) -> list[int]:
    """Leaves out the budgets whose labels would run into their left neighbour's."""
    kept = [budgets[0]]
    for nfe in budgets[1:]:
        if math.log(nfe / kept[-1]) > 0.05 * math.log(budgets[-1] / budgets[0]):
            kept.append(nfe)
    return kept


def _set_log_axis(axes: "Axes", values: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = min(values, default=0.1), max(values, default=1.0)
    margin = max((high / low) ** 0.06, 1.05)
    axes.set_ylim(low / margin, high * margin)  # by the values alone: a band may reach below 0
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 300 else (1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_curves(
    axes: "Axes", points: Sequence[Row], kind: Metric, looks: dict[str, Style]
) -> None:
    models = sort_models(row.model for row in points)
    for model in sorted(models, key=lambda model: not looks[model].prominent):
        rows = [row for row in points if row.model == model]
        _draw_curve(axes, sorted(rows, key=lambda row: row.nfe or 0), kind, looks[model])


def _draw_curve(axes: "Axes", rows: Sequence[Row], kind: Metric, style: Style) -> None:
    x = [float(row.nfe) for row in rows if row.nfe is not None]
    y = [row.value if _can_show(row, kind) else math.nan for row in rows]
    order = 3 if style.prominent else 2.5
    axes.plot(
        x,
        y,
        label=_label(rows, kind),
        color=style.colour,
        linestyle=style.line,
        linewidth=2.2 if style.prominent else 1.3,
        marker=style.marker,
        markersize=style.size,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=order,
    )
    low, high = zip(*(_band(row, kind) for row in rows), strict=True)
    axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0, zorder=order - 1)


def _band(row: Row, kind: Metric) -> tuple[float, float]:
    if row.spread is None or not _can_show(row, kind):
        return math.nan, math.nan
    return row.value - row.spread, row.value + row.spread


def _label(rows: Sequence[Row], kind: Metric) -> str:
    hidden = [f"{row.value:g} at {row.nfe}" for row in rows if not _can_show(row, kind)]
    return f"{rows[0].model}\n({', '.join(hidden)})" if hidden else rows[0].model


def _draw_levels(
    axes: "Axes", levels: Sequence[Row], kind: Metric, looks: dict[str, Style]
) -> None:
    for row in levels:
        teacher, colour = row.model == "teacher", looks[row.model].colour
        axes.axhline(
            row.value,
            label=f"{row.model}{', converged' * teacher}: {kind.show(row.value)}",
            color=colour,
            linestyle=":" if teacher else "-.",
            linewidth=1.6 if teacher else 1.0,
            zorder=2,
        )
        axes.axhspan(*_band(row, kind), color=colour, alpha=0.1, linewidth=0, zorder=1)
