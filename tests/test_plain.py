"""Settings as JSON and back: nothing changes on the way, and nothing else is a setting."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Literal, Optional, Union

import pytest
import torch

from cdeq import (
    Anderson,
    Boundary,
    Broyden,
    ExponentialSchedule,
    Picard,
    PowerSchedule,
    TimeSpan,
)
from cdeq.plain import from_plain, to_plain
from cdeq.recipes import RECIPES


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Leaf:
    count: int = 1
    share: float = 0.5
    name: str = "leaf"
    yes: bool = True


@dataclass(frozen=True)
class Other:
    share: float = 0.5


@dataclass(frozen=True)
class Tree:
    """One field of every kind."""

    leaf: Leaf = Leaf()
    either: Leaf | Other = Other()
    old_either: Union[Leaf, Other] = Leaf()  # noqa: UP007
    maybe: Leaf | None = None
    old_maybe: Optional[int] = None  # noqa: UP045
    number_or_text: int | str = "many"
    budgets: tuple[int, ...] = (1, 2, 4)
    pair: tuple[int, str] = (1, "a")
    leaves: tuple[Leaf, ...] = (Leaf(), Leaf(count=2))
    maybe_many: tuple[int, ...] | None = (3,)
    nothing: tuple[int, ...] = ()
    colour: Colour = Colour.BLUE
    path: Path = Path("out") / "digits"
    mode: Literal["auto", "ddp"] = "ddp"
    deep: tuple[tuple[float, ...], ...] = ((0.1,), (), (1e-300, 2.0))


TREES = [
    Tree(),
    Tree(either=Leaf(3), maybe=Leaf(yes=False), old_maybe=7, maybe_many=None),
    Tree(number_or_text=5, budgets=(), colour=Colour.RED, leaves=(), mode="auto"),
    Tree(leaf=Leaf(count=-(2**60), share=0.1 + 0.2, name='ü \n " \\')),
]


@pytest.mark.parametrize(
    "value",
    [
        *TREES,
        Anderson(window=3, mixing=0.3, ridge=1e-9),
        Picard(damping=0.25),
        Broyden(memory=4),
        Boundary(power=2.5, span=TimeSpan(eps=0.1, end=3.0)),
        ExponentialSchedule.from_ratio(0.37),
        PowerSchedule(power=3.0, steps=9),
        *(recipe().network for recipe in RECIPES.values()),
        *(recipe().trajectories for recipe in RECIPES.values()),
        *(recipe().teacher for recipe in RECIPES.values()),
        *(recipe().evaluation for recipe in RECIPES.values()),
        *(recipe().hardware for recipe in RECIPES.values()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_written_is_read(value: object) -> None:
    text = json.dumps(to_plain(value), allow_nan=False)
    read = from_plain(type(value), json.loads(text))
    assert read == value
    assert json.dumps(to_plain(read)) == text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_plain(name: str) -> None:
    text = json.dumps(to_plain(RECIPES[name]()), allow_nan=False)
    assert text == json.dumps(to_plain(RECIPES[name]()))
    assert "0x" not in text


def test_different_settings_look_different() -> None:
    seen = [json.dumps(to_plain(tree)) for tree in TREES]
    assert len(set(seen)) == len(TREES)


def changed(**fields: object) -> dict:
    return {**to_plain(Tree()), **fields}  # type: ignore[dict-item]


LEAF = to_plain(Leaf())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"leaf": 3}, "Tree.leaf should hold a Leaf with .* got 3"),
        ({"leaf": None}, "Tree.leaf should hold a Leaf"),
        ({"leaf": {**LEAF, "count": "one"}}, "Tree.leaf.count should be int; got 'one'"),
        ({"leaf": {**LEAF, "count": 1.5}}, "Tree.leaf.count should be int; got 1.5"),
        ({"leaf": {**LEAF, "count": True}}, "Tree.leaf.count should be int; got True"),
        ({"leaf": {**LEAF, "count": None}}, "Tree.leaf.count should be int; got None"),
        ({"leaf": {**LEAF, "share": False}}, "Tree.leaf.share should be float; got False"),
        ({"leaf": {**LEAF, "share": "0.5"}}, "Tree.leaf.share should be float; got '0.5'"),
        ({"leaf": {**LEAF, "yes": 1}}, "Tree.leaf.yes should be bool; got 1"),
        ({"leaf": {**LEAF, "name": []}}, "Tree.leaf.name should be str"),
        ({"leaf": {**LEAF, "type": "Other"}}, "Tree.leaf should hold a Leaf"),
        ({"leaf": {"type": "Leaf"}}, "Tree.leaf should hold a Leaf"),
        ({"leaf": {**LEAF, "size": 1}}, "Tree.leaf should hold a Leaf"),
        (
            {"either": {**LEAF, "type": "Tree"}},
            r"Tree.either should be one of \['Leaf', 'Other'\]",
        ),
        ({"either": {}}, r"Tree.either should be one of \['Leaf', 'Other'\]"),
        ({"either": 3}, r"Tree.either should be one of \['Leaf', 'Other'\]; got 3"),
        ({"maybe": 3}, "Tree.maybe should be one of .*; got 3"),
        (
            {"number_or_text": 1.5},
            r"Tree.number_or_text should be one of \['int', 'str'\]; got 1.5",
        ),
        ({"budgets": 3}, "Tree.budgets should be a list; got 3"),
        ({"budgets": "123"}, "Tree.budgets should be a list; got '123'"),
        ({"budgets": [1, "2"]}, r"Tree.budgets\[1\] should be int; got '2'"),
        ({"pair": [1]}, "Tree.pair should be a list of 2; got"),
        ({"pair": ["a", 1]}, r"Tree.pair\[0\] should be int; got 'a'"),
        ({"deep": [[0.1], ["x"]]}, r"Tree.deep\[1\]\[0\] should be float; got 'x'"),
        ({"leaves": [LEAF, {**LEAF, "count": "x"}]}, r"Tree.leaves\[1\].count should be int"),
        ({"colour": "GREEN"}, r"Tree.colour should be one of \['RED', 'BLUE'\]; got 'GREEN'"),
        ({"colour": 1}, "Tree.colour should be one of"),
        ({"path": 5}, "Tree.path should be a path; got 5"),
        ({"mode": "fsdp"}, r"Tree.mode should be one of \['auto', 'ddp'\]; got 'fsdp'"),
    ],
)
def test_data_of_another_form_is_refused_by_its_place(fields: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        from_plain(Tree, changed(**fields))


@pytest.mark.parametrize("data", [None, 3, "Tree", [], {}])
def test_something_else_altogether_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match="Tree should hold a Tree"):
        from_plain(Tree, data)  # type: ignore[arg-type]


def test_a_whole_number_is_a_float_too() -> None:
    assert from_plain(Other, {"type": "Other", "share": 1}) == Other(share=1)


def test_a_value_out_of_range_is_refused_by_its_own_class() -> None:
    with pytest.raises(ValueError, match="step size"):
        from_plain(Picard, {"type": "Picard", "damping": 2.0})


@dataclass(frozen=True)
class WithFunction:
    distance: Callable[[float], float] = math.sqrt


def test_a_function_is_named_in_full_and_not_read_back() -> None:
    assert to_plain(WithFunction())["distance"] == "math.sqrt"  # type: ignore[index,call-overload]
    relu = to_plain(WithFunction(torch.nn.functional.mse_loss))
    assert relu["distance"] == "torch.nn.functional.mse_loss"  # type: ignore[index,call-overload]
    with pytest.raises(
        ValueError, match=r"WithFunction.distance is a .*Callable.*, which no file"
    ):
        from_plain(WithFunction, to_plain(WithFunction()))


def outer() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@dataclass
class Holder:
    value: object = field(default_factory=object)


@pytest.mark.parametrize(
    "value",
    [lambda: 1, outer(), partial(int, "1"), torch.zeros(1), {1, 2}, b"bytes", object(), 1j],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": v}, Holder])
def test_what_no_file_can_tell_apart_is_no_setting(value: object, wrap) -> None:
    with pytest.raises(TypeError, match="a setting is a dataclass, number, string, enum or named"):
        to_plain(wrap(value))
