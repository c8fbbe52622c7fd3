"""Settings as plain JSON, and back: frozen dataclasses of numbers, strings, enums."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
"""What JSON can say."""

T = TypeVar("T")


def to_plain(value: Any) -> Plain:  # noqa: ANN401 - the point is to take any setting
    """A setting as JSON can say it: a dataclass as its fields and `type`, a function as its name.

    Raises:
        TypeError: When the value, or something in it, is no setting.

    Example:
        >>> from cdeq import Picard
        >>> to_plain({"solver": Picard(damping=0.5), "steps": (1, 2)})
        {'solver': {'type': 'Picard', 'damping': 0.5}, 'steps': [1, 2]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        contents = {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, **contents}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', '<>')}"
    if callable(value) and "<" not in name:  # a lambda's name would not tell it from the next one
        return name
    raise TypeError(
        "a setting is a dataclass, number, string, enum or named function; got "
        f"{type(value).__name__} {value!r}."
    )


@overload
def from_plain(kind: type[T], data: Plain) -> T: ...
@overload
def from_plain(kind: UnionType, data: Plain) -> Any: ...  # noqa: ANN401 - one of several
def from_plain(kind: type[T] | UnionType, data: Plain) -> Any:
    """The inverse of `to_plain` for a value of the given type, or of one of several.

    Raises:
        ValueError: When the data does not describe such a value; says where.

    Example:
        >>> from cdeq import Picard
        >>> from_plain(Picard, {"type": "Picard", "damping": 0.5})
        Picard(damping=0.5)
    """
    return _build(kind, data, getattr(kind, "__name__", str(kind)))


def _build(hint: Any, data: Any, where: str) -> Any:  # noqa: ANN401 - driven by type hints
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _build(_choose(arguments, data, where), data, where)
    if origin is Literal:
        return _require(data in arguments, data, f"one of {list(arguments)}", where)
    if origin is tuple:
        return _build_tuple(arguments, data, where)
    if not isinstance(hint, type) or origin is not None:
        raise ValueError(f"{where} is a {hint}, which no file can give back; got {data!r}.")
    if is_dataclass(hint):
        return _build_dataclass(hint, data, where)
    if issubclass(hint, Enum):
        known = [member.name for member in hint]
        return hint[_require(data in known, data, f"one of {known}", where)]
    if issubclass(hint, Path):
        return hint(_require(isinstance(data, str), data, "a path", where))
    return _require(_fits(hint, data), data, hint.__name__, where)


def _fits(kind: type, data: object) -> bool:
    """Whether JSON's value is one of this kind; true and false are no numbers here."""
    if isinstance(data, bool):
        return kind is bool
    return isinstance(data, (int, float) if kind is float else kind)


def _require(holds: bool, data: Any, expected: str, where: str) -> Any:  # noqa: ANN401
    if not holds:
        raise ValueError(f"{where} should be {expected}; got {data!r}.")
    return data


def _build_tuple(hints: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:  # noqa: ANN401
    items = _require(isinstance(data, list), data, "a list", where)
    if hints[-1:] == (Ellipsis,):
        hints = hints[:1] * len(items)
    _require(len(items) == len(hints), data, f"a list of {len(hints)}", where)
    pairs = enumerate(zip(hints, items, strict=True))
    return tuple(_build(hint, item, f"{where}[{i}]") for i, (hint, item) in pairs)


def _choose(options: tuple[Any, ...], data: Any, where: str) -> Any:  # noqa: ANN401
    """The member of a union that the data is of."""
    if isinstance(data, dict):
        named = {getattr(option, "__name__", ""): option for option in options}
        _require(data.get("type") in named, data, f"one of {list(named)}", where)
        return named[data["type"]]
    names = {getattr(option, "__name__", str(option)): option for option in options}
    for option in options:
        plain = isinstance(option, type) and not is_dataclass(option)
        if (plain and _fits(option, data)) or (get_origin(option) is tuple and type(data) is list):
            return option
    raise ValueError(f"{where} should be one of {list(names)}; got {data!r}.")


def _build_dataclass(kind: type, data: Any, where: str) -> Any:  # noqa: ANN401
    hints = get_type_hints(kind)
    names = {field.name for field in fields(kind)}
    given = dict(data) if isinstance(data, dict) else {}
    if given.pop("type", None) != kind.__name__ or set(given) != names:
        raise ValueError(
            f"{where} should hold a {kind.__name__} with {sorted(names)}; got {data!r}."
        )
    return kind(**{name: _build(hints[name], given[name], f"{where}.{name}") for name in names})
