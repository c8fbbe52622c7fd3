"""One picture of several tasks: a row of axes for each, what it scores and how far from z*."""

import os
from collections.abc import Sequence
from dataclasses import replace
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

from cdeq.report.axes import (
    can_show,
    draw_curves,
    draw_level,
    hidden,
    set_budget_axis,
    set_linear_axis,
    set_log_axis,
)
from cdeq.report.canvas import look, save
from cdeq.report.metrics import Metric, find_metric
from cdeq.report.plots import heading
from cdeq.report.results import Results
from cdeq.report.rows import Row
from cdeq.report.styles import INK, Style, styles, variants
from cdeq.report.tables import measured

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCES = ("picard", "anderson", "broyden")
"""The classical solvers, drawn thin in every panel that has them."""

ERROR = "relative_error"
"""What is drawn beside the task's own metric, unless something else is asked for."""

WIDTH = 44
"""Letters of a title that fit above one pair of axes."""

_TEACHER = "teacher, converged"


class _Panel(NamedTuple):
    """What one pair of axes shows."""

    title: str
    label: str
    kind: Metric
    points: list[Row]
    references: list[Row]
    teacher: Row | None


def panels(
    results: Sequence[Results],
    metrics: Sequence[str],
    split: str,
    path: str | os.PathLike[str],
    *,
    models: Sequence[str],
    beside: str = ERROR,
) -> None:
    """Draws an ablation over several tasks into one file.

    See `draw_panels` for what is in the picture. The same results give the same bytes.

    Arguments:
        results: The tasks, from top to bottom.
        metrics: The task's own metric of each.
        split: The part of the data.
        path: A `.png` or `.svg` file; an earlier one is replaced, missing folders are made.
        models: The variants to compare.
        beside: The metric on the right.

    Raises:
        ValueError: If the suffix is another one, or there is nothing to draw.
        ImportError: If matplotlib is missing.
        StoreError: If the file cannot be written.

    Example:
        >>> panels([], [], "test", "picture.gif", models=["student-best"])
        Traceback (most recent call last):
        ValueError: `path` must end in .png or .svg, the kinds drawn here; got `picture.gif`.
    """
    save(path, lambda: draw_panels(results, metrics, split, models=models, beside=beside))


def draw_panels(
    results: Sequence[Results],
    metrics: Sequence[str],
    split: str,
    *,
    models: Sequence[str],
    beside: str = ERROR,
) -> "Figure":
    """Draws an ablation over several tasks as a matplotlib figure.

    Each task has a row: its own metric on the left, another on the right, both against the
    number of evaluations. The variants share one legend, in the order given. Classical solvers
    are thin lines, and the converged teacher is a dotted one. The vertical axes are fitted to the
    variants and the teacher, so a solver may leave the picture where it is far worse or far
    better. Points of a variant that an axis cannot show are listed under it.

    Arguments:
        results: The tasks, from top to bottom.
        metrics: The task's own metric of each.
        split: The part of the data.
        models: The variants to compare; each must have been measured on one of the tasks.
        beside: The metric on the right.

    Raises:
        ValueError: If there is nothing to draw, or the arguments do not fit each other.
        ImportError: If matplotlib is missing.

    Example:
        >>> rows = tuple(
        ...     Row("student-best", k, metric, "test", 0.5, None, (0,))
        ...     for k in (1, 2, 4) for metric in ("accuracy", "relative_error")
        ... )
        >>> results = Results("digits", "digits", rows, {}, {}, "cdeq demo")
        >>> figure = draw_panels([results], ["accuracy"], "test", models=["student-best"])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['test accuracy (↑ better)', 'test relative error (↓ better)']
    """
    _check(results, metrics, models)
    grid = [
        [_panel(result, name, split, models) for name in (metric, beside)]
        for result, metric in zip(results, metrics, strict=True)
    ]
    _check_drawn(models, grid)
    looks = _looks(models)
    with look():
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        layout = ConstrainedLayoutEngine(w_pad=0.1)
        figure = Figure(figsize=_size(len(grid), len(models)), layout=layout)
        every = figure.subplots(len(grid), 2, squeeze=False)
        for line, row in zip(every, grid, strict=True):
            for axes, panel in zip(line, row, strict=True):
                _draw_panel(axes, panel, looks)
                _set_label_below(axes, panel, last=row is grid[-1])
        handles = _handles(figure, models)
        figure.legend(handles.values(), handles.keys(), loc="outside right center")
    return figure


def _check(results: Sequence[Results], metrics: Sequence[str], models: Sequence[str]) -> None:
    if not results or len(results) != len(metrics):
        raise ValueError(
            "`metrics` must name the task's own metric of each result, of which there must be "
            f"one; got {len(metrics)} for {len(results)} results."
        )
    if not models or len(set(models)) < len(models):
        raise ValueError(
            f"`models` must name each variant once, and at least one; got {list(models)}."
        )


def _check_drawn(models: Sequence[str], grid: Sequence[Sequence[_Panel]]) -> None:
    drawn = {row.model for line in grid for panel in line for row in panel.points}
    missing = [model for model in models if model not in drawn]
    if missing:
        raise ValueError(
            "`models` must have been measured at some number of evaluations on one of the tasks; "
            f"got {', '.join(map(repr, missing))}, which are on none."
        )


def _panel(results: Results, metric: str, split: str, models: Sequence[str]) -> _Panel:
    kind, rows = find_metric(metric), measured(results, metric, split)
    swept = [row for row in rows if row.nfe is not None]
    converged = [row for row in rows if row.model == "teacher" and row.nfe is None and kind.level]
    points = [row for row in swept if row.model in models]
    if not points:
        raise ValueError(
            f"a panel needs one of `models` at some number of evaluations; {metric!r} on "
            f"{split!r} of {heading(results)} has none of them."
        )
    return _Panel(
        title=heading(results),
        label=f"{split} {metric.replace('_', ' ')} ({kind.arrow} better)",
        kind=kind,
        points=points,
        references=[row for row in swept if row.model in REFERENCES and row.model not in models],
        teacher=converged[0] if converged else None,
    )


def _looks(models: Sequence[str]) -> dict[str, Style]:
    references = styles([name for name in REFERENCES if name not in models])
    faint = {name: replace(look, faint=True, size=3.5) for name, look in references.items()}
    return {**variants(models), **faint}


def _size(tasks: int, models: int) -> tuple[float, float]:
    """Inches; one row of axes has to leave room for the legend beside it."""
    return 11.0, max(3.2 * tasks, 0.24 * (models + len(REFERENCES) + 1) + 0.4)


def _draw_panel(axes: "Axes", panel: _Panel, looks: dict[str, Style]) -> None:
    kind, fitted = panel.kind, [*panel.points, *filter(None, [panel.teacher])]
    fit = set_log_axis if kind.log else set_linear_axis
    fit(axes, [row.value for row in fitted if can_show(row, kind)])
    set_budget_axis(axes, panel.points, gap=0.07)
    axes.set_title(fill(panel.title, WIDTH))
    axes.set_ylabel(panel.label)
    draw_curves(axes, panel.points + panel.references, kind, looks, opacity=0.1)
    if panel.teacher is not None:
        draw_level(axes, panel.teacher, kind, INK, _TEACHER)


def _set_label_below(axes: "Axes", panel: _Panel, *, last: bool) -> None:
    """Names the axis under the last row only, and lists the points that it cannot show."""
    models = dict.fromkeys(row.model for row in panel.points)
    notes = {m: hidden((r for r in panel.points if r.model == m), panel.kind) for m in models}
    lines = [f"not shown: {model} ({note})" for model, note in notes.items() if note]
    axes.set_xlabel("\n".join([axes.get_xlabel()] * last + lines))


def _handles(figure: "Figure", models: Sequence[str]) -> dict[str, "Artist"]:
    """The entries of the legend: variants as given, then what they are compared with."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return {name: found[name] for name in (*models, *REFERENCES, _TEACHER) if name in found}
