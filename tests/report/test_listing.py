"""The listing: a line a model and budget, every number in its place, the best of each budget."""

import random

import pytest

from cdeq.report import METRICS, Results, Row, Table, find_metric, listing, pivot
from cdeq.report.rows import sort_models

MODELS = ("teacher", "picard", "student-best", "gcn")
BUDGETED, SINGLE = ("accuracy", "time", "products"), ("parameters",)
COLUMNS = (*BUDGETED, *SINGLE)


def row(model: str, nfe: int | None, metric: str, value: float, split: str = "test") -> Row:
    return Row(model, nfe, metric, split, value, None, (0,))


def results(*rows: Row) -> Results:
    return Results("nodes", "arxiv", rows, {}, {}, "cdeq demo")


def measurements(seed: int) -> Results:
    """With holes, in an order of its own; converged and explicit models have no budget."""
    noise = random.Random(seed)
    rows = [
        row(model, nfe, metric, noise.choice([1.0, 2.0, 3.5]))
        for model in MODELS
        for nfe in ((None,) if model in ("teacher", "gcn") else (1, 2, 8))
        for metric in BUDGETED
        if metric == "accuracy" or noise.random() < 0.7
    ]
    rows += [row(model, None, "parameters", noise.choice([10.0, 2000.0])) for model in MODELS[1:]]
    rows += [row("picard", 1, "accuracy", 0.0, "validation")]
    noise.shuffle(rows)
    return results(*rows)


def lines(table: Table) -> list[tuple[str, ...]]:
    return [(name, *cells) for name, cells in zip(table.names, table.cells, strict=True)]


def shown(source: Results, model: str, nfe: int | None, metric: str) -> str:
    """A number at the budget, or one that does not depend on it."""
    for budget in (nfe, None):
        for found in source.select(split="test", metric=metric, model=model).rows:
            if found.nfe == budget:
                return find_metric(metric).show(found.value)
    return "–"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budgets", [(1,), (8, 1), (1, 2, None), (None,)], ids=str)
def test_every_number_stands_in_its_line(seed: int, budgets: tuple[int | None, ...]) -> None:
    source = measurements(seed)
    expected = [
        (model, "–" if nfe is None else str(nfe), *(shown(source, model, nfe, m) for m in COLUMNS))
        for nfe in budgets
        for model in sort_models(MODELS)
        if (nfe is None) == (model in ("teacher", "gcn"))
    ]
    assert lines(listing(source, COLUMNS, budgets, "test")) == expected


@pytest.mark.parametrize("seed", range(6))
def test_a_listing_of_one_metric_is_the_table_of_it_turned(seed: int) -> None:
    source = measurements(seed)
    table = pivot(source, "accuracy", "test")
    cells = {
        (name, column): (cell, (i, j) in table.best)
        for i, (name, line) in enumerate(zip(table.names, table.cells, strict=True))
        for j, (column, cell) in enumerate(zip(table.columns, line, strict=True))
        if cell != "–"
    }
    turned = listing(source, ["accuracy"], [1, 2, 8, None], "test")
    assert {
        (name, "converged" if nfe == "–" else nfe): (cell, (i, 1) in turned.best)
        for i, (name, nfe, cell) in enumerate(lines(turned))
    } == cells


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_a_block_does_not_depend_on_the_others(seed: int) -> None:
    """Nor do the lines: a listing is those of its budgets one after the other."""
    source, budgets = measurements(seed), (2, None, 1)
    whole = listing(source, COLUMNS, budgets, "test")
    parts = [listing(source, COLUMNS, [nfe], "test") for nfe in budgets]
    assert lines(whole) == [line for part in parts for line in lines(part)]
    best, first = set(), 0
    for part in parts:
        best |= {(first + i, j) for i, j in part.best}
        first += len(part.names)
    assert whole.best == best
    assert not any(whole.names[i] == "teacher" or j == 0 for i, j in best)
    assert {j for _, j in best} == {1, 2, 3, 4}


def test_headings_are_those_of_the_metrics() -> None:
    table = listing(measurements(0), COLUMNS, [1], "test")
    assert table.columns == ("NFE", "accuracy ↑", "time ↓", "products ↓", "parameters ↓")
    assert (table.caption, table.corner) == ("test", "")
    for metric in METRICS:
        source = results(row("picard", 1, metric.name, 1.5))
        [(_, _, cell)] = lines(listing(source, [metric.name], [1], "test"))
        assert cell == metric.show(1.5)


def test_chosen_models_come_in_the_order_they_are_given() -> None:
    source = measurements(0)
    for chosen in (["student-best", "picard"], ["picard"], ["gcn", "picard", "teacher"]):
        table = listing(source, COLUMNS, [1], "test", models=chosen)
        kept = [model for model in chosen if model in ("student-best", "picard")]
        assert [*table.names] == kept
    alone = results(*(r for r in source.rows if r.model != "student-best"))
    chosen = ["picard", "gcn", "teacher"]
    assert listing(source, COLUMNS, [1, None], "test", models=chosen) == listing(
        alone, COLUMNS, [1, None], "test", models=chosen
    )


@pytest.mark.parametrize(
    ("metrics", "budgets", "split", "models", "reason"),
    [
        ([], [1], "test", None, "at least one metric.*; got 0 and 1"),
        (["accuracy"], [], "test", None, "at least one metric.*; got 1 and 0"),
        (["accuracy", "beauty"], [1], "test", None, "direction is known"),
        (["accuracy", "seconds"], [1], "test", None, "measured for 'seconds' on 'test'; there is"),
        (["accuracy"], [1], "train", None, "measured for 'accuracy' on 'train'; there is"),
        (["accuracy", "time"], [1], "validation", None, "measured for 'time' on 'validation'"),
        (["accuracy"], [1, 3], "test", None, "got 3, and no 'accuracy' there"),
        (["parameters"], [None, 1], "test", None, "got 1, and no 'parameters' there"),
        (["accuracy"], [None], "validation", None, "got convergence, and no 'accuracy' there"),
        (["accuracy"], [1], "test", ["picard", "nobody"], "measured here .*; got 'nobody'"),
        (["accuracy"], [1], "test", ["gcn"], "got 1, and no 'accuracy' there"),
    ],
    ids=str,
)
def test_what_was_not_measured_is_refused(metrics, budgets, split, models, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        listing(measurements(0), metrics, budgets, split, models=models)
