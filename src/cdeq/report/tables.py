"""Tables with one line a model: of one metric by budget, or of several that have none."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cdeq.report.metrics import Metric, find_metric
from cdeq.report.results import Results
from cdeq.report.rows import Row, apart, sort_models

MISSING = "–"
"""What stands in a cell that nobody measured."""


@dataclass(frozen=True)
class Table:
    """A finished table of texts.

    Arguments:
        caption: What the table shows.
        corner: What the headings of the columns are; "" where they say it themselves.
        columns: The headings of the columns.
        names: The name of each line.
        cells: The texts, a tuple for each name, one text for each column.
        best: The (line, column) pairs that hold the best value of their column.

    Raises:
        ValueError: If the cells do not fill the table exactly.

    Example:
        >>> Table("size", "n", ("1", "2"), ("a",), (("0.5", "10"),), frozenset()).columns
        ('1', '2')
    """

    caption: str
    corner: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]

    def __post_init__(self) -> None:
        shape, expected = [len(line) for line in self.cells], [len(self.columns)] * len(self.names)
        if shape != expected:
            raise ValueError(
                "`cells` must have one line a name and one text a column, "
                f"so lines of {expected}; got {shape}."
            )

    def text(self) -> str:
        """Lays the table out for a terminal, in columns.

        Example:
            >>> table = Table("size", "n", ("1",), ("a", "b"), (("0.5",), ("10.0",)), frozenset())
            >>> print(table.text())
            size
            n     1
            -------
            a   0.5
            b  10.0
        """
        head, *body = ("  ".join(line) for line in _padded(self._grid(self.corner, self.cells)))
        return "\n".join([self.caption, head, "-" * len(head), *body])

    def markdown(self) -> str:
        """Lays the table out for GitHub, with the best value of each column in bold.

        Example:
            >>> best = frozenset({(1, 0)})
            >>> print(Table("size", "n", ("1",), ("a", "b"), (("2",), ("3",)), best).markdown())
            | size at n |     1 |
            | --------- | ----: |
            | a         |     2 |
            | b         | **3** |
        """
        bold = tuple(
            tuple(f"**{cell}**" if (i, j) in self.best else cell for j, cell in enumerate(line))
            for i, line in enumerate(self.cells)
        )
        corner = f"{self.caption} at {self.corner}" if self.corner else self.caption
        grid = self._grid(corner, bold)
        escaped = [[cell.replace("|", "\\|") for cell in line] for line in grid]
        head, *body = _padded(escaped, least=3)
        rule = ["-" * len(head[0]), *("-" * (len(cell) - 1) + ":" for cell in head[1:])]
        return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))

    def _grid(self, corner: str, cells: tuple[tuple[str, ...], ...]) -> list[list[str]]:
        lines = zip(self.names, cells, strict=True)
        return [[corner, *self.columns], *([name, *line] for name, line in lines)]


def pivot(
    results: Results,
    metric: str,
    split: str,
    *,
    models: Sequence[str] | None = None,
    budgets: Sequence[int | None] | None = None,
) -> Table:
    """Makes the table of one metric: models down, budgets across, `converged` last.

    Cells read "value ± spread"; a cell that was not measured reads "–". The best value of each
    column is marked among all models but teachers, ties at the shown precision included.

    Arguments:
        results: Where to look.
        metric: A metric whose direction is known, see `METRICS`.
        split: The part of the data.
        models: The models to keep, `None` for all of them; their order stays that of every table.
        budgets: The numbers of evaluations to keep, `None` among them for converged; `None` for
            all of them.

    Raises:
        ValueError: If the metric is unknown, or nothing was measured for it on this split, or not
            for one of the models or at one of the budgets.

    Example:
        >>> rows = (
        ...     Row("teacher", None, "accuracy", "test", 0.967, None, (0,)),
        ...     Row("anderson", 1, "accuracy", "test", 0.183, None, (0,)),
        ...     Row("student-best", 1, "accuracy", "test", 0.867, None, (0,)),
        ... )
        >>> results = Results("digits", "digits", rows, {}, {}, "cdeq demo")
        >>> print(pivot(results, "accuracy", "test").text())
        test accuracy ↑
        NFE               1  converged
        ------------------------------
        teacher           –      0.967
        anderson      0.183          –
        student-best  0.867          –
    """
    kind = find_metric(metric)
    rows = _at(_kept(measured(results, metric, split), models), budgets)
    table = {(row.model, row.nfe): row for row in rows}
    models = sort_models(row.model for row in rows)
    budgets = sort_budgets(row.nfe for row in rows)
    grid = [[table.get((model, nfe)) for nfe in budgets] for model in models]
    return Table(
        caption=f"{split} {heading(metric)}",
        corner="NFE",
        columns=tuple("converged" if nfe is None else str(nfe) for nfe in budgets),
        names=models,
        cells=tuple(tuple(show_cell(row, kind) for row in line) for line in grid),
        best=best_cells(grid, [kind] * len(budgets)),
    )


def summary(results: Results, metrics: Sequence[str], split: str) -> Table:
    """Makes the table of the metrics that have no budget: models down, metrics across.

    Cells and marks are those of `pivot`. Rows with a number of evaluations stay out.

    Arguments:
        results: Where to look.
        metrics: At least one metric whose direction is known, see `METRICS`.
        split: The part of the data.

    Raises:
        ValueError: If there is no metric, or nothing was measured without a budget for one.

    Example:
        >>> rows = (
        ...     Row("teacher", None, "parameters", "test", 61234.0, None, (0,)),
        ...     Row("anderson", None, "evaluations", "test", 14.25, None, (0,)),
        ...     Row("student-best", None, "evaluations", "test", 6.5, None, (0,)),
        ...     Row("student-best", None, "parameters", "test", 1066234.0, None, (0,)),
        ... )
        >>> results = Results("digits", "digits", rows, {}, {}, "cdeq demo")
        >>> print(summary(results, ["evaluations", "parameters"], "test").markdown())
        | test         | evaluations ↓ |  parameters ↓ |
        | ------------ | ------------: | ------------: |
        | teacher      |             – |        61,234 |
        | anderson     |         14.25 |             – |
        | student-best |      **6.50** | **1,066,234** |
    """
    if not metrics:
        raise ValueError("a summary needs at least one metric, a column each; got none.")
    kinds = [find_metric(metric) for metric in metrics]
    columns = [_without_budget(results, metric, split) for metric in metrics]
    models = sort_models(model for column in columns for model in column)
    grid = [[column.get(model) for column in columns] for model in models]
    return Table(
        caption=split,
        corner="",
        columns=tuple(heading(metric) for metric in metrics),
        names=models,
        cells=tuple(tuple(map(show_cell, line, kinds)) for line in grid),
        best=best_cells(grid, kinds),
    )


def measured(results: Results, metric: str, split: str) -> tuple[Row, ...]:
    """Picks the rows of one metric on one split, of which there must be some.

    Arguments:
        results: Where to look.
        metric: The metric to keep.
        split: The split to keep.

    Raises:
        ValueError: If there are none; the sentence lists what there is.

    Example:
        >>> row = Row("picard", 1, "accuracy", "test", 0.2, None, (0,))
        >>> measured(Results("digits", "digits", (row,), {}, {}, "cdeq demo"), "accuracy", "train")
        Traceback (most recent call last):
        ValueError: nothing was measured for 'accuracy' on 'train'; there is accuracy on test.
    """
    rows = results.select(metric=metric, split=split).rows
    if not rows:
        present = dict.fromkeys(f"{row.metric} on {row.split}" for row in results.rows)
        raise ValueError(
            f"nothing was measured for {metric!r} on {split!r}; "
            f"there is {', '.join(present) or 'no row at all'}."
        )
    return rows


def sort_budgets(budgets: Iterable[int | None]) -> tuple[int | None, ...]:
    """Sorts numbers of evaluations, with `None` for converged at the end.

    Arguments:
        budgets: Any budgets; repeated ones are listed once.

    Example:
        >>> sort_budgets([16, None, 2, 16])
        (2, 16, None)
    """
    return tuple(sorted(set(budgets), key=lambda nfe: math.inf if nfe is None else nfe))


def require_models(rows: Iterable[Row], models: Sequence[str] | None) -> None:
    """Refuses to choose a model that no row is about; None chooses all.

    Raises:
        ValueError: If there is one; the sentence lists those that there are.
    """
    present = sort_models(row.model for row in rows)
    for model in models or ():
        if model not in present:
            raise ValueError(
                f"`models` must be among those measured here ({', '.join(present)}); "
                f"got {model!r}."
            )


def _kept(rows: tuple[Row, ...], models: Sequence[str] | None) -> tuple[Row, ...]:
    require_models(rows, models)
    return tuple(row for row in rows if models is None or row.model in models)


def _at(rows: tuple[Row, ...], budgets: Sequence[int | None] | None) -> tuple[Row, ...]:
    """The rows at these budgets, each of which must have some."""
    there = {row.nfe for row in rows}
    for nfe in budgets or ():
        if nfe not in there:
            raise ValueError(
                "a table shows budgets at which its models were measured "
                f"({', '.join(map(str, sort_budgets(there)))}); got {nfe}."
            )
    return tuple(row for row in rows if budgets is None or row.nfe in budgets)


def _without_budget(results: Results, metric: str, split: str) -> dict[str, Row]:
    rows = measured(results, metric, split)
    found = {row.model: row for row in rows if row.nfe is None}
    if not found:
        raise ValueError(
            "a summary needs rows without a number of evaluations; "
            f"{metric!r} on {split!r} has none, see `pivot`."
        )
    return found


def heading(metric: str) -> str:
    """A metric as the heading of a column, with the direction that is better."""
    return f"{metric.replace('_', ' ')} {find_metric(metric).arrow}"


def show_cell(row: Row | None, kind: Metric) -> str:
    """A number as it stands in a table."""
    return MISSING if row is None else kind.show(row.value, row.spread)


def best_cells(
    grid: list[list[Row | None]], kinds: Sequence[Metric]
) -> frozenset[tuple[int, int]]:
    columns = zip(zip(*grid, strict=True), kinds, strict=True)
    return frozenset(
        (i, j) for j, (column, kind) in enumerate(columns) for i in _winners(column, kind)
    )


def _winners(column: tuple[Row | None, ...], kind: Metric) -> list[int]:
    """The lines that read like the best one."""
    values = {
        i: row.value
        for i, row in enumerate(column)
        if row is not None and apart(row.model)[1] != "teacher" and math.isfinite(row.value)
    }
    if not values:
        return []
    best = kind.show((max if kind.higher else min)(values.values()))
    return [i for i, value in values.items() if kind.show(value) == best]


def _padded(grid: list[list[str]], least: int = 1) -> list[list[str]]:
    widths = [max(least, *map(len, column)) for column in zip(*grid, strict=True)]
    return [
        [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]  # numbers to the right
        for line in grid
    ]
