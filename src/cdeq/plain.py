"""Settings as plain JSON, and back: frozen dataclasses of numbers, strings, enums."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

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
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    raise TypeError(
        f"a setting is a dataclass, number, string or enum; got {type(value).__name__}."
    )


def from_plain(kind: type[T], data: Plain) -> T:
    """The inverse of `to_plain` for a value of the given type.

    Raises:
        ValueError: When the data does not describe such a value; says where.

    Example:
        >>> from cdeq import Picard
        >>> from_plain(Picard, {"type": "Picard", "damping": 0.5})
        Picard(damping=0.5)
    """
    return _build(kind, data, kind.__name__)


def _build(hint: Any, data: Any, where: str) -> Any:  # noqa: ANN401 - driven by type hints
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _build(_choose(get_args(hint), data, where), data, where)
    if origin is tuple:
        return tuple(_build(get_args(hint)[0], item, f"{where}[]") for item in data)
    if is_dataclass(hint) and isinstance(hint, type):
        return _build_dataclass(hint, data, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint[data]
    if isinstance(hint, type) and issubclass(hint, Path):
        return Path(data)
    if data is not None and isinstance(hint, type):
        _require_kind(hint, data, where)
    return data


def _choose(options: tuple[Any, ...], data: Any, where: str) -> Any:  # noqa: ANN401
    """The member of a union that the data is of."""
    if data is None and type(None) in options:
        return type(None)
    if isinstance(data, dict):
        for option in options:
            if getattr(option, "__name__", None) == data.get("type"):
                return option
        raise ValueError(
            f"{where} is none of {[o.__name__ for o in options]}: {data.get('type')!r}."
        )
    return next(option for option in options if option is not type(None))


def _build_dataclass(kind: type, data: Any, where: str) -> Any:  # noqa: ANN401
    hints = get_type_hints(kind)
    names = {field.name for field in fields(kind)}
    given = dict(data) if isinstance(data, dict) else {}
    if given.pop("type", None) != kind.__name__ or set(given) != names:
        raise ValueError(
            f"{where} should hold a {kind.__name__} with {sorted(names)}; got {data!r}."
        )
    return kind(**{name: _build(hints[name], given[name], f"{where}.{name}") for name in names})


def _require_kind(kind: type, data: object, where: str) -> None:
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(data, kinds):
        raise ValueError(f"{where} should be {kind.__name__}; got {data!r}.")
