"""Every command on a real recipe: what it leaves behind, skips, refuses and replaces."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli.run import KEYS, Ended, cdeq, contents, tiny, weights

from cdeq.cli.run_folder import DONE, ORIGIN, Stage, differences, write_json
from cdeq.data.images import ImageSplits, load_digits
from cdeq.evaluation.audit import Audit, audit
from cdeq.evaluation.metrics import ACCURACY
from cdeq.evaluation.sweep import score_few_step
from cdeq.models.vision.contraction import ContractionDEQ
from cdeq.report import Results

STUDENTS = ["student-paper", "student-paper-no-aa", "student-best"]
TRAINED = ["teacher", *STUDENTS, "few-step-1", "few-step-3"]
RUN = ["train", "cache", "distill", "evaluate", "demo"]


# What a demo leaves behind


def test_the_demo_runs_through_all_stages(demo: tuple[Path, Ended]) -> None:
    _, said = demo
    assert (said.code, said.err) == (0, "")
    order = [
        "training the teacher", "The teacher converges", "caching trajectories",
        *(f"distilling {name}" for name in STUDENTS),
        "training few-step 1", "training few-step 3", "evaluating on test",
        "accuracy on test", "Everything is in",
    ]  # fmt: skip
    places = [said.out.find(text) for text in order]
    assert -1 not in places
    assert places == sorted(places)


def test_nothing_is_said_twice(demo: tuple[Path, Ended]) -> None:
    for text in ("The teacher converges", "test accuracy", "student-best  ", "Everything is in"):
        tables = 3 if text == "student-best  " else 1
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
        *TRAINED, "cache", "evaluation", "results.json", "report.json", "report.md",
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
    iterative = ["picard", "anderson", "broyden", "few-step", *STUDENTS]
    assert seen == {("teacher", None), *((name, nfe) for name in iterative for nfe in (1, 3))}
    for metric in ("relative_error", "relative_residual"):
        scored = {row.model for row in results.rows if row.metric == metric and row.nfe}
        assert scored == set(iterative) - {"few-step"}, "a baseline has its own equation"
    assert {f"{name}_seconds" for name in TRAINED} < results.costs.keys()
    assert all(0.0 <= row.value <= 1.0 for row in results.rows if row.metric == "accuracy")


def test_the_report_is_the_results(finished: Path) -> None:
    assert Results.load(finished / "report.json") == Results.load(finished / "results.json")
    text = (finished / "report.md").read_text()
    assert len(re.findall(r"^\| student-best +\|", text, re.MULTILINE)) == 3


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
    for file in (finished / "cache").iterdir():
        assert (tmp_path / "cache" / file.name).read_bytes() == file.read_bytes()
    rows = [row for row in rows_of(finished) if row.model != "few-step"]
    assert rows_of(tmp_path) == rows


def rows_of(folder: Path) -> list:
    return list(Results.load(folder / "results.json").rows)


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


def refused(folder: Path, *words: object) -> str:
    before = contents(folder)
    said = cdeq(*words)
    assert said.code == 1
    assert contents(folder) == before
    assert said.err.count("\n") == 1, "one sentence"
    return said.err


@pytest.mark.parametrize(
    ("command", "key", "value", "stage", "says"),
    [
        ("train", "--teacher.plan.steps", 13, "teacher", "teacher.plan.steps was 12, now 13"),
        ("train", "--seed", 1, "teacher", "seed was 0, now 1"),
        ("train", "--network.factor", 0.9, "teacher", "network.factor was 0.98, now 0.9"),
        (
            "train",
            "--hardware.precision",
            "bf16-mixed",
            "teacher",
            "hardware.precision was 32-true",
        ),
        ("train", "--limit", 41, "teacher", "data.train was "),
        ("cache", "--teacher.loss.longest", 13, "teacher", "teacher.loss.longest was 12, now 13"),
        ("cache", "--trajectories.max-steps", 9, "cache", "max_steps: expected 9, found 8"),
        ("distill", "--student.loss.anchor-weight", 0.5, "student-paper", "anchor_weight was 0.8"),
        ("distill", "--student.mixing", 0.5, "student-paper", "student.mixing was 1.0, now 0.5"),
        ("distill", "--network.channels", 5, "teacher", "network.channels was 4, now 5"),
        ("evaluate", "--student.plan.steps", 10, "student-paper", "student.plan.steps was 9"),
        ("evaluate", "--few-step.clip", 0.5, "few-step-1", "few_step.clip was 1.0, now 0.5"),
        ("evaluate", "--evaluation.batch-size", 9, "evaluation", "batch_size was 512, now 9"),
        ("demo", "--seed", 3, "teacher", "seed was 0, now 3"),
    ],
)
def test_other_settings_are_refused_and_touch_nothing(
    finished: Path, command: str, key: str, value: object, stage: str, says: str
) -> None:
    words = (command, "digits_tiny", "--folder", finished, *KEYS, key, value)
    text = " ".join(refused(finished, *words).split())
    assert str(finished / stage) in text
    assert says in text
    assert "another" in text and "folder" in text


def test_a_stopped_stage_of_other_settings_is_refused_too(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    (tmp_path / "teacher" / DONE).unlink()
    text = refused(tmp_path, "train", "digits_tiny", "--folder", tmp_path, *KEYS, "--seed", 2)
    assert "seed was 0, now 2" in text


def test_keys_of_later_stages_do_not_bind_earlier_ones(copied: Path) -> None:
    assert tiny("train", copied, "--student.plan.steps", 99, "--evaluation.budgets", 2).code == 0
    assert tiny("cache", copied, "--student.plan.steps", 99, "--few-step.steps", 9).code == 0


# Fresh


def test_fresh_replaces_a_stage_and_nothing_else(copied: Path) -> None:
    before = contents(copied)
    said = tiny("train", copied, "--fresh", "--seed", "1")
    assert said.code == 0
    after = contents(copied)
    assert after["teacher/model.safetensors"] != before["teacher/model.safetensors"]
    assert {name: c for name, c in after.items() if not name.startswith("teacher/")} == {
        name: c for name, c in before.items() if not name.startswith("teacher/")
    }
    text = refused(copied, "distill", "digits_tiny", "--folder", copied, *KEYS, "--seed", "1")
    assert "teacher_weights was" in text


def test_a_fresh_run_of_the_same_settings_is_the_same(copied: Path) -> None:
    before = {name: weights(copied / name) for name in ("teacher", "student-paper")}
    assert tiny("train", copied, "--fresh").code == 0
    assert tiny("distill", copied, "--fresh", "--distil", "student-paper").code == 0
    assert {name: weights(copied / name) for name in before} == before


def test_fresh_removes_nothing_before_there_is_something_to_do(copied: Path) -> None:
    shutil.rmtree(copied / "cache")
    words = ("distill", "digits_tiny", "--folder", copied, *KEYS, "--fresh")
    assert "run `cdeq cache digits_tiny` first" in refused(copied, *words)


def test_a_fresh_evaluation_takes_other_settings(copied: Path) -> None:
    before, rows = contents(copied), rows_of(copied)
    said = tiny("evaluate", copied, "--fresh", "--evaluation.batch-size", 9)
    assert said.code == 0
    changed = {name for name, content in contents(copied).items() if content != before.get(name)}
    assert changed == {"results.json", "evaluation/recipe.json"}
    for row, other in zip(rows_of(copied), rows, strict=True):
        assert key(row) == key(other)
        assert row.value == pytest.approx(other.value, rel=1e-3, abs=1e-6)


# Order


@pytest.mark.parametrize("command", ["cache", "distill", "evaluate"])
def test_what_needs_a_teacher_says_so(tmp_path: Path, command: str) -> None:
    text = refused(tmp_path, command, "digits_tiny", "--folder", tmp_path / "run", *KEYS)
    assert "holds no trained teacher yet; run `cdeq train digits_tiny` first" in text
    assert not (tmp_path / "run").exists()


def test_distillation_needs_trajectories(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    text = refused(tmp_path, "distill", "digits_tiny", "--folder", tmp_path, *KEYS)
    assert "holds no trajectories yet; run `cdeq cache digits_tiny` first" in text
    assert "`--trajectories.online`" in text


def test_distillation_online_needs_no_cache(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    one = ("--distil", "student-paper", "--trajectories.online")
    said = tiny("cache", tmp_path, *one)
    assert "nothing to cache" in said.out
    assert tiny("distill", tmp_path, *one).code == 0
    assert not (tmp_path / "cache").exists()


def test_half_a_cache_is_finished_first(copied: Path) -> None:
    whole = contents(copied / "cache")
    shutil.rmtree(copied / "student-paper")
    (copied / "cache" / "shard-000000016.safetensors").unlink()
    words = ("distill", "digits_tiny", "--folder", copied, *KEYS)
    text = refused(copied, *words)
    assert "should have trajectories of 40 samples" in text
    assert "Here that is `cdeq cache digits_tiny`" in text
    assert tiny("cache", copied).code == 0
    assert contents(copied / "cache") == whole
    assert tiny("distill", copied).code == 0


# Damage


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("teacher/done.json", "{", "done.json is damaged"),
        ("teacher/done.json", '{"outcome": 3}', "done.json is damaged"),
        ("teacher/recipe.json", "[]", "recipe.json is damaged"),
        ("teacher/config.json", "{}", "holds no readable model"),
        ("teacher/model.safetensors", "x", "damaged or half replaced"),
        ("student-paper/config.json", "{}", "holds no readable model"),
        ("results.json", "{", "results.json"),
    ],
)
def test_damaged_files_are_named(copied: Path, file: str, content: str, says: str) -> None:
    (copied / file).write_text(content)
    text = refused(copied, "evaluate", "digits_tiny", "--folder", copied, *KEYS)
    assert says in text


def test_records_without_an_origin_are_damaged(copied: Path) -> None:
    (copied / "teacher/recipe.json").unlink()
    text = refused(copied, "train", "digits_tiny", "--folder", copied, *KEYS)
    assert "recipe.json is damaged" in text and "--fresh" in text


def test_missing_results_are_made_again(copied: Path) -> None:
    rows = rows_of(copied)
    (copied / "results.json").unlink()
    assert tiny("evaluate", copied).code == 0
    assert rows_of(copied) == rows


@pytest.mark.parametrize("place", ["run", "run/teacher"])
def test_a_file_where_a_folder_should_be(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("in the way")
    text = refused(tmp_path, "train", "digits_tiny", "--folder", tmp_path / "run", *KEYS)
    assert "run" in text


# Leaks


@pytest.mark.parametrize("command", ["train", "distill"])
def test_test_labels_decide_nothing(
    command: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, validation, selection: all of it is the same when the test set is another."""

    def scrambled(*, limit: int | None = None) -> ImageSplits:
        parts = load_digits(limit=limit)
        test = replace(
            parts.test, label=(parts.test.label + 1) % 10, image=parts.test.image.flip(0, 2)
        )
        return parts._replace(test=test)

    names = {"train": ["teacher"], "distill": STUDENTS}[command]
    for name in () if command == "train" else ("teacher", "cache"):
        shutil.copytree(finished / name, tmp_path / name)
    monkeypatch.setattr("cdeq.recipes.vision.load_digits", scrambled)
    assert tiny(command, tmp_path).code == 0
    for name in names:
        assert weights(tmp_path / name) == weights(finished / name)


def test_validation_labels_do_decide(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would notice: other validation labels select other weights."""
    seen: list[torch.Tensor] = []

    def scrambled(*, limit: int | None = None) -> ImageSplits:
        parts = load_digits(limit=limit)
        label = (parts.validation.label * 7 + 3) % 10
        seen.append(label)
        return parts._replace(validation=replace(parts.validation, label=label))

    monkeypatch.setattr("cdeq.recipes.vision.load_digits", scrambled)
    assert tiny("train", tmp_path).code == 0
    assert seen
    logged = [(finished / "teacher"), (tmp_path / "teacher")]
    scores = [
        [row["best_validation"] for row in csv.DictReader(read(folder).splitlines())]
        for folder in logged
    ]
    assert scores[0] != scores[1]


def read(folder: Path) -> str:
    return (folder / "logs/from-0/metrics.csv").read_text()


# What a teacher is worth


def test_a_teacher_that_does_not_converge_is_reported_before_it_is_distilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pessimistic(*words: object, **settings: object) -> Audit:
        return replace(audit(*words, **settings), residual_median=float("inf"))

    monkeypatch.setattr("cdeq.cli.stages.audit", pessimistic)
    said = tiny("demo", tmp_path, "--distil", "student-paper")
    assert said.code == 0
    warnings = [
        "The teacher does NOT converge: distilling it is pointless.",
        "student-paper: its teacher does not converge, so there is no end to distil.",
        "distilling student-paper",
    ]
    places = [said.out.find(text) for text in warnings]
    assert -1 not in places
    assert places == sorted(places)
    held = json.loads((tmp_path / "teacher/audit.json").read_text(), parse_constant=pytest.fail)
    assert (held["converges"], held["residual_median"]) == (False, "Infinity")


def test_the_deviations_of_the_released_code_run_as_well(tmp_path: Path) -> None:
    words = ("--folder", tmp_path, *KEYS, "--teacher.loss.longest", 12)
    assert cdeq("demo", "digits_released", *words).code == 0
    config = json.loads((tmp_path / "student-paper/config.json").read_text())
    assert config["readout"] == "MLPReadout"
    found = {(row.model, row.nfe): row.value for row in rows_of(tmp_path)}
    assert {name for name, _ in found} >= set(STUDENTS)
    assert all(value >= 0.0 for value in found.values())


# Reports


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
        assert row.value == pytest.approx(float(values.mean()))
        assert row.spread == pytest.approx(float(values.std()))
    assert "mean ± standard deviation over 2 seeds" in said.out


def key(row: object) -> tuple:
    return row.model, row.nfe, row.metric, row.split  # type: ignore[attr-defined]


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
    found = {"a": {"b": 1, "c": [1, 2]}, "d": None, "gone": 0}
    wanted = {"a": {"b": 1, "c": [1, 3]}, "d": "x", "new": True}
    assert list(differences(found, wanted)) == [
        "a.c was [1, 2], now [1, 3]",
        "d was None, now x",
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
