"""Merging seeds: medians and deviations by another route, and nothing merged that does not fit."""

import math
import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from cdeq.report import Results, Row, merge

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


@pytest.mark.parametrize("seeds", [(3, 1, 2), (4, 1), (5, 2, 0, 7)])
def test_merge_gives_median_and_sample_deviation(seeds: tuple[int, ...]) -> None:
    runs = [run(seed) for seed in seeds]
    merged = merge(runs)
    for place, row in enumerate(merged.rows):
        values = [result.rows[place].value for result in runs]
        assert row.key == runs[0].rows[place].key
        assert row.value == statistics.median(values)
        assert row.spread == pytest.approx(statistics.stdev(values), rel=1e-12)
        assert row.seeds == tuple(sorted(seeds))
    assert merged.costs["parameters"] == 1234
    assert merged.costs["train_seconds"] == statistics.median(
        result.costs["train_seconds"] for result in runs
    )
    assert merged.command == " && ".join(f"run {seed}" for seed in seeds)


def test_merge_does_not_depend_on_the_order_of_runs_or_rows() -> None:
    runs = [run(seed) for seed in range(4)]
    shuffled = [replace(result, rows=result.rows[::-1]) for result in runs[::-1]]
    assert merge(shuffled).rows[::-1] == merge(runs).rows


def test_merging_one_result_changes_nothing() -> None:
    assert merge([run(0)]) == run(0)


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_the_spread_scales_with_the_values(size: float) -> None:
    rows = [Row("m", 1, "x", "test", size * k, None, (k,)) for k in (1, 2, 3)]
    merged = merge([replace(run(0), rows=(row,)) for row in rows])
    assert merged.rows[0].spread == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ((math.nan, 1.0), "nan"),
        ((1.0, math.nan, 2.0), "nan"),
        ((math.inf, math.nan, math.inf), "nan"),
        ((math.inf, -math.inf), "nan"),
        ((math.inf, 1.0), "inf"),
        ((1.0, math.inf, math.inf), "inf"),
        ((-math.inf, -math.inf, 1.0), "-inf"),
        ((2.0, math.inf, 1.0), "2.0"),
    ],
)
def test_a_diverged_seed_shows(tmp_path: Path, values: tuple[float, ...], median: str) -> None:
    rows = [Row("m", 1, "x", "test", value, None, (k,)) for k, value in enumerate(values)]
    merged = merge([replace(run(0), rows=(row,)) for row in rows])
    merged.save(tmp_path / "results.json")
    row = Results.load(tmp_path / "results.json").rows[0]
    assert repr(row.value) == median
    assert math.isnan(row.spread)


@pytest.mark.parametrize("astray", [1e6, -1e6, math.inf])
def test_one_seed_astray_stays_among_the_others(astray: float) -> None:
    values = (0.25, 0.5, 0.75, 0.625, astray)
    rows = [Row("m", 1, "x", "test", value, None, (k,)) for k, value in enumerate(values)]
    merged = merge([replace(run(0), rows=(row,)) for row in rows]).rows[0]
    assert merged.value == (0.625 if astray > 0 else 0.5)


def test_versions_that_differ_are_both_kept() -> None:
    other = replace(run(1), versions={"torch": "2.6.0", "cdeq": "0.1.0"})
    assert merge([run(0), other]).versions == {
        "torch": "2.13.0 / 2.6.0",
        "cdeq": "absent / 0.1.0",
    }


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (replace(run(1), task="letters"), r"task; .*'digits'.* results\[1\] has 'letters'"),
        (replace(run(1), recipe="tiny"), r"recipe; .*'digits'.* results\[1\] has 'tiny'"),
        (
            replace(run(1), rows=run(1).rows[1:]),
            r"anderson, nfe 1, accuracy, validation\) is in results\[0\] and not in results\[1\]",
        ),
        (
            run(1, ("anderson", "student-paper", "broyden")),
            r"broyden, nfe 1, accuracy, validation\) is in results\[1\] and not in results\[0\]",
        ),
        (replace(run(1), costs={"parameters": 1234}), "cost.* train_seconds is in results.0."),
        (run(0), r"different seeds; .* has seeds \(0, 0\)"),
        (merge([run(1), run(2)]), r"one seed each; .* results\[1\] has seeds \(1, 2\)"),
    ],
)
def test_results_that_do_not_line_up_are_refused(other: Results, difference: str) -> None:
    with pytest.raises(ValueError, match=difference):
        merge([run(0), other])


def test_merging_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        merge([])
