"""Tables: every number stands where it belongs, and the best ones are marked."""

import math
import random
import re

import pytest

from cdeq.report import Results, Row, Table, find_metric, pivot


def results(*rows: Row) -> Results:
    return Results("digits", "digits", rows, {}, {}, "cdeq demo")


def row(model: str, nfe: int | None, value: float, metric: str = "accuracy") -> Row:
    return Row(model, nfe, metric, "test", value, None, (0,))


def marked(table: Table) -> set[tuple[str, str]]:
    return {(table.names[i], table.columns[j]) for i, j in table.best}


def sweep(seed: int) -> Results:
    """A grid with holes, in an order of its own."""
    noise = random.Random(seed)
    rows = [
        row(model, nfe, noise.choice([0.123456, 0.7, 1.0]))
        for model in ("zeta", "student-best", "anderson", "teacher")
        for nfe in (16, 1, None, 2)
        if noise.random() < 0.7
    ]
    noise.shuffle(rows)
    return results(*rows)


@pytest.mark.parametrize("seed", range(8))
def test_every_row_is_in_its_cell_and_nothing_else(seed: int) -> None:
    source = sweep(seed)
    table = pivot(source, "accuracy", "test")
    cells = {
        (name, column): cell
        for name, line in zip(table.names, table.cells, strict=True)
        for column, cell in zip(table.columns, line, strict=True)
        if cell != "–"
    }
    assert cells == {
        (r.model, "converged" if r.nfe is None else str(r.nfe)): f"{r.value:.3f}"
        for r in source.rows
    }


@pytest.mark.parametrize("seed", range(8))
def test_terminal_and_markdown_hold_the_same_cells(seed: int) -> None:
    table = pivot(sweep(seed), "accuracy", "test")
    expected = [[name, *line] for name, line in zip(table.names, table.cells, strict=True)]
    lines = table.text().splitlines()
    assert [re.split(r"  +", line) for line in lines[3:]] == expected
    plain = [line.strip("| ").split("|") for line in table.markdown().splitlines()[2:]]
    assert [[cell.strip(" *") for cell in line] for line in plain] == expected
    assert len({len(line) for line in lines[1:]}) == 1
    assert len({len(line) for line in table.markdown().splitlines()}) == 1


def test_budgets_ascend_and_models_keep_their_order() -> None:
    source = results(
        row("gcn", None, 0.7), row("student-best", 16, 0.9), row("anderson", 2, 0.5),
        row("teacher", None, 0.97), row("anderson", 1, 0.2), row("alexnet", None, 0.6),
    )  # fmt: skip
    table = pivot(source, "accuracy", "test")
    assert table.columns == ("1", "2", "16", "converged")
    assert table.names == ("teacher", "anderson", "student-best", "alexnet", "gcn")


@pytest.mark.parametrize(
    ("metric", "value", "spread", "cell"),
    [
        ("accuracy", 0.9666, None, "0.967"),
        ("accuracy", 1.0, 0.0004, "1.000 ± 0.000"),
        ("accuracy_top5", 0.5, 0.0126, "0.500 ± 0.013"),
        ("perplexity", 26.434, 0.051, "26.43 ± 0.05"),
        ("perplexity", 8706.02, 12.345, "8706.0 ± 12.3"),
        ("relative_error", 0.0345, 0.00123, "3.5e-02 ± 1.2e-03"),
        ("relative_residual", 0.0, None, "0.0e+00"),
        ("relative_residual_p95", 2e-6, None, "2.0e-06"),
        ("relative_residual", math.inf, math.nan, "inf"),
        ("accuracy", math.nan, None, "nan"),
        ("psnr", 31.415, 0.049, "31.41 ± 0.05"),
        ("certified", 0.99949, None, "0.999"),
        ("agreement", 1.0, 0.0, "1.000 ± 0.000"),
        ("evaluations", 6.125, None, "6.12"),
        ("evaluations_p95", 31.0, None, "31.00"),
        ("parameters", 1234567.0, None, "1,234,567"),
        ("parameters", 999.0, 1000.0, "999 ± 1,000"),
        ("seconds", 70.04, None, "70.0"),
        ("relative_error", 2e-6, math.nan, "2.0e-06 ± nan"),
    ],
)
def test_digits(metric: str, value: float, spread: float | None, cell: str) -> None:
    seeds = (0, 1) if spread is not None else (0,)
    source = results(Row("picard", 1, metric, "test", value, spread, seeds))
    assert pivot(source, metric, "test").cells == ((cell,),)


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("accuracy", "b"), ("perplexity", "a"), ("relative_error", "a"),
        ("relative_residual", "a"), ("psnr", "b"), ("certified", "b"), ("agreement", "b"),
        ("evaluations", "a"), ("parameters", "a"), ("seconds", "a"),
    ],
)  # fmt: skip
def test_the_better_direction_belongs_to_the_metric(metric: str, best: str) -> None:
    source = results(row("a", 1, 2e3, metric), row("b", 1, 8e3, metric))
    assert marked(pivot(source, metric, "test")) == {(best, "1")}


def test_the_teacher_is_no_competitor() -> None:
    source = results(
        row("teacher", None, 0.97), row("anderson", None, 0.96), row("teacher", 1, 0.9)
    )
    assert marked(pivot(source, "accuracy", "test")) == {("anderson", "converged")}


def test_equal_looking_values_are_all_best() -> None:
    source = results(row("a", 1, 0.96701), row("b", 1, 0.96699), row("c", 1, 0.966))
    assert marked(pivot(source, "accuracy", "test")) == {("a", "1"), ("b", "1")}


@pytest.mark.parametrize("metric", ["accuracy", "relative_residual"])
def test_diverged_values_are_shown_and_never_best(metric: str) -> None:
    source = results(
        row("a", 1, math.inf, metric), row("b", 1, math.nan, metric), row("c", 1, 0.5, metric),
        row("a", 2, -math.inf, metric),
    )  # fmt: skip
    table = pivot(source, metric, "test")
    assert marked(table) == {("c", "1")}
    assert [line[0] for line in table.cells[:2]] == ["inf", "nan"]


def test_bold_cells_are_the_best_ones() -> None:
    table = pivot(sweep(1), "accuracy", "test")
    body = [line.strip("| ").split("|") for line in table.markdown().splitlines()[2:]]
    bold = {
        (i, j)
        for i, line in enumerate(body)
        for j, cell in enumerate(line[1:])
        if re.fullmatch(r" *\*\*[^*]+\*\* *", cell)
    }
    assert bold == table.best
    assert bold
    assert "*" not in table.text()


def test_markdown_escapes_what_would_end_a_cell() -> None:
    source = results(row("a|b", 1, 0.5))
    for line in pivot(source, "accuracy", "test").markdown().splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == 3


def test_the_rule_of_markdown_is_valid_for_narrow_columns() -> None:
    table = Table("s", "n", ("1", "2"), ("a",), (("3", "4"),), frozenset())
    assert re.fullmatch(r"\|( -+:? \|)+", table.markdown().splitlines()[1])


def test_numbers_are_aligned_to_the_right() -> None:
    source = results(row("a", 1, 8706.0, "perplexity"), row("b", 1, 26.43, "perplexity"))
    table = pivot(source, "perplexity", "test")
    *_, rule, first, second = table.text().splitlines()
    assert len(first) == len(second) == len(rule)
    assert first.endswith("8706.0")
    assert second.endswith(" 26.43")
    assert table.markdown().splitlines()[1].endswith("-: |")


def test_other_splits_and_metrics_stay_out() -> None:
    mine = row("a", 1, 0.5)
    others = [Row("a", 1, "accuracy", "train", 0.9, None, (0,)), row("a", 1, 0.1, "perplexity")]
    source, alone = results(mine, *others), results(mine)
    assert pivot(source, "accuracy", "test") == pivot(alone, "accuracy", "test")


@pytest.mark.parametrize("seed", range(4))
def test_chosen_models_are_the_table_of_a_file_with_no_other(seed: int) -> None:
    source = sweep(seed)
    for chosen in (["anderson", "teacher"], ["zeta"], ["zeta", "student-best", "zeta"]):
        alone = results(*(r for r in source.rows if r.model in chosen))
        expected = pivot(alone, "accuracy", "test")
        assert pivot(source, "accuracy", "test", models=chosen) == expected
    assert pivot(source, "accuracy", "test", models=pivot(source, "accuracy", "test").names) == (
        pivot(source, "accuracy", "test")
    )


@pytest.mark.parametrize("seed", range(4))
def test_chosen_budgets_are_the_table_of_a_file_with_no_other(seed: int) -> None:
    source = sweep(seed)
    for chosen in ([1, None], [16], [2, 1, 2]):
        alone = results(*(r for r in source.rows if r.nfe in chosen))
        expected = pivot(alone, "accuracy", "test")
        assert pivot(source, "accuracy", "test", budgets=chosen) == expected


def test_a_model_that_was_not_measured_is_refused() -> None:
    source = results(row("a", 1, 0.5), row("b", 1, 0.5, "perplexity"))
    with pytest.raises(ValueError, match=r"measured here \(a\); got 'b'"):
        pivot(source, "accuracy", "test", models=["a", "b"])


def test_what_was_not_measured_is_refused_with_what_was() -> None:
    with pytest.raises(ValueError, match="'accuracy' on 'train'; there is accuracy on test"):
        pivot(results(row("a", 1, 0.5)), "accuracy", "train")
    with pytest.raises(ValueError, match="no row at all"):
        pivot(results(), "accuracy", "test")


@pytest.mark.parametrize("name", ["acuracy", "accuracytop5", "", "train_seconds"])
def test_a_metric_without_direction_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"direction is known .* got '{name}'"):
        find_metric(name)


def test_a_table_that_is_not_filled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lines of \[2, 2\]; got \[2, 1\]"):
        Table("size", "n", ("1", "2"), ("a", "b"), (("1", "2"), ("3",)), frozenset())
