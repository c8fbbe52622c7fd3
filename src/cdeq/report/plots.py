"""Pictures of a metric against the number of evaluations, like the paper's Figures 2 and 3."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cdeq.report.axes import (
    can_show,
    draw_curves,
    draw_level,
    hidden,
    set_budget_axis,
    set_log_axis,
)
from cdeq.report.canvas import look, save
from cdeq.report.metrics import Metric, find_metric
from cdeq.report.results import Results
from cdeq.report.rows import Row, sort_models
from cdeq.report.styles import Style, styles
from cdeq.report.tables import measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
        >>> from pathlib import Path
        >>> rows = tuple(Row("picard", k, "accuracy", "test", 0.5, None, (0,)) for k in (1, 2, 4))
        >>> results = Results("digits", "digits", rows, {}, {}, "cdeq demo")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     curve(results, "accuracy", "test", Path(folder) / "accuracy.png")
        ...     (Path(folder) / "accuracy.png").read_bytes()[:4]
        b'\\x89PNG'
    """
    save(path, lambda: draw(results, metric, split, title=title))


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
    with look():
        from matplotlib.figure import Figure

        figure = Figure()
        axes = figure.add_subplot()
        set_budget_axis(axes, points)
        axes.set_ylabel(f"{split} {metric.replace('_', ' ')} ({kind.arrow} better)")
        axes.set_title(heading(results) if title is None else title)
        if kind.log:
            set_log_axis(axes, [row.value for row in points + levels if can_show(row, kind)])
        looks = styles([row.model for row in points + levels])
        draw_curves(axes, points, kind, looks)
        _tell_hidden(axes, points, kind)
        _draw_levels(axes, levels, kind, looks)
        figure.legend(loc="outside right center")
    return figure


def heading(results: Results) -> str:
    """The title of a picture of these results.

    Example:
        >>> heading(Results("digits", "tiny", (), {}, {}, "cdeq demo"))
        'digits (tiny)'
    """
    if results.recipe == results.task:
        return results.task
    return f"{results.task} ({results.recipe})"


def _levels(rows: Sequence[Row]) -> list[Row]:
    """The converged teacher, and the models that have no other row."""
    swept = {row.model for row in rows if row.nfe is not None} - {"teacher"}
    levels = {row.model: row for row in rows if row.nfe is None and row.model not in swept}
    return [levels[model] for model in sort_models(levels)]


def _tell_hidden(axes: "Axes", points: Sequence[Row], kind: Metric) -> None:
    """Adds what an axis cannot show to the line's entry in the legend."""
    for line in axes.lines:
        if note := hidden((row for row in points if row.model == line.get_label()), kind):
            line.set_label(f"{line.get_label()}\n({note})")


def _draw_levels(
    axes: "Axes", levels: Sequence[Row], kind: Metric, looks: dict[str, Style]
) -> None:
    for row in levels:
        name = "teacher, converged" if row.model == "teacher" else row.model
        label = f"{name}: {kind.show(row.value)}"
        draw_level(axes, row, kind, looks[row.model].colour, label)
