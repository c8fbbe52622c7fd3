"""Several runs of one recipe, one seed each, as one result with medians and spreads."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from cdeq.report.results import Results
from cdeq.report.rows import Row


def merge(results: Sequence[Results]) -> Results:
    r"""Merges single-seed results of one recipe into one with medians and spreads.

    Each row gets the median of its values, which one seed gone astray moves little, and their
    sample standard deviation about the mean,

    .. math:: s = \sqrt{ \frac{1}{n - 1} \sum_i (v_i - \bar v)^2 } .

    A NaN among the values makes the median NaN, because it has no place in an order; an infinite
    value has one. Either makes the spread NaN, so that a diverged seed shows. Costs become medians
    too. Versions that differ are listed side by side and commands are chained, so that nothing is
    hidden. The rows keep the order of the first result.

    Arguments:
        results: At least one; same task and recipe, the same rows and costs, one seed each, no
            seed twice.

    Raises:
        ValueError: If they do not line up, saying which do not.

    Example:
        >>> rows = [Row("tcn", None, "perplexity", "test", k, None, (k,)) for k in (1, 12, 14)]
        >>> runs = [Results("words", "words", (row,), {}, {}, "cdeq demo") for row in rows]
        >>> merged = merge(runs).rows[0]
        >>> merged.value, round(merged.spread, 3), merged.seeds
        (12, 7.0, (1, 12, 14))
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
        costs={name: _median([r.costs[name] for r in results]) for name in first.costs},
        versions=merge_versions(results),
        command=joined((result.command for result in results), " && "),
    )


def _check_same(first: Results, other: Results, number: int) -> None:
    for name in ("task", "recipe"):
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise ValueError(
                f"merge() combines runs of one {name}; results[0] has {ours!r}, "
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
                f"merge() combines rows of one seed each; {row.key} in results[{number}] has "
                f"seeds {row.seeds}."
            )
    rows = sorted(rows, key=lambda row: row.seeds)  # so that the order of the runs does not matter
    seeds = tuple(row.seeds[0] for row in rows)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"merge() needs different seeds; {rows[0].key} has seeds {seeds}.")
    values = [row.value for row in rows]
    return replace(rows[0], value=_median(values), spread=_spread(values), seeds=seeds)


def _median(values: list[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else statistics.median(values)


def _spread(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        return math.nan
    mean = statistics.mean(values)
    # hypot scales before it squares: a residual of 1e200 does not overflow.
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def merge_versions(results: Sequence[Results]) -> dict[str, str]:
    """The versions of several results, side by side where they differ.

    Example:
        >>> runs = [Results("words", "words", (), {}, {"torch": v}, "cdeq demo") for v in "12"]
        >>> merge_versions(runs)
        {'torch': '1 / 2'}
    """
    names = dict.fromkeys(name for result in results for name in result.versions)
    return {
        name: joined((result.versions.get(name, "absent") for result in results), " / ")
        for name in names
    }


def joined(texts: Iterable[str], separator: str) -> str:
    """Texts in one, each once."""
    return separator.join(dict.fromkeys(texts))
