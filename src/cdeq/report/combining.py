"""Results of several recipes in one file: several teachers on one data set, say."""

from collections.abc import Mapping
from dataclasses import replace

from cdeq.report.merging import joined, merge_versions
from cdeq.report.results import Results


def combine(parts: Mapping[str, Results], recipe: str) -> Results:
    """Puts results side by side, each model under the label of the part it comes from.

    Versions that differ are listed side by side and commands are chained, as `merge` does.

    Arguments:
        parts: Results of one task by label; a label that is empty leaves names as they are.
        recipe: What the whole is called.

    Raises:
        ValueError: If there are no parts, or they are of different tasks.

    Example:
        >>> from cdeq.report import Row
        >>> row = Row("anderson", 1, "accuracy", "test", 0.7, None, (0,))
        >>> part = Results("nodes", "arxiv", (row,), {"teacher_seconds": 3.0}, {}, "cdeq demo")
        >>> both = combine({"ignn": part, "eignn": part}, "table3")
        >>> [row.model for row in both.rows], list(both.costs)
        (['ignn anderson', 'eignn anderson'], ['ignn teacher_seconds', 'eignn teacher_seconds'])
    """
    tasks = {part.task for part in parts.values()}
    if len(tasks) != 1:
        raise ValueError(
            f"combine() puts results of one task side by side; got {sorted(tasks) or 'none'}."
        )
    rows = (
        replace(row, model=_under(label, row.model))
        for label, part in parts.items()
        for row in part.rows
    )
    costs = {
        _under(label, name): cost
        for label, part in parts.items()
        for name, cost in part.costs.items()
    }
    return Results(
        task=tasks.pop(),
        recipe=recipe,
        rows=tuple(rows),
        costs=costs,
        versions=merge_versions([*parts.values()]),
        command=joined((part.command for part in parts.values()), " && "),
    )


def _under(label: str, name: str) -> str:
    return f"{label} {name}".strip()
