"""The summary of metrics without a budget: a column each, that of the pivot's last one."""

import random

import pytest

from cdeq.report import Results, Row, pivot, summary

METRICS = ("accuracy", "certified", "agreement", "evaluations", "parameters", "seconds")


def results(*rows: Row) -> Results:
    return Results("digits", "digits", rows, {}, {}, "cdeq demo")


def row(model: str, nfe: int | None, value: float, metric: str) -> Row:
    return Row(model, nfe, metric, "test", value, None, (0,))


def scattered(seed: int) -> Results:
    """Some models measured on some metrics, with and without a budget, in any order."""
    noise = random.Random(seed)
    rows = [
        row(model, nfe, noise.choice([0.5, 0.5001, 12.0, 98765.0]), metric)
        for metric in METRICS
        for model in ("zeta", "student-best", "anderson", "teacher")
        for nfe in (4, None)
        if noise.random() < 0.7
    ]
    always = [row("picard", None, noise.random(), metric) for metric in METRICS]
    rows += always
    noise.shuffle(rows)
    return results(*rows)


@pytest.mark.parametrize("seed", range(8))
def test_each_column_is_the_last_one_of_its_pivot(seed: int) -> None:
    source = scattered(seed)
    table = summary(source, METRICS, "test")
    for j, metric in enumerate(METRICS):
        single = pivot(source, metric, "test")
        assert single.caption == f"test {table.columns[j]}"
        column = {name: line[-1] for name, line in zip(single.names, single.cells, strict=True)}
        assert [line[j] for line in table.cells] == [column.get(n, "–") for n in table.names]
        last = len(single.columns) - 1
        assert {table.names[i] for i, k in table.best if k == j} == {
            single.names[i] for i, k in single.best if k == last
        }


def test_models_are_those_without_a_budget_in_their_order() -> None:
    source = results(
        row("zeta", None, 3.0, "evaluations"), row("anderson", None, 1.0, "parameters"),
        row("picard", 4, 1.0, "parameters"), row("teacher", None, 9.0, "parameters"),
    )  # fmt: skip
    table = summary(source, ["evaluations", "parameters"], "test")
    assert table.names == ("teacher", "anderson", "zeta")
    assert table.cells == (("–", "9"), ("–", "1"), ("3.00", "–"))
    assert table.best == {(1, 1), (2, 0)}


def test_thousands_are_compared_as_numbers() -> None:
    values = {"a": 1_000_000.0, "b": 999.0, "c": 20_000.0, "d": 998.9}
    source = results(*(row(name, None, value, "parameters") for name, value in values.items()))
    table = summary(source, ["parameters"], "test")
    assert [cell for (cell,) in table.cells] == ["1,000,000", "999", "20,000", "999"]
    assert {table.names[i] for i, _ in table.best} == {"b", "d"}


def test_headings_say_name_and_direction() -> None:
    source = results(
        row("a", None, 0.5, "certified"), row("a", None, 6.0, "evaluations_p95")
    )  # fmt: skip
    table = summary(source, ["evaluations_p95", "certified"], "test")
    assert table.columns == ("evaluations p95 ↓", "certified ↑")
    assert table.text().splitlines()[0] == "test"
    assert table.markdown().splitlines()[0] == "| test | evaluations p95 ↓ | certified ↑ |"


def test_what_has_no_column_is_refused() -> None:
    source = results(row("a", 4, 0.5, "accuracy"), row("a", None, 6.0, "evaluations"))
    with pytest.raises(ValueError, match="'accuracy' on 'test' has none, see `pivot`"):
        summary(source, ["evaluations", "accuracy"], "test")
    with pytest.raises(ValueError, match="nothing was measured for 'seconds' on 'test'"):
        summary(source, ["seconds"], "test")
    with pytest.raises(ValueError, match="direction is known"):
        summary(source, ["beauty"], "test")
    with pytest.raises(ValueError, match="at least one metric"):
        summary(source, [], "test")
