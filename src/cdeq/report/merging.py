"""Several runs of one recipe, one seed each, as one result with means and spreads."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from cdeq.report.results import Results
from cdeq.report.rows import Row


def merge(results: Sequence[Results]) -> Results:
    r"""Merges single-seed results of one recipe into one with means and spreads.

    Each row gets the mean of its values and their sample standard deviation,

    .. math:: s = \sqrt{ \frac{1}{n - 1} \sum_i (v_i - \bar v)^2 } .

    A value that is not finite makes the mean so, and the spread NaN. Costs are averaged. Versions
    that differ are listed side by side and commands are chained, so that nothing is hidden. The
    rows keep the order of the first result.

    Arguments:
        results: At least one; same task and recipe, the same rows and costs, one seed each, no
            seed twice.

    Raises:
        ValueError: If they do not line up, saying which do not.

    Example:
        >>> rows = [Row("picard", 1, "accuracy", "test", k / 4, None, (k,)) for k in (1, 2, 3)]
        >>> runs = [Results("digits", "digits", (row,), {}, {}, "cdeq demo") for row in rows]
        >>> merged = merge(runs).rows[0]
        >>> merged.value, merged.spread, merged.seeds
        (0.5, 0.25, (1, 2, 3))
    """
    if not results:
        raise ValueError("merge() needs at least one result; got none.")
    first = results[0]
    for number, other in enumerate(results[1:], start=1):
        _check_same(first, other, number)
    tables = [{row.key: row for row in result.rows} for result in results]
    return replace(
        first,
        rows=tuple(_merge_rows([table[row.key] for table in tables]) for row in first.rows),
        costs={name: statistics.mean(r.costs[name] for r in results) for name in first.costs},
        versions=_merge_versions(results),
        command=_joined((result.command for result in results), " && "),
    )


def _check_same(first: Results, other: Results, number: int) -> None:
    for name in ("task", "recipe"):
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise ValueError(
                f"merge() averages runs of one {name}; results[0] has {ours!r}, "
                f"results[{number}] has {theirs!r}."
            )
    ours, theirs = ([str(row.key) for row in result.rows] for result in (first, other))
    _check_lines_up("row", ours, theirs, number)
    _check_lines_up("cost", list(first.costs), list(other.costs), number)


def _check_lines_up(what: str, ours: list[str], theirs: list[str], number: int) -> None:
    for name in ours:
        if name not in theirs:
            raise ValueError(
                f"merge() needs the same {what}s everywhere; {name} is in results[0] and not in "
                f"results[{number}]."
            )
    for name in theirs:
        if name not in ours:
            raise ValueError(
                f"merge() needs the same {what}s everywhere; {name} is in results[{number}] and "
                "not in results[0]."
            )


def _merge_rows(rows: list[Row]) -> Row:
    for number, row in enumerate(rows):
        if len(row.seeds) != 1:
            raise ValueError(
                f"merge() averages rows of one seed each; {row.key} in results[{number}] has "
                f"seeds {row.seeds}."
            )
    rows = sorted(rows, key=lambda row: row.seeds)  # so that the order of the runs does not matter
    seeds = tuple(row.seeds[0] for row in rows)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"merge() needs different seeds; {rows[0].key} has seeds {seeds}.")
    values = [row.value for row in rows]
    mean = statistics.mean(values)
    return replace(rows[0], value=mean, spread=_spread(values, mean), seeds=seeds)


def _spread(values: list[float], mean: float) -> float | None:
    if len(values) < 2:
        return None
    if not math.isfinite(mean):
        return math.nan
    # hypot scales before it squares: a residual of 1e200 does not overflow.
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def _merge_versions(results: Sequence[Results]) -> dict[str, str]:
    names = dict.fromkeys(name for result in results for name in result.versions)
    return {
        name: _joined((result.versions.get(name, "absent") for result in results), " / ")
        for name in names
    }


def _joined(texts: Iterable[str], separator: str) -> str:
    return separator.join(dict.fromkeys(texts))
