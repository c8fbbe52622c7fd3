"""Result files: one schema for every number the project reports.

A file is one JSON object with exactly these keys; rows stand one a line, so that diffs read well:

    {"schema": 1, "task": …, "recipe": …,
     "rows": [{"model": …, "nfe": 4, "metric": …, "split": …,
               "value": …, "spread": null, "seeds": [0]}],
     "costs": {name: number}, "versions": {name: text}, "command": …}

`nfe` is null for a converged solve. `spread` is the sample standard deviation over `seeds`, null
where there are fewer than two. JSON has no number that is not finite, yet a diverged solver has
such a residual: `value` and `spread` then hold one of the texts "NaN", "Infinity", "-Infinity".
The bare words that some writers put there are refused: other readers stumble over them.
"""

import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cdeq.atomic import write_atomic
from cdeq.errors import StoreError
from cdeq.report.checks import check_number, check_text, is_int
from cdeq.report.rows import Row
from cdeq.report.strict_json import block, line, parse, record

SCHEMA = 1
"""The number of the schema that this version reads and writes."""


@dataclass(frozen=True)
class Results:
    """Everything one recipe measured, as a result file holds it.

    Arguments:
        task: The problem, such as `digits`.
        recipe: The recipe that was run.
        rows: The numbers; no two with the same key.
        costs: What the run took, by name, all finite; the unit belongs in the name
            (`train_seconds`).
        versions: What it ran with, by name.
        command: The command line that repeats it.
        schema: The number of the file's schema, always 1.

    Raises:
        TypeError, ValueError: If a field is not as described.

    Example:
        >>> row = Row("teacher", None, "accuracy", "test", 0.967, None, (0,))
        >>> results = Results("digits", "digits", (row,), {"train_seconds": 70.0}, {}, "cdeq demo")
        >>> results.rows[0].value
        0.967
    """

    task: str
    recipe: str
    rows: tuple[Row, ...]
    costs: dict[str, float]
    versions: dict[str, str]
    command: str
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        _check_schema(self.schema)
        for name in ("task", "recipe", "command"):
            check_text(name, getattr(self, name))
        _check_rows(self.rows)
        _check_costs(self.costs)
        _check_versions(self.versions)

    def select(
        self, *, model: str | None = None, metric: str | None = None, split: str | None = None
    ) -> "Results":
        """Keeps the rows that agree with everything that is given.

        Arguments:
            model: The model to keep, or `None` for all.
            metric: The metric to keep, or `None` for all.
            split: The split to keep, or `None` for all.

        Example:
            >>> rows = tuple(Row("picard", k, "accuracy", "test", 0.5, None, (0,)) for k in (1, 2))
            >>> results = Results("digits", "digits", rows, {}, {}, "cdeq demo")
            >>> len(results.select(model="picard").rows), len(results.select(split="train").rows)
            (2, 0)
        """
        kept = (
            row
            for row in self.rows
            if model in (None, row.model)
            and metric in (None, row.metric)
            and split in (None, row.split)
        )
        return replace(self, rows=tuple(kept))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result file, whole or not at all.

        Arguments:
            path: Where it belongs; an earlier file there is replaced, missing folders are made.

        Raises:
            StoreError: If it cannot be written; the earlier file is then untouched.

        Example:
            >>> import tempfile
            >>> results = Results("digits", "digits", (), {}, {}, "cdeq demo")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     results.save(Path(folder) / "digits.json")
            ...     Results.load(Path(folder) / "digits.json") == results
            True
        """
        write_atomic(path, _render(self).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Results":
        """Reads a result file and checks all of it.

        Arguments:
            path: A file that `save` wrote.

        Raises:
            StoreError: If there is no such file, or anything in it differs from the schema; the
                sentence names the place.

        Example:
            >>> Results.load("missing.json")
            Traceback (most recent call last):
            cdeq.errors.StoreError: cannot read `missing.json`: No such file or directory.
        """
        try:
            return _read_results(parse(Path(path).read_bytes()))
        except OSError as error:
            raise StoreError(f"cannot read `{path}`: {error.strerror or error}.") from error
        except (TypeError, ValueError) as error:
            raise StoreError(f"`{path}` is not a usable result file: {error}") from error


def _render(results: Results) -> str:
    costs = (f"{line(name)}: {line(cost)}" for name, cost in results.costs.items())
    versions = (f"{line(name)}: {line(version)}" for name, version in results.versions.items())
    return f"""{{
  "schema": {results.schema},
  "task": {line(results.task)},
  "recipe": {line(results.recipe)},
  "rows": {block("[", (row.to_json() for row in results.rows), "]")},
  "costs": {block("{", costs, "}")},
  "versions": {block("{", versions, "}")},
  "command": {line(results.command)}
}}
"""


def _read_results(document: object) -> Results:
    if isinstance(document, dict) and "schema" in document:
        _check_schema(document["schema"])  # first, because another schema has other keys
    found = record(document, [field.name for field in fields(Results)])
    if not isinstance(found["rows"], list):
        raise TypeError(f"`rows` must be a list; got {found['rows']!r:.40}.")
    rows = tuple(_read_row(number, row) for number, row in enumerate(found["rows"]))
    arguments: dict[str, Any] = found | {"rows": rows}
    return Results(**arguments)


def _read_row(number: int, document: object) -> Row:
    try:
        return Row.from_json(document)
    except (TypeError, ValueError) as error:
        raise ValueError(f"in rows[{number}], {error}") from error


def _check_schema(schema: object) -> None:
    if not is_int(schema) or schema != SCHEMA:
        raise ValueError(
            f"`schema` must be {SCHEMA}, the one this version of cdeq knows; got {schema!r:.40}."
        )


def _check_rows(rows: object) -> None:
    if not isinstance(rows, tuple):
        raise TypeError(f"`rows` must be a tuple of Row; got {rows!r:.40}.")
    seen: dict[object, int] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Row):
            raise TypeError(f"`rows` must be a tuple of Row; got {row!r:.40} at rows[{number}].")
        if row.key in seen:
            raise ValueError(
                "`rows` must hold each (model, nfe, metric, split) once; got "
                f"{row.key} at rows[{seen[row.key]}] and again at rows[{number}]."
            )
        seen[row.key] = number


def _check_costs(costs: object) -> None:
    if not isinstance(costs, dict):
        raise TypeError(f"`costs` must map names to numbers; got {costs!r:.40}.")
    for name, cost in costs.items():
        check_text("costs", name)
        check_number(f"costs[{name!r}]", cost)
        if not math.isfinite(cost):
            raise ValueError(f"`costs[{name!r}]` must be finite, as it was measured; got {cost}.")


def _check_versions(versions: object) -> None:
    if not isinstance(versions, dict):
        raise TypeError(f"`versions` must map names to texts; got {versions!r:.40}.")
    for name, version in versions.items():
        check_text("versions", name)
        check_text(f"versions[{name!r}]", version)
