"""Result files: what is written is read back, and anything else is refused by its place."""

import json
import math
import os
import random
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from cdeq.errors import StoreError
from cdeq.report import MODELS, Results, Row, merge, sort_models

NFE = (1, 2, 4, 8)


def run(seed: int, models: tuple[str, ...] = ("anderson", "student-paper")) -> Results:
    """One run with numbers that need every digit of a float."""
    noise = random.Random(seed)
    rows = [
        Row(model, nfe, metric, split, noise.random(), None, (seed,))
        for model in models
        for nfe in (*NFE, None)
        for metric in ("accuracy", "relative_error")
        for split in ("validation", "test")
    ]
    costs = {"train_seconds": noise.random(), "parameters": 1234}
    return Results("digits", "digits", tuple(rows), costs, {"torch": "2.13.0"}, f"run {seed}")


def document() -> dict:
    """A valid file with two rows, as a JSON parser sees it."""
    row = {"model": "picard", "metric": "accuracy", "split": "test", "spread": None, "seeds": [0]}
    rows = [row | {"nfe": 1, "value": 0.25}, row | {"nfe": None, "value": 0.75}]
    top = {"schema": 1, "task": "digits", "recipe": "digits", "rows": rows}
    return top | {"costs": {"seconds": 2}, "versions": {"torch": "2.13.0"}, "command": "cdeq demo"}


def refusal(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        Results.load(path)
    return str(caught.value)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    merged = merge([run(seed) for seed in range(3)])
    merged.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == merged


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path: Path) -> None:
    run(0).save(tmp_path / "a.json")
    Results.load(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_file_follows_the_schema_and_has_a_line_for_each_row(tmp_path: Path) -> None:
    results = run(0)
    results.save(tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    written = json.loads(text)
    assert list(written) == ["schema", *(f.name for f in fields(Results) if f.name != "schema")]
    assert [list(row) for row in written["rows"]] == [[f.name for f in fields(Row)]] * 40
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    assert [json.loads(line) for line in lines if '"model"' in line] == written["rows"]


def test_a_file_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(document()))
    results = Results.load(tmp_path / "results.json")
    assert [row.value for row in results.rows] == [0.25, 0.75]
    assert [row.nfe for row in results.rows] == [1, None]


@pytest.mark.parametrize(
    ("value", "text"), [(math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, "NaN")]
)
def test_numbers_that_are_not_finite_survive_as_texts(
    tmp_path: Path, value: float, text: str
) -> None:
    row = Row("picard", 8, "relative_residual", "test", value, None, (0,))
    replace(run(0), rows=(row,)).save(tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert written["rows"][0]["value"] == text
    assert repr(Results.load(tmp_path / "results.json").rows[0].value) == repr(value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    replace(run(0), rows=run(0).rows[:2]).save(tmp_path / "whole.json")
    whole = (tmp_path / "whole.json").read_bytes().rstrip()
    for length in range(len(whole)):
        (tmp_path / "cut.json").write_bytes(whole[:length])
        assert "cut short or malformed (" in refusal(tmp_path / "cut.json")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"schema": 2}, "`schema` must be 1"),
        ({"schema": "1"}, "`schema` must be 1"),
        ({"schema": True}, "`schema` must be 1"),
        ({"note": "hi"}, "unknown are ['note']"),
        ({"task": ""}, "`task`"),
        ({"recipe": 3}, "`recipe`"),
        ({"command": None}, "`command`"),
        ({"rows": {}}, "`rows` must be a list"),
        ({"rows": [7]}, "rows[0]"),
        ({"costs": []}, "`costs`"),
        ({"costs": {"seconds": "2"}}, "costs['seconds']"),
        ({"costs": {"seconds": True}}, "costs['seconds']"),
        ({"versions": []}, "`versions`"),
        ({"versions": {"torch": 2.13}}, "versions['torch']"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict, place: str) -> None:
    (tmp_path / "results.json").write_text(json.dumps(document() | change))
    assert place in refusal(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": " "}, "`model`"),
        ({"model": None}, "`model`"),
        ({"metric": 1}, "`metric`"),
        ({"split": ["test"]}, "`split`"),
        ({"nfe": 0}, "`nfe`"),
        ({"nfe": -1}, "`nfe`"),
        ({"nfe": 2.0}, "`nfe`"),
        ({"nfe": True}, "`nfe`"),
        ({"nfe": "converged"}, "`nfe`"),
        ({"value": None}, "`value`"),
        ({"value": "0.9"}, "`value`"),
        ({"value": "inf"}, "`value`"),
        ({"value": True}, "`value`"),
        ({"spread": 0.1}, "`spread` must be None for fewer than two seeds"),
        ({"spread": -0.1, "seeds": [0, 1]}, "`spread` is a standard deviation"),
        ({"spread": "small", "seeds": [0, 1]}, "`spread`"),
        ({"seeds": 0}, "`seeds`"),
        ({"seeds": [0.0]}, "`seeds`"),
        ({"seeds": [False]}, "`seeds`"),
        ({"seeds": [1, 2, 1]}, "`seeds` must be distinct"),
        ({"seed": 0}, "unknown are ['seed']"),
    ],
)
def test_a_wrong_field_of_a_row_is_named(tmp_path: Path, change: dict, field: str) -> None:
    wrong = document()
    wrong["rows"][1] |= change
    (tmp_path / "results.json").write_text(json.dumps(wrong))
    sentence = refusal(tmp_path / "results.json")
    assert "rows[1]" in sentence
    assert field in sentence


@pytest.mark.parametrize("key", list(document()))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    wrong = {name: value for name, value in document().items() if name != key}
    (tmp_path / "results.json").write_text(json.dumps(wrong))
    assert f"missing are ['{key}']" in refusal(tmp_path / "results.json")


@pytest.mark.parametrize("key", list(document()["rows"][0]))
def test_a_missing_key_of_a_row_is_named(tmp_path: Path, key: str) -> None:
    wrong = document()
    del wrong["rows"][1][key]
    (tmp_path / "results.json").write_text(json.dumps(wrong))
    assert "rows[1], the keys must be exactly" in refusal(tmp_path / "results.json")
    assert f"missing are ['{key}']" in refusal(tmp_path / "results.json")


def test_two_rows_with_one_key_are_refused(tmp_path: Path) -> None:
    wrong = document()
    wrong["rows"][1]["nfe"] = 1
    (tmp_path / "results.json").write_text(json.dumps(wrong))
    sentence = refusal(tmp_path / "results.json")
    assert "(picard, nfe 1, accuracy, test) at rows[0] and again at rows[1]" in sentence


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1 column 1"),
        (b"\x89PNG\r\n", "UTF-8"),
        (b"[" * 100_000, "nesting"),
        (b"[]", "an object with the keys"),
        (b'{"schema": 1, "schema": 1}', "'schema' twice"),
        (b'{"schema": NaN}', "bare NaN"),
        (b'{"schema": -Infinity}', "bare -Infinity"),
        (b'{"schema": 1e999}', "64 bits; got 1e999"),
        (b'{"schema": 1' + b"0" * 5000 + b"}", "64 bits"),
        (b"{'schema': 1}", "line 1 column 2"),
    ],
)
def test_what_is_not_plain_json_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "results.json").write_bytes(content)
    sentence = refusal(tmp_path / "results.json")
    assert reason in sentence
    assert str(tmp_path / "results.json") in sentence
    assert "\n" not in sentence


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.json")
    assert "cannot read" in refusal(tmp_path)


def fail_to(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_save_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run(0).save(tmp_path / "results.json")
    before = (tmp_path / "results.json").read_bytes()
    monkeypatch.setattr(os, step, fail_to)
    with pytest.raises(StoreError, match="No space left on device"):
        run(1).save(tmp_path / "results.json")
    assert (tmp_path / "results.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_save_makes_folders_and_replaces(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(seed).save(tmp_path / "a" / "b" / "results.json")
        assert Results.load(tmp_path / "a" / "b" / "results.json") == run(seed)


def test_misuse_raises_at_construction() -> None:
    with pytest.raises(TypeError, match="seeds"):
        Row("picard", 1, "accuracy", "test", 0.5, None, [0])
    with pytest.raises(ValueError, match="nfe"):
        Row("picard", 0, "accuracy", "test", 0.5, None, (0,))
    with pytest.raises(TypeError, match=r"rows\[1\]"):
        replace(run(0), rows=(run(0).rows[0], "row"))
    with pytest.raises(ValueError, match="finite"):
        replace(run(0), costs={"seconds": math.nan})
    with pytest.raises(FrozenInstanceError):
        run(0).task = "other"


def test_select_partitions_the_rows() -> None:
    results = run(0)
    parts = [results.select(split=split).rows for split in ("validation", "test")]
    assert sorted(parts[0] + parts[1], key=str) == sorted(results.rows, key=str)
    assert results.select() == results


def test_selecting_twice_is_selecting_both() -> None:
    results = run(0)
    both = results.select(model="anderson", metric="accuracy", split="test")
    assert both == results.select(split="test").select(metric="accuracy").select(model="anderson")
    assert [row.nfe for row in both.rows] == [*NFE, None]


def test_models_are_listed_in_their_order_and_others_after() -> None:
    names = [*MODELS, "gcn", "alexnet"]
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert sort_models(names + names) == (*MODELS, "alexnet", "gcn")
