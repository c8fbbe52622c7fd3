"""Every command on a real recipe: what it leaves behind, skips, refuses and replaces."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from cli.run import KEYS, Ended, cdeq, contents, key, refused, rows_of, tiny, weights

from cdeq.cli.run_folder import DONE, ORIGIN, Stage, differences, write_json
from cdeq.data.images import load_digits
from cdeq.evaluation.metrics import ACCURACY
from cdeq.evaluation.sweep import score_few_step
from cdeq.models.vision.contraction import ContractionDEQ
from cdeq.report import Results

STUDENTS = ["student-paper", "student-paper-no-aa", "student-best"]
TRAINED = ["teacher", *STUDENTS, "few-step-1", "few-step-3"]
RUN = ["train", "cache", "distill", "baseline", "explicit", "evaluate", "demo"]


# What a demo leaves behind


def test_the_demo_runs_through_all_stages(demo: tuple[Path, Ended]) -> None:
    _, said = demo
    assert (said.code, said.err) == (0, "")
    order = [
        "training the teacher", "The teacher converges", "caching trajectories",
        *(f"distilling {name}" for name in STUDENTS),
        "training few-step 1", "training few-step 3", "evaluating  ",
        "accuracy on test", "Everything is in",
    ]  # fmt: skip
    places = [said.out.find(text) for text in order]
    assert -1 not in places
    assert places == sorted(places)


def test_nothing_is_said_twice(demo: tuple[Path, Ended]) -> None:
    for text in ("The teacher converges", "test accuracy", "student-best  ", "Everything is in"):
        tables = 5 if text == "student-best  " else 1
        assert len(re.findall(rf"^{text}", demo[1].out, re.MULTILINE)) == tables


def test_the_folder_holds_models_logs_and_records(finished: Path) -> None:
    for name in TRAINED:
        files = set(contents(finished / name))
        assert {"model.safetensors", "config.json", ORIGIN, DONE} <= files
        assert {file for file in files if file.startswith("logs")} == {
            file for file in files if re.match(r"logs/from-0/(metrics.csv|events\.out\..*)$", file)
        }
    assert not list(finished.rglob("*.pt")), "finished stages need no checkpoint"
    assert not list(finished.rglob("*.partial"))
    assert {path.name for path in finished.iterdir()} == {
        *TRAINED, "cache", "evaluation", "evaluation-baselines", "results.json", "report.json",
        "report.md",
        "report-accuracy.png", "report-relative-error.png", "report-relative-residual.png",
    }  # fmt: skip


def test_every_stage_says_what_it_was_made_by(finished: Path) -> None:
    for name in (*TRAINED, "evaluation"):
        origin = json.loads((finished / name / ORIGIN).read_text())
        assert origin["recipe"]["teacher"]["plan"]["steps"] == 12
        assert origin["recipe"]["evaluation"]["budgets"] == [1, 3]
        assert {"python", "torch", "git", "cdeq"} <= origin["versions"].keys()
        assert origin["command"].startswith("cdeq demo digits_tiny --folder ")
        assert origin["command"].endswith(" ".join(KEYS))


def test_results_have_every_model_and_every_budget(finished: Path) -> None:
    results = Results.load(finished / "results.json")
    assert (results.task, results.recipe) == ("classification", "digits_tiny")
    seen = {
        (row.model, row.nfe)
        for row in results.rows
        if (row.metric, row.split, row.seeds) == ("accuracy", "test", (0,))
    }
    behind = [f"{name}-then-solver" for name in STUDENTS if name != "student-best"]
    iterative = ["picard", "anderson", "broyden", "few-step", *STUDENTS, *behind]
    assert seen == {("teacher", None), *((name, nfe) for name in iterative for nfe in (1, 3))}
    for metric in ("relative_error", "relative_residual"):
        scored = {row.model for row in results.rows if row.metric == metric and row.nfe}
        assert scored == set(iterative) - {"few-step"}, "a baseline has its own equation"
    assert {f"{name}_seconds" for name in TRAINED} < results.costs.keys()
    assert all(0.0 <= row.value <= 1.0 for row in results.rows if row.metric == "accuracy")


def test_the_report_is_the_results(finished: Path) -> None:
    assert Results.load(finished / "report.json") == Results.load(finished / "results.json")
    text = (finished / "report.md").read_text()
    assert len(re.findall(r"^\| student-best +\|", text, re.MULTILINE)) == 5


def test_the_saved_models_are_those_that_were_scored(finished: Path) -> None:
    results, test = Results.load(finished / "results.json"), load_digits(limit=40).test
    for steps in (1, 3):
        model = ContractionDEQ.from_pretrained(finished / f"few-step-{steps}")
        score = score_few_step(model, steps, test, ACCURACY).value
        (row,) = (r for r in results.rows if (r.model, r.nfe) == ("few-step", steps))
        assert row.value == score


def test_losses_are_logged(finished: Path) -> None:
    for name, terms in (
        ("teacher", {"loss", "best_validation"}),
        ("student-paper", {"loss", "anchor", "local", "task", "best_validation"}),
        ("few-step-3", {"loss", "best_validation"}),
    ):
        text = (finished / name / "logs/from-0/metrics.csv").read_text()
        (*_, last) = csv.DictReader(text.splitlines())
        assert set(last) == {*terms, "step"}
        assert all(float(value) >= 0 for value in last.values())


# Again


def test_a_second_run_changes_no_file(copied: Path) -> None:
    before = contents(copied)
    models = {path: path.stat().st_mtime_ns for path in copied.rglob("*.safetensors")}
    said = tiny("demo", copied)
    assert said.code == 0
    assert contents(copied) == before
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert "Teacher: already trained in" in said.out
    assert "The teacher converges." in said.out
    assert "Evaluation: already done" in said.out
    for name in STUDENTS:
        assert f"{name}: already distilled in" in said.out
    for steps in (1, 3):
        assert f"few-step-{steps}: already trained in" in said.out
    assert "loss" not in said.out, "no progress bar of a training"


@pytest.mark.parametrize("command", RUN)
def test_the_steps_alone_skip_what_the_demo_did(copied: Path, command: str) -> None:
    before = contents(copied)
    assert tiny(command, copied).code == 0
    assert contents(copied) == before


def test_step_by_step_is_the_demo(finished: Path, tmp_path: Path) -> None:
    for command in ("train", "cache", "distill", "evaluate"):
        assert tiny(command, tmp_path).code == 0
    for name in ("teacher", *STUDENTS):
        assert weights(tmp_path / name) == weights(finished / name)
    for file in (finished / "cache").glob("*.safetensors"):
        assert (tmp_path / "cache" / file.name).read_bytes() == file.read_bytes()
    both = [
        [row for row in rows_of(folder) if row.metric != "effort_distilled"]
        for folder in (tmp_path, finished)
    ]
    assert both[0] == [row for row in both[1] if row.model != "few-step"]


def test_one_student_can_be_distilled_alone(finished: Path, tmp_path: Path) -> None:
    for name in ("teacher", "cache"):
        shutil.copytree(finished / name, tmp_path / name)
    assert tiny("distill", tmp_path, "--distil", "student-paper-no-aa").code == 0
    assert weights(tmp_path / "student-paper-no-aa") == weights(finished / "student-paper-no-aa")
    assert not (tmp_path / "student-paper").exists()
    assert tiny("evaluate", tmp_path).code == 0
    scored = {row.model for row in rows_of(tmp_path)}
    assert scored & set(STUDENTS) == {"student-paper-no-aa"}
    assert tiny("distill", tmp_path).code == 0, "the others follow"
    said = tiny("evaluate", tmp_path)
    assert "already done" not in said.out
    assert {row.model for row in rows_of(tmp_path)} >= set(STUDENTS)


# Other settings


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another seed."""
    folder = tmp_path_factory.mktemp("second") / "run"
    assert tiny("demo", folder, "--seed", 1).code == 0
    return folder


def test_two_seeds_are_merged(second: Path, finished: Path, tmp_path: Path) -> None:
    said = cdeq("report", finished, second, "--output", tmp_path / "out" / "merged.v1")
    assert said.code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "merged.v1-accuracy.png", "merged.v1-relative-error.png",
        "merged.v1-relative-residual.png", "merged.v1.json", "merged.v1.md",
    ]  # fmt: skip
    merged = Results.load(tmp_path / "out/merged.v1.json")
    both = [{key(row): row.value for row in rows_of(run)} for run in (finished, second)]
    for row in merged.rows:
        values = torch.tensor([found[key(row)] for found in both], dtype=torch.float64)
        assert row.seeds == (0, 1)
        assert row.value == pytest.approx(float(values.mean())), "the median of two"
        assert row.spread == pytest.approx(float(values.std()))
    assert "median ± standard deviation over 2 seeds" in said.out


def test_a_report_may_do_without_pictures(finished: Path, tmp_path: Path) -> None:
    assert cdeq("report", finished, "--output", tmp_path / "a", "--no-pictures").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.md"]


def test_every_part_of_the_data_has_its_own_tables(copied: Path) -> None:
    """Validation chooses the threshold of early stopping, so it has no score of it."""
    for folder in copied.glob("evaluation*"):
        shutil.rmtree(folder)
    said = tiny("evaluate", copied, "--evaluation.splits", "validation", "test")
    assert said.code == 0
    rows = rows_of(copied)
    adaptive = {row.split for row in rows if row.metric.endswith("_adaptive")}
    assert {row.split for row in rows} == {"validation", "test"} and adaptive == {"test"}
    for split in ("validation", "test"):
        assert f"costs and certified answers on {split}" in said.out


def test_chosen_models_are_drawn_side_by_side(finished: Path, tmp_path: Path) -> None:
    results = [finished / "results.json"] * 2
    picture = tmp_path / "both.png"
    names = ("student-paper", "student-best")
    assert cdeq("compare", *results, "--models", *names, "--output", picture).code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = refused(tmp_path, "compare", *results, "--models", "nobody", "--output", picture)
    assert "a panel needs one of `models`" in text


def test_a_report_needs_results(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for missing in ("run", "nowhere.json"):
        text = refused(tmp_path, "report", tmp_path / missing, "--output", tmp_path / "out")
        assert missing in text and "run `cdeq evaluate` first" in text
    assert "no folder was named" in refused(tmp_path, "report", "--output", tmp_path / "out")


def test_one_seed_twice_is_refused(finished: Path, tmp_path: Path) -> None:
    text = refused(tmp_path, "report", finished, finished, "--output", tmp_path / "out")
    assert "seed" in text


# Records


def test_settings_differ_key_by_key() -> None:
    found = {"a": {"b": 1, "c": [1, 2]}, "d": None, "gone": 0, "older": None}
    wanted = {"a": {"b": 1, "c": [1, 3]}, "d": "x", "new": True}
    assert list(differences(found, wanted)) == [
        "a.c was [1, 2], now [1, 3]",
        "d was unset, now x",
        "gone was 0, now unset",
        "new was unset, now True",
    ]
    assert list(differences(wanted, wanted)) == []


def test_a_stage_is_done_when_it_says_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", {"a": 1})
    assert stage.outcome() is None
    stage.begin({"command": "first"})
    stage.begin({"command": "second"})
    assert stage.outcome() is None
    (tmp_path / "stage/.model.1234.partial").write_text("half")
    stage.finish({"seconds": 1.5})
    assert stage.outcome() == {"seconds": 1.5}
    assert json.loads((tmp_path / "stage" / ORIGIN).read_text())["command"] == "first"
    assert sorted(contents(tmp_path / "stage")) == [DONE, ORIGIN]
    stage.discard()
    stage.discard()
    assert stage.outcome() is None
    assert not (tmp_path / "stage").exists()


def test_numbers_that_json_lacks_are_spelled(tmp_path: Path) -> None:
    values = {"a": [float("nan"), 1.0], "b": {"c": float("inf"), "d": (-float("inf"),)}}
    write_json(tmp_path / "a.json", values)
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read == {"a": ["NaN", 1.0], "b": {"c": "Infinity", "d": ["-Infinity"]}}
