"""Tables that the README quotes are those of the result files, to the letter."""

import json
from pathlib import Path

import pytest

from cdeq.errors import StoreError
from cdeq.report import Results, Row, pivot
from cdeq.report.quoting import renew

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_the_readme_quotes_its_result_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count("<!-- table ") + text.count("<!-- ratios ") == text.count("<!-- end -->") > 0
    assert renew(text, ROOT) == text


def test_every_result_file_is_valid_and_pictured() -> None:
    files = [path for path in (ROOT / "results").glob("*.json") if path.name != "bench.json"]
    assert files
    for path in files:
        for metric in {row.metric for row in Results.load(path).rows}:
            assert path.with_name(f"{path.stem}-{metric.replace('_', '-')}.png").is_file()


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


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone"):
        renew("<!-- table gone.json accuracy -->\n<!-- end -->", tmp_path)
