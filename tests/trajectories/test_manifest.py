"""The manifest: round trip, identity, and a sentence for each difference."""

import json
from dataclasses import asdict, fields, replace

import pytest
from trajectories.toys import MANIFEST, OTHERS

from cdeq.trajectories import Manifest


def test_round_trip() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_every_field_counts() -> None:
    manifests = [MANIFEST, replace(MANIFEST, version=2), *OTHERS.values()]
    assert len({manifest.digest() for manifest in manifests}) == len(fields(Manifest)) + 1
    assert replace(MANIFEST).digest() == MANIFEST.digest()


@pytest.mark.parametrize("field", OTHERS)
def test_differences_name_the_field_and_both_values(field: str) -> None:
    other = OTHERS[field]
    ours, theirs = (str(asdict(manifest)[field]) for manifest in (MANIFEST, other))
    short = {64: 12}.get(len(ours), len(ours))
    (line,) = MANIFEST.differences(other)
    assert line.startswith(f"{field}: expected {ours[:short]}")
    assert line.partition("found ")[2].rstrip("…") == theirs[: 12 if short == 12 else None]
    assert not other.differences(other)


def test_several_differences_are_all_listed() -> None:
    other = replace(MANIFEST, max_steps=9, initial="noise")
    assert MANIFEST.differences(other) == [
        "initial: expected zero, found noise",
        "max_steps: expected 4, found 9",
    ]


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("samples", 0, "empty data set"),
        ("samples", -3, "from 1 up"),
        ("max_steps", 0, "from 1 up; got 0"),
        ("max_steps", True, "whole number"),
        ("max_steps", 4.0, "whole number"),
        ("version", 0, "whole number"),
        ("teacher", "", "not empty"),
        ("solver", None, "text"),
        ("dtype", "int8", "one of float64, float32, float16, bfloat16; got 'int8'"),
    ],
)
def test_a_field_outside_its_range_is_refused(field: str, value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"`{field}`.*{sentence}"):
        replace(MANIFEST, **{field: value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({**asdict(MANIFEST), "version": 2}),
        json.dumps({**asdict(MANIFEST), "times": [0.0, 1.0]}),
        json.dumps({**asdict(MANIFEST), "samples": "10"}),
    ],
)
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Manifest.from_json(text)
