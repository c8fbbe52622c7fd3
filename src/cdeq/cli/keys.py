"""The keys of a recipe as `--help` lists them: path, default, and what the docstrings say."""

import inspect
import re
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass
from textwrap import dedent, wrap
from typing import Any, get_args, get_type_hints

import tyro

POSITIONAL = get_args(tyro.conf.Positional[int])[1]
"""What marks a field that is typed without a key."""


def key_lines(
    settings: Any,  # noqa: ANN401 - any dataclass
    width: int,
    *,
    only: Collection[str] | None = None,
    prefix: str = "",
    title: str = "",
) -> Iterator[str]:
    """Every key that can be typed with its default, and under it what it means.

    Arguments:
        settings: A dataclass of plain values and of further dataclasses.
        width: Of a line.
        only: The fields to list; None lists all.
        prefix: The path of the settings, with a dot at its end.
        title: What stands above them.

    Example:
        >>> from cdeq import Picard
        >>> print(*key_lines(Picard(damping=0.5), 80), sep="\\n")
        <BLANKLINE>
          --damping 0.5
            The step size β ∈ (0, 1].
    """
    texts = dict(descriptions(type(settings)))
    names = [field.name for field in fields(settings) if only is None or field.name in only]
    absent = {name for name in names if has_no_key(settings, name)}
    named = [(name, getattr(settings, name)) for name in names if name not in absent]
    plain = [pair for pair in named if not (is_dataclass(pair[1]) or callable(pair[1]))]
    if plain:
        yield from ("", *wrap(title, width))
    for name, value in plain:
        yield from _folded(_option(prefix, name, value), width)
        yield from _indented(texts.get(name, ""), width)
    for name, value in named:
        if is_dataclass(value):
            path = f"{prefix}{name}"
            title = f"{path.replace('_', '-')}: {texts.get(name, '')}"
            yield from key_lines(value, width, prefix=f"{path}.", title=title)


def has_no_key(settings: Any, name: str) -> bool:  # noqa: ANN401
    """Whether a field is nothing that can be typed with a key: settings that are left out, or
    several; or what stands without one."""
    value, kinds = getattr(settings, name), get_args(get_type_hints(type(settings))[name])
    if name in positionals(settings):
        return True
    if isinstance(value, tuple):
        return any(map(is_dataclass, value))
    return value is None and any(map(is_dataclass, kinds))


def positionals(settings: Any) -> list[str]:  # noqa: ANN401
    """The fields that are typed without a key."""
    hints = get_type_hints(type(settings), include_extras=True)
    return [field.name for field in fields(settings) if POSITIONAL in get_args(hints[field.name])]


def _option(prefix: str, name: str, value: Any) -> str:  # noqa: ANN401
    path = prefix.replace("_", "-")
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{path}{name}, --{path}no-{name} ({'yes' if value else 'no'})"
    items = value if isinstance(value, tuple) else (value,)
    return " ".join([f"--{path}{name}", *map(str, items)])


def _folded(option: str, width: int) -> list[str]:
    """What is typed, whose lines after the first stand further in than what it means."""
    return wrap(
        option,
        width,
        initial_indent="  ",
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _indented(text: str, width: int) -> list[str]:
    return wrap(text, width, initial_indent="    ", subsequent_indent="    ")


def descriptions(kind: type) -> Iterator[tuple[str, str]]:
    """What the docstrings of a class and of those above it say about their arguments."""
    for above in reversed(kind.__mro__):
        text = inspect.cleandoc(above.__dict__.get("__doc__") or "")
        section = re.search(r"^Arguments:\n((?: .*\n?|\n)*)", text, re.MULTILINE)
        lines = dedent(section[1]) if section else ""
        for name, about in re.findall(r"^(\w+): (.*(?:\n +.*)*)", lines, re.MULTILINE):
            yield name, _plain(" ".join(about.split()))


def _plain(text: str) -> str:
    """Without the marks of formulas."""
    text = re.sub(r":math:`([^`]*)`", r"\1", text)
    for mark, sign in ((r"\geq", "≥"), (r"\in", "∈"), (r"\beta", "β")):
        text = text.replace(mark, sign)
    return text
