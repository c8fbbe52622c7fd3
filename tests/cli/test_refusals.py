"""Other settings, damaged files, missing parts: one sentence each, and nothing touched."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli.run import KEYS, cdeq, contents, key, refused, rows_of, tiny, weights

from cdeq.cli.run_folder import DONE
from cdeq.data.images import ImageSplits, load_digits
from cdeq.evaluation.audit import Audit, audit

STUDENTS = ["student-paper", "student-paper-no-aa", "student-best"]
TRAINED = ["teacher", *STUDENTS, "few-step-1", "few-step-3"]
RUN = ["train", "cache", "distill", "baseline", "evaluate", "demo"]


# What a demo leaves behind


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
    shares = ("", "evaluation/", "evaluation-baselines/")
    origins = {f"{share}recipe.json" for share in shares[1:]}
    assert changed == {f"{share}results.json" for share in shares} | origins
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
