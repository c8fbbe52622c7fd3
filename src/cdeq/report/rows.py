"""One measured number, and the order in which models are listed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cdeq.report.checks import check_number, check_text, is_int
from cdeq.report.strict_json import line, record

MODELS = (
    "teacher",
    "picard",
    "anderson",
    "broyden",
    "few-step",
    "hyperdeq",
    "ignn-solver",
    "student-paper",
    "student-paper-no-aa",
    "student-best",
)
"""The project's own model names, in the order in which tables list them."""

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def sort_models(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts model names for display: the project's own as in `MODELS`, then others by alphabet.

    Names under a label (see `combine`) follow those without, one label after the other.

    Arguments:
        names: Any names; repeated ones are listed once.

    Example:
        >>> sort_models(["mlp", "student-best", "eignn picard", "teacher"])
        ('teacher', 'student-best', 'mlp', 'eignn picard')
    """
    position = {name: index for index, name in enumerate(MODELS)}

    def key(name: str) -> tuple[str, int, str]:
        label, model = apart(name)
        return label, position.get(model, len(MODELS)), name

    return tuple(sorted(set(names), key=key))


def apart(name: str) -> tuple[str, str]:
    """A model's name taken apart: the label that it is under (see `combine`), and its own name.

    Example:
        >>> apart("eignn picard"), apart("picard")
        (('eignn', 'picard'), ('', 'picard'))
    """
    label, _, model = name.rpartition(" ")
    return label, model


class Key(NamedTuple):
    """What makes a row the only one of its kind in a file."""

    model: str
    nfe: int | None
    metric: str
    split: str

    def __str__(self) -> str:
        budget = "converged" if self.nfe is None else f"nfe {self.nfe}"
        return f"({self.model}, {budget}, {self.metric}, {self.split})"


@dataclass(frozen=True)
class Row:
    """One measured number.

    Arguments:
        model: One of `MODELS`, or an explicit model's own name.
        nfe: Evaluations of f spent, at least 1; `None` for a converged (or explicit) model.
        metric: What was measured, such as `accuracy` or `relative_error`.
        split: The part of the data it was measured on.
        value: The number; the median over `seeds` if there are several. It need not be finite.
        spread: The sample standard deviation over `seeds`; `None` where there are fewer than two.
        seeds: The distinct seeds that were run; empty for a number quoted from elsewhere.

    Raises:
        TypeError, ValueError: If a field is not as described.

    Example:
        >>> print(Row("anderson", 4, "accuracy", "test", 0.491, None, (0,)).key)
        (anderson, nfe 4, accuracy, test)
    """

    model: str
    nfe: int | None
    metric: str
    split: str
    value: float
    spread: float | None
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("model", "metric", "split"):
            check_text(name, getattr(self, name))
        _check_nfe(self.nfe)
        check_number("value", self.value)
        _check_seeds(self.seeds)
        if self.spread is not None:
            _check_spread(self.spread, self.seeds)

    @property
    def key(self) -> Key:
        """The part that identifies the row.

        Example:
            >>> Row("teacher", None, "accuracy", "test", 0.967, None, (0,)).key
            Key(model='teacher', nfe=None, metric='accuracy', split='test')
        """
        return Key(self.model, self.nfe, self.metric, self.split)

    def to_json(self) -> str:
        """Writes the row on one line, with a text where a number is not finite.

        Example:
            >>> print(Row("picard", 8, "loss", "test", float("inf"), None, (0,)).to_json())
            {"model": "picard", "nfe": 8, "metric": "loss", "split": "test", "value": "Infinity", \
"spread": null, "seeds": [0]}
        """
        value, spread = _spell(self.value), _spell(self.spread)
        return line(
            {**self.key._asdict(), "value": value, "spread": spread, "seeds": list(self.seeds)}
        )

    @classmethod
    def from_json(cls, document: object) -> "Row":
        """Reads a row from what a JSON parser made of its line.

        Arguments:
            document: An object with exactly the keys of a row.

        Raises:
            TypeError, ValueError: If anything differs from that.

        Example:
            >>> import json
            >>> row = Row("picard", 8, "loss", "test", float("inf"), None, (0,))
            >>> Row.from_json(json.loads(row.to_json())) == row
            True
        """
        found = record(document, (*Key._fields, "value", "spread", "seeds"))
        if not isinstance(found["seeds"], list):
            raise TypeError(f"`seeds` must be a list of integers; got {found['seeds']!r:.40}.")
        numbers = {name: _unspell(found[name]) for name in ("value", "spread")}
        arguments: dict[str, Any] = found | numbers | {"seeds": tuple(found["seeds"])}
        return cls(**arguments)


def _spell(number: float | None) -> float | str | None:
    if number is None or math.isfinite(number):
        return number
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _unspell(value: object) -> object:
    """Undoes `_spell`; whatever else stands there is left for the row's own checks."""
    if is_int(value):
        return float(value)
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _check_nfe(nfe: object) -> None:
    if nfe is None:
        return
    if not is_int(nfe):
        raise TypeError(f"`nfe` must be an integer, or None when converged; got {nfe!r:.40}.")
    if nfe < 1:
        raise ValueError(f"`nfe` must be at least 1, because it counts evaluations; got {nfe}.")


def _check_seeds(seeds: object) -> None:
    if not isinstance(seeds, tuple) or not all(map(is_int, seeds)):
        raise TypeError(f"`seeds` must be a tuple of integers; got {seeds!r:.40}.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` must be distinct, because each is one run; got {seeds}.")


def _check_spread(spread: float, seeds: tuple[int, ...]) -> None:
    check_number("spread", spread)
    if spread < 0:
        raise ValueError(f"`spread` is a standard deviation, at least 0; got {spread}.")
    if len(seeds) < 2:
        raise ValueError(f"`spread` must be None for fewer than two seeds; got {spread}.")
