"""JSON without its loose ends: no repeated key, no number that other readers would not share."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


def parse(content: bytes) -> object:
    """Reads one JSON document, refusing what the standard leaves to chance.

    Arguments:
        content: The bytes of the whole document, in UTF-8.

    Returns:
        Dictionaries, lists, texts, finite numbers, booleans and `None`.

    Raises:
        ValueError: If it is not JSON (cut short, for example), a key repeats in one object, or a
            number is not finite.

    Example:
        >>> parse(b'{"a": [1, 2.5, null]}')
        {'a': [1, 2.5, None]}
        >>> parse(b'{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: a key must occur once, or one value hides the other; got 'a' twice.
    """
    try:
        return json.loads(
            content.decode(),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_finite_int,
        )
    except json.JSONDecodeError as error:
        place = f"{error.msg} at line {error.lineno} column {error.colno}"
        raise ValueError(
            f"expected one whole JSON document, got one cut short or malformed ({place})."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in UTF-8, got other bytes at {error.start}.") from error
    except RecursionError as error:
        raise ValueError("expected JSON a few levels deep, got endless nesting.") from error


def record(document: object, keys: Sequence[str]) -> dict[str, Any]:
    """Expects a JSON object with exactly these keys.

    Arguments:
        document: What stands there.
        keys: The keys it must have, all of them and no other.

    Raises:
        TypeError: If it is no object.
        ValueError: If a key is missing or unknown.

    Example:
        >>> record({"a": 1}, ["a", "b"])
        Traceback (most recent call last):
        ValueError: the keys must be exactly a, b; missing are ['b'], unknown are [].
    """
    if not isinstance(document, dict):
        raise TypeError(
            f"an object with the keys {', '.join(keys)} must stand here; got {document!r:.40}."
        )
    missing = [key for key in keys if key not in document]
    unknown = [key for key in document if key not in keys]
    if missing or unknown:
        raise ValueError(
            f"the keys must be exactly {', '.join(keys)}; "
            f"missing are {missing}, unknown are {unknown}."
        )
    return document


def line(value: object) -> str:
    """Writes one value on one line.

    Arguments:
        value: Anything JSON has; numbers must be finite.

    Example:
        >>> line({"name": "β", "value": 0.1})
        '{"name": "β", "value": 0.1}'
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def block(opening: str, entries: Iterable[str], closing: str) -> str:
    """Lays out the entries of a list or an object inside a document, one a line.

    Arguments:
        opening: The bracket before them.
        entries: Finished JSON texts, without commas.
        closing: The bracket after them.

    Example:
        >>> print(block("[", ["1", "2"], "]"))
        [
            1,
            2
          ]
    """
    inside = ",\n".join(f"    {entry}" for entry in entries)
    return f"{opening}\n{inside}\n  {closing}" if inside else f"{opening}{closing}"


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    seen: dict[str, object] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(
                f"a key must occur once, or one value hides the other; got {key!r} twice."
            )
        seen[key] = value
    return seen


def _refuse_constant(literal: str) -> NoReturn:
    raise ValueError(f'a bare {literal} is no JSON number; write it as the text "{literal}".')


def _finite_float(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise ValueError(f"a number must fit into 64 bits; got {literal[:40]}.")
    return number


def _finite_int(literal: str) -> int:
    _finite_float(literal)
    return int(literal)
