"""Tables that README and docs/results quote are those of the result files, to the letter."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cdeq.errors import StoreError
from cdeq.report import Results, Row, find_metric, listing, pivot, summary
from cdeq.report.quoting import renew

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/results").glob("*.md"))]


SHARED = {
    "ablation-digits": "ablation",
    "ablation-deblur": "ablation",
    "arxiv": "graphs",
    "table2-cifar10": "figure2b-cifar10",
    "computers": "graphs",
    **{
        f"{graph}_{teacher}": f"table3-{graph}"
        for graph in ("arxiv", "computers", "physics")
        for teacher in ("eignn", "mignn")
    },
}
"""Tasks that are drawn side by side in one picture."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_quotes_its_result_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    openings = re.findall(r"<!-- (?:table|summary|listing|ratios) ", text)
    assert len(openings) == text.count("<!-- end -->") > 0
    assert renew(text, page.parent) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert targets
    assert [name for name in targets if not (page.parent / name).exists()] == []


def test_every_result_file_is_valid_and_pictured() -> None:
    """Except for what a benchmark of the same name wrote, in a form of its own, and for what was
    measured at one budget alone."""
    benchmarks = {"bench", *(path.stem.replace("_", "-") for path in BENCHMARKS.glob("*.py"))}
    files = [path for path in (ROOT / "results").glob("*.json") if path.stem not in benchmarks]
    assert files
    for path in files:
        seen = {(row.metric, row.nfe) for row in Results.load(path).rows if row.nfe is not None}
        metrics = [name for name, count in Counter(name for name, _ in seen).items() if count > 1]
        for metric in filter(lambda name: find_metric(name).drawn, metrics):
            own = path.with_name(f"{path.stem}-{metric.replace('_', '-')}.png")
            shared = path.with_name(f"{SHARED.get(path.stem, path.stem)}.png")
            assert own.is_file() or shared.is_file()


def test_a_quotation_follows_its_file(tmp_path: Path) -> None:
    row = Row("teacher", None, "accuracy", "test", 0.5, None, (0,))
    results = Results("task", "recipe", (row,), {}, {}, "command")
    results.save(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(
        json.dumps({"ratios": {"one": 1.234}, "meaning": {"one": "x over y"}})
    )
    stale = (
        "<!-- table a.json accuracy -->\nold\n<!-- end -->\n<!-- ratios b.json -->\n<!-- end -->"
    )
    fresh = renew(stale, tmp_path)
    assert pivot(results, "accuracy", "test").markdown() in fresh
    assert "| x over y | 1.23 |" in fresh and "old" not in fresh
    assert renew(fresh, tmp_path) == fresh


def measured() -> Results:
    rows = [
        Row(model, nfe, metric, "test", 0.5 + 0.01 * len(model), None, (0,))
        for model in ("teacher", "picard", "student-best")
        for nfe, metric in ((1, "accuracy"), (2, "accuracy"), (None, "certified"))
    ]
    evaluations = Row("student-best", None, "evaluations", "test", 6.5, None, (0,))
    return Results("task", "recipe", (*rows, evaluations), {}, {}, "command")


def body(words: str, folder: Path) -> str:
    quoted = renew(f"before\n<!-- {words} -->\nold\n<!-- end -->\nafter", folder)
    before, opening, *lines, end, after = quoted.splitlines()
    assert (before, opening, end, after) == (
        "before", f"<!-- {words} -->", "<!-- end -->", "after",
    )  # fmt: skip
    return "\n".join(lines)


def test_every_kind_of_table_is_quoted_to_the_letter(tmp_path: Path) -> None:
    results = measured()
    results.save(tmp_path / "a.json")
    whole, chosen = pivot(results, "accuracy", "test"), ["teacher", "student-best"]
    some = pivot(results, "accuracy", "test", models=chosen)
    assert body("table a.json accuracy", tmp_path) == whole.markdown()
    assert body("table a.json accuracy teacher,student-best", tmp_path) == some.markdown()
    at_two = pivot(results, "accuracy", "test", models=chosen, budgets=[2])
    assert body("table a.json accuracy teacher,student-best 2", tmp_path) == at_two.markdown()
    for metrics in (["certified"], ["evaluations", "certified"]):
        expected = summary(results, metrics, "test").markdown()
        assert body(f"summary a.json {' '.join(metrics)}", tmp_path) == expected


@pytest.mark.parametrize(
    ("budgets", "wanted", "metrics"),
    [
        ("1", [1], ["accuracy"]),
        ("2,1", [2, 1], ["accuracy", "certified"]),
        ("1,-", [1, None], ["accuracy"]),
        ("-", [None], ["certified", "evaluations"]),
    ],
)
def test_a_listing_is_quoted_to_the_letter(
    budgets: str, wanted: list[int | None], metrics: list[str], tmp_path: Path
) -> None:
    explicit = Row("gcn", None, "accuracy", "test", 0.5, None, (0,))
    results = replace(measured(), rows=(*measured().rows, explicit))
    results.save(tmp_path / "a.json")
    expected = listing(results, metrics, wanted, "test").markdown()
    assert body(f"listing a.json {budgets} {' '.join(metrics)}", tmp_path) == expected


def test_a_listing_of_chosen_models_names_them_even_with_blanks(tmp_path: Path) -> None:
    explicit = Row("a gcn", None, "accuracy", "test", 0.5, None, (0,))
    results = replace(measured(), rows=(*measured().rows, explicit))
    results.save(tmp_path / "a.json")
    chosen = ["a gcn", "picard"]
    expected = listing(results, ["accuracy"], [1, None], "test", models=chosen).markdown()
    words = 'listing a.json 1,- accuracy "models=a gcn,picard"'
    assert body(words, tmp_path) == expected


def test_other_data_than_test_data_are_quoted_by_name(tmp_path: Path) -> None:
    other = Row("picard", 1, "accuracy", "official-test", 0.25, None, (0,))
    replace(measured(), rows=(*measured().rows, other)).save(tmp_path / "a.json")
    assert "0.25" in body("table a.json accuracy split=official-test", tmp_path)
    assert "0.25" in body("listing a.json 1 accuracy split=official-test", tmp_path)
    assert "0.25" not in body("table a.json accuracy", tmp_path)
    with pytest.raises(ValueError, match="validation"):
        body("table a.json accuracy split=validation", tmp_path)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("table a.json", "a quotation must read"),
        ("table a.json accuracy picard teacher", "a quotation must read"),
        ("summary a.json", "a quotation must read"),
        ("ratios a.json accuracy", "a quotation must read"),
        ("table a.json accuracy picard,nobody", "got 'nobody'"),
        ("table a.json accuracy picard 1,7", r"were measured \(1, 2\); got 7"),
        ("table a.json evaluations picard", r"measured here \(student-best\); got 'picard'"),
        ("table a.json beauty", "direction is known"),
        ("summary a.json certified accuracy", "has none, see `pivot`"),
        ("listing a.json", "a quotation must read"),
        ("listing a.json 1,2", "a quotation must read"),
        ("listing a.json accuracy certified", "a quotation must read"),
        ("listing a.json 1,,2 accuracy", "a quotation must read"),
        ("listing a.json 1.5 accuracy", "a quotation must read"),
        ("listing a.json 7 accuracy", "got 7, and no 'accuracy' there"),
        ("listing a.json 1 accuracy time", "nothing was measured for 'time'"),
    ],
)
def test_a_quotation_that_cannot_be_made_is_refused(
    tmp_path: Path, words: str, reason: str
) -> None:
    measured().save(tmp_path / "a.json")
    with pytest.raises(ValueError, match=reason):
        body(words, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone"):
        renew("<!-- table gone.json accuracy -->\n<!-- end -->", tmp_path)
