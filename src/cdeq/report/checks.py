"""Conditions that several fields of a result share, each with its sentence."""

from typing import TypeGuard


def is_int(value: object) -> TypeGuard[int]:
    """Whether a value is an integer; a boolean is not.

    Arguments:
        value: Anything.

    Example:
        >>> is_int(3), is_int(True), is_int(3.0)
        (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def check_text(field: str, value: object) -> None:
    """Expects a text that says something.

    Arguments:
        field: The name of the field.
        value: What it holds.

    Raises:
        TypeError, ValueError: If it is no text, or blank.

    Example:
        >>> check_text("task", "")
        Traceback (most recent call last):
        ValueError: `task` must say something, or nobody can tell results apart; got ''.
    """
    if not isinstance(value, str):
        raise TypeError(f"`{field}` must be a text; got {value!r:.40}.")
    if not value.strip():
        raise ValueError(
            f"`{field}` must say something, or nobody can tell results apart; got {value!r}."
        )


def check_number(field: str, value: object) -> None:
    """Expects a plain number, finite or not.

    Arguments:
        field: The name of the field.
        value: What it holds.

    Raises:
        TypeError: If it is none; a tensor or a boolean is refused too.

    Example:
        >>> check_number("value", "0.5")
        Traceback (most recent call last):
        TypeError: `value` must be a plain number; got '0.5'.
    """
    if not (isinstance(value, float) or is_int(value)):
        raise TypeError(f"`{field}` must be a plain number; got {value!r:.40}.")
