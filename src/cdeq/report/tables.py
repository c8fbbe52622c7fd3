"""Tables of a metric: one line a model, one column a budget."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cdeq.report.metrics import Metric, find_metric
from cdeq.report.results import Results
from cdeq.report.rows import Row, sort_models

MISSING = "–"
"""What stands in a cell that nobody measured."""


@dataclass(frozen=True)
class Table:
    """A finished table of texts.

    Arguments:
        caption: What the table shows.
        corner: What the headings of the columns are.
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
        grid = self._grid(f"{self.caption} at {self.corner}", bold)
        escaped = [[cell.replace("|", "\\|") for cell in line] for line in grid]
        head, *body = _padded(escaped, least=3)
        rule = ["-" * len(head[0]), *("-" * (len(cell) - 1) + ":" for cell in head[1:])]
        return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))

    def _grid(self, corner: str, cells: tuple[tuple[str, ...], ...]) -> list[list[str]]:
        lines = zip(self.names, cells, strict=True)
        return [[corner, *self.columns], *([name, *line] for name, line in lines)]


def pivot(results: Results, metric: str, split: str) -> Table:
    """Makes the table of one metric: models down, budgets across, `converged` last.

    Cells read "value ± spread"; a cell that was not measured reads "–". The best value of each
    column is marked among all models but the teacher, ties at the shown precision included.

    Arguments:
        results: Where to look.
        metric: A metric whose direction is known, see `METRICS`.
        split: The part of the data.

    Raises:
        ValueError: If the metric is unknown, or nothing was measured for it on this split.

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
    rows = measured(results, metric, split)
    table = {(row.model, row.nfe): row for row in rows}
    models = sort_models(row.model for row in rows)
    budgets = sort_budgets(row.nfe for row in rows)
    grid = [[table.get((model, nfe)) for nfe in budgets] for model in models]
    return Table(
        caption=f"{split} {metric.replace('_', ' ')} {kind.arrow}",
        corner="NFE",
        columns=tuple("converged" if nfe is None else str(nfe) for nfe in budgets),
        names=models,
        cells=tuple(tuple(_cell(row, kind) for row in line) for line in grid),
        best=_best(grid, kind),
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


def _cell(row: Row | None, kind: Metric) -> str:
    return MISSING if row is None else kind.show(row.value, row.spread)


def _best(grid: list[list[Row | None]], kind: Metric) -> frozenset[tuple[int, int]]:
    return frozenset(
        (i, j) for j, column in enumerate(zip(*grid, strict=True)) for i in _winners(column, kind)
    )


def _winners(column: tuple[Row | None, ...], kind: Metric) -> list[int]:
    shown = {
        i: float(kind.show(row.value))
        for i, row in enumerate(column)
        if row is not None and row.model != "teacher" and math.isfinite(row.value)
    }
    best = (max if kind.higher else min)(shown.values(), default=None)
    return [i for i, value in shown.items() if value == best]


def _padded(grid: list[list[str]], least: int = 1) -> list[list[str]]:
    widths = [max(least, *map(len, column)) for column in zip(*grid, strict=True)]
    return [
        [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]  # numbers to the right
        for line in grid
    ]
