"""Results side by side: every number is there once, under its label, and nothing is hidden."""

import json
import re

import pytest

from cdeq.report import Results, Row, combine, merge, pivot, sort_models, summary
from cdeq.report.rows import apart


def part(recipe: str, *, task: str = "nodes", seed: int = 0, shift: float = 0.0) -> Results:
    """What one recipe measured."""
    rows = (
        *(
            Row(model, nfe, "accuracy", split, 0.1 * nfe + shift, None, (seed,))
            for model in ("anderson", "student-best")
            for nfe in (1, 2)
            for split in ("validation", "test")
        ),
        Row("teacher", None, "accuracy", "test", 0.9 + shift, None, (seed,)),
        Row("gcn", None, "accuracy", "test", 0.5 + shift, None, (seed,)),
    )
    costs = {"teacher_seconds": 3.0 + shift}
    return Results(task, recipe, rows, costs, {"torch": "2.6"}, f"cdeq demo {recipe}")


LABELS = pytest.mark.parametrize(
    "labels", [("ignn",), ("ignn", "eignn"), ("", "eignn"), ("two words", "one", "")], ids=str
)


@LABELS
def test_every_row_and_cost_is_there_once_under_its_label(labels: tuple[str, ...]) -> None:
    parts = {label: part(f"r{i}", shift=0.01 * i) for i, label in enumerate(labels)}
    whole = combine(parts, "table3")
    rows, costs = iter(whole.rows), iter(whole.costs.items())
    for label, one in parts.items():
        for row in one.rows:
            found = next(rows)
            assert apart(found.model) == (label, row.model)
            assert (found.key[1:], found.value) == (row.key[1:], row.value)
        for name, cost in one.costs.items():
            assert next(costs) == (f"{label} {name}".strip(), cost)
    assert not [*rows, *costs]
    assert (whole.task, whole.recipe) == ("nodes", "table3")


@LABELS
def test_a_label_is_taken_off_again(labels: tuple[str, ...]) -> None:
    """Whoever selects one label's models has that part's tables."""
    parts = {label: part(f"r{i}", shift=0.01 * i) for i, label in enumerate(labels)}
    whole = combine(parts, "table3")
    for label, one in parts.items():
        own = [
            f"{label} {name}".strip() for name in ("teacher", "anderson", "student-best", "gcn")
        ]
        table, alone = pivot(whole, "accuracy", "test", models=own), pivot(one, "accuracy", "test")
        assert table.cells == alone.cells
        assert table.best == alone.best
        assert [apart(name)[1] for name in table.names] == [*alone.names]


def test_one_part_without_a_label_is_itself() -> None:
    one = part("arxiv")
    assert combine({"": one}, "arxiv") == one


def test_a_combination_can_be_saved_and_read(tmp_path) -> None:
    whole = combine({"a": part("x"), "b": part("y")}, "both")
    whole.save(tmp_path / "both.json")
    assert Results.load(tmp_path / "both.json") == whole


def test_versions_and_commands_are_all_told() -> None:
    first, second = part("x"), part("y")
    second.versions.update(torch="2.7", ogb="1.3")
    whole = combine({"a": first, "b": second, "c": first}, "both")
    assert whole.versions == {"torch": "2.6 / 2.7", "ogb": "absent / 1.3"}
    assert whole.command == "cdeq demo x && cdeq demo y"


def test_spreads_and_seeds_stay_those_of_each_part() -> None:
    several = merge([part("x", seed=seed, shift=0.01 * seed) for seed in (0, 1, 2)])
    whole = combine({"a": several, "b": part("x")}, "both")
    seeds = {apart(row.model)[0]: row.seeds for row in whole.rows}
    assert seeds == {"a": (0, 1, 2), "b": (0,)}
    table = pivot(whole, "accuracy", "test")
    spread = {
        name: "±" in "".join(line) for name, line in zip(table.names, table.cells, strict=True)
    }
    assert spread == {name: name.startswith("a ") for name in table.names}


def test_no_teacher_is_a_competitor_under_any_label() -> None:
    whole = combine({"": part("x"), "a": part("y", shift=0.05)}, "both")
    table = pivot(whole, "accuracy", "test")
    best = {(table.names[i], table.columns[j]) for i, j in table.best}
    assert {name for name, column in best if column == "converged"} == {"a gcn"}
    assert [apart(name) for name in table.names if "teacher" in name] == [
        ("", "teacher"), ("a", "teacher"),
    ]  # fmt: skip
    one = [row for row in whole.rows if row.nfe is None]
    table = summary(Results("nodes", "both", tuple(one), {}, {}, "c"), ["accuracy"], "test")
    assert {table.names[i] for i, _ in table.best} == {"a gcn"}


def test_models_of_one_label_stand_together_in_the_usual_order() -> None:
    names = [f"{label} {own}".strip() for label in ("b", "a", "") for own in ("gcn", "picard")]
    assert sort_models(names) == ("picard", "gcn", "a picard", "a gcn", "b picard", "b gcn")


def test_other_tasks_and_no_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"results of one task .*; got \['images', 'nodes'\]"):
        combine({"a": part("x"), "b": part("y", task="images")}, "both")
    with pytest.raises(ValueError, match="got none"):
        combine({}, "nothing")


def test_two_models_of_one_name_are_refused() -> None:
    """An unlabelled `a gcn` beside the `gcn` of a."""
    row = Row("a gcn", None, "accuracy", "test", 0.5, None, (0,))
    odd = Results("nodes", "odd", (row,), {}, {}, "cdeq demo odd")
    with pytest.raises(ValueError, match=re.escape("must hold each (model, nfe, metric, split)")):
        combine({"a": part("x"), "": odd}, "both")


# On the command line


def saved(tmp_path, **parts: Results) -> list[str]:
    for name, one in parts.items():
        one.save(tmp_path / f"{name}.json")
    return [f"{name}={tmp_path / name}.json" for name in parts]


def test_the_command_writes_what_it_says(tmp_path) -> None:
    from cli.run import cdeq

    parts = {"ignn": part("x"), "eignn": part("y", shift=0.05)}
    words = saved(tmp_path, **parts)
    said = cdeq("combine", *words, "--output", tmp_path / "out/table.v3")
    assert (said.code, said.err) == (0, "")
    whole = Results.load(tmp_path / "out/table.v3.json")
    assert whole == combine(parts, "table.v3")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "table.v3.json", "table.v3.md",
    ]  # fmt: skip
    for split in ("validation", "test"):
        assert pivot(whole, "accuracy", split).text() in said.out
        assert (
            pivot(whole, "accuracy", split).markdown()
            in (tmp_path / "out/table.v3.md").read_text()
        )


def test_the_heading_says_how_many_seeds_there_are(tmp_path) -> None:
    from cli.run import cdeq

    three = merge([part("x", seed=seed) for seed in range(3)])
    for other, text in ((three, "3 seeds"), (part("x"), "1 to 3 seeds")):
        words = saved(tmp_path, a=three, b=other)
        said = cdeq("combine", *words, "--output", tmp_path / "both")
        assert f"median ± standard deviation over {text}" in " ".join(said.out.split())
    words = saved(tmp_path, a=part("x"), b=part("y"))
    assert "seeds" not in cdeq("combine", *words, "--output", tmp_path / "both").out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "results of one task side by side; got none"),
        (["a.json"], "named LABEL=FILE, each label once; got a.json"),
        (["a=a.json", "a=b.json"], "each label once; got a=a.json a=b.json"),
        (["a=a.json", "b=gone.json"], "cannot read `gone.json`"),
        (["a=a.json", "b=b.json"], "got ['images', 'nodes']"),
        (["a=a.json", "b=broken.json"], "`broken.json` is not a usable result file"),
    ],
    ids=str,
)
def test_what_cannot_be_combined_is_one_sentence(words, text, tmp_path, monkeypatch) -> None:
    from cli.run import refused

    monkeypatch.chdir(tmp_path)
    saved(tmp_path, a=part("x"), b=part("y", task="images"))
    (tmp_path / "broken.json").write_text(json.dumps({"schema": 1}))
    assert text in refused(tmp_path, "combine", *words, "--output", tmp_path / "out")
