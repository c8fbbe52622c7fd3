"""The table of everything about a model at a budget, a line for each, as the paper's Table 3."""

from collections.abc import Sequence

from cdeq.report.metrics import Metric, find_metric
from cdeq.report.results import Results
from cdeq.report.rows import Row, sort_models
from cdeq.report.tables import (
    MISSING,
    Table,
    best_cells,
    heading,
    measured,
    require_models,
    show_cell,
)


def listing(
    results: Results,
    metrics: Sequence[str],
    budgets: Sequence[int | None],
    split: str,
    *,
    models: Sequence[str] | None = None,
) -> Table:
    """Makes the table with a line for each model and budget, and a column for each metric.

    A number that does not depend on the budget (parameters) stands in every line of its model.
    The best value of each column is marked among the lines of one budget.

    Arguments:
        results: Where to look.
        metrics: Columns, see `METRICS`.
        budgets: Evaluations of f, `None` for converged and explicit models; lines are in this
            order, models within.
        split: The part of the data.
        models: The models to keep and their order; `None` for all.

    Raises:
        ValueError: If there is no metric or no budget, or nothing was measured for a metric or a
            model on this split, or nothing for the first metric at a budget.

    Example:
        >>> rows = (
        ...     Row("anderson", 1, "accuracy", "test", 0.7, None, (0,)),
        ...     Row("student", 1, "accuracy", "test", 0.72, None, (0,)),
        ...     Row("student", None, "parameters", "test", 31000.0, None, (0,)),
        ... )
        >>> results = Results("nodes", "arxiv", rows, {}, {}, "cdeq demo")
        >>> print(listing(results, ["accuracy", "parameters"], [1], "test").text())
        test
                  NFE  accuracy ↑  parameters ↓
        ---------------------------------------
        anderson    1       0.700             –
        student     1       0.720        31,000
    """
    kinds = [find_metric(metric) for metric in metrics]
    part = results.select(split=split)
    _require(results, metrics, budgets, split)
    require_models(part.rows, models)
    keys, grid = _lines(part, metrics, budgets, models)
    _require_lines(keys, metrics[0], budgets)
    blocks = ([i for i, key in enumerate(keys) if key[1] == nfe] for nfe in budgets)
    best = ((lines[i], j + 1) for lines in blocks for i, j in _best_of(lines, grid, kinds))
    cells = (
        (MISSING if nfe is None else str(nfe), *map(show_cell, line, kinds))
        for (_, nfe), line in zip(keys, grid, strict=True)
    )
    return Table(
        caption=split,
        corner="",
        columns=("NFE", *map(heading, metrics)),
        names=tuple(model for model, _ in keys),
        cells=tuple(cells),
        best=frozenset(best),
    )


def _lines(
    results: Results,
    metrics: Sequence[str],
    budgets: Sequence[int | None],
    models: Sequence[str] | None,
) -> tuple[list[tuple[str, int | None]], list[list[Row | None]]]:
    """Model and budget of each line, and its numbers."""
    found = {(row.model, row.nfe, row.metric): row for row in results.rows}
    order = models or sort_models(model for model, _, _ in found)
    keys = [
        (model, nfe) for nfe in budgets for model in order if (model, nfe, metrics[0]) in found
    ]
    grid = [
        [found.get((model, nfe, metric)) or found.get((model, None, metric)) for metric in metrics]
        for model, nfe in keys
    ]
    return keys, grid


def _require(
    results: Results, metrics: Sequence[str], budgets: Sequence[int | None], split: str
) -> None:
    """Refuses to show nothing, or a metric that was not measured.

    Raises:
        ValueError: Says what there is.
    """
    if not metrics or not budgets:
        raise ValueError(
            "a listing needs at least one metric, a column each, and one budget, its lines; got "
            f"{len(metrics)} and {len(budgets)}."
        )
    for metric in metrics:
        measured(results, metric, split)


def _require_lines(
    keys: list[tuple[str, int | None]], metric: str, budgets: Sequence[int | None]
) -> None:
    """Refuses a budget without a line.

    Raises:
        ValueError: Names it.
    """
    for nfe in budgets:
        if nfe not in {found for _, found in keys}:
            raise ValueError(
                "a listing shows budgets at which its first metric was measured; got "
                f"{'convergence' if nfe is None else nfe}, and no {metric!r} there."
            )


def _best_of(
    lines: list[int], grid: list[list[Row | None]], kinds: Sequence[Metric]
) -> frozenset[tuple[int, int]]:
    """The winners among some lines, counted from the first of them."""
    return best_cells([grid[line] for line in lines], kinds)
