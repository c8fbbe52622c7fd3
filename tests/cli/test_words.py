"""What the command line says: help that can be read, mistakes that name the nearest match."""

import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from cli.run import SOURCE, cdeq

from cdeq import Anderson
from cdeq.cli.commands import COMMANDS
from cdeq.cli.generating import Generate
from cdeq.cli.keys import descriptions, has_no_key, key_lines
from cdeq.cli.main import OTHER_COMMANDS
from cdeq.cli.predicting import Predict
from cdeq.cli.stages import Run
from cdeq.recipes import RECIPES
from cdeq.recipes.graph_explicit import EXPLICIT
from cdeq.training.plan import Plan

each_recipe = pytest.mark.parametrize("name", RECIPES)

LINES = {"demo": 700, "distill": 330, "explicit": 260, "train": 200}
"""How long help may be: of all keys, three kinds of students, four networks; others less."""


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]], ids=str)
def test_the_overview_names_every_command_and_recipe(words: list[str]) -> None:
    said = cdeq(*words)
    assert said.code == 0
    names = [*COMMANDS, *OTHER_COMMANDS, *RECIPES]
    for name in names:
        assert re.search(rf"^  {name} ", said.out, re.MULTILINE)
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 10 + 2 * len(names), "two lines a name at most"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_itself(command: str) -> None:
    said = cdeq(command, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: cdeq {command} RECIPE [--key value …]\n")
    assert COMMANDS[command].summary in said.out
    assert all(name in said.out for name in RECIPES)
    assert cdeq(command).code == 2


def test_recipes_are_listed() -> None:
    said = cdeq("recipes")
    assert said.code == 0
    assert len(re.findall(r"^  \w", said.out, re.MULTILINE)) == len(RECIPES)


@pytest.mark.parametrize("command", COMMANDS)
@each_recipe
def test_help_fits_a_terminal_and_shows_no_marks(command: str, name: str) -> None:
    said = cdeq(command, name, "--help")
    assert said.code == 0
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < LINES.get(command, 150)
    assert not re.search(r":math:|\.\. |0x|\\|<function|\bNone:", said.out)


def unfolded(text: str) -> str:
    """Options that were too long for a line, in one."""
    return re.sub(r"\n {6}(?=\S)", " ", text)


def options(text: str) -> list[str]:
    """The keys that a help lists."""
    return re.findall(r"^  (--\S+)", text, re.MULTILINE)


OWN = {key for own in (Generate(), Predict()) for key in options("\n".join(key_lines(own, 80)))}
"""Keys of one command alone."""


def test_help_shows_what_matters_and_demo_shows_all() -> None:
    shown = {command: set(options(cdeq(command, "digits", "--help").out)) for command in COMMANDS}
    for command, keys in shown.items():
        assert {"--folder", "--fresh,"} <= keys <= shown["demo"] | OWN, command
    assert "--teacher.plan.steps" in shown["train"]
    assert not any(key.startswith(("--student", "--few-step")) for key in shown["train"])
    assert {"--student.plan.steps", "--hyper.plan.steps", "--distil"} <= shown["distill"]
    assert "--evaluation.budgets" in shown["evaluate"]
    assert not any(key.startswith("--gcn") for keys in shown.values() for key in keys)


def test_networks_are_explained_where_a_recipe_compares_with_them() -> None:
    shown = set(options(cdeq("explicit", "chains", "--help").out))
    for name in EXPLICIT:
        assert {f"--{name}.network.hidden", f"--{name}.plan.steps", "--explicit"} <= shown
    assert not any(key.startswith(("--network", "--student")) for key in shown)


@each_recipe
def test_every_key_in_the_help_is_accepted_with_its_default(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives the recipe itself."""
    seen: list[Run] = []
    monkeypatch.setattr("cdeq.cli.main.start", lambda command, run: seen.append(run))
    words: list[str] = []
    for line in unfolded(cdeq("demo", name, "--help").out).splitlines():
        listed = re.match(r"  (--[\w.-]+)(?:, (--[\w.-]+) \((yes|no)\))?(.*)", line)
        if listed and not listed[1].startswith(("--folder", "--fresh")):
            yes, no, default, values = listed.groups()
            chosen = {None: yes, "yes": yes, "no": no}[default]
            words += [chosen, *values.split()]
    assert len(words) > 80
    assert cdeq("evaluate", name, "--folder", tmp_path / "run", *words).code == 0
    assert [run.recipe for run in seen] == [RECIPES[name]()]


@each_recipe
def test_the_help_lists_every_setting_that_can_be_typed(name: str) -> None:
    recipe = RECIPES[name]()
    listed = options(cdeq("demo", name, "--help").out)
    assert {key.rstrip(",") for key in listed} == {
        "--folder", "--fresh", *(f"--{path.replace('_', '-')}" for path in leaves(recipe)),
    }  # fmt: skip


def leaves(settings: object, prefix: str = "") -> list[str]:
    paths: list[str] = []
    for field in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if is_dataclass(value):
            paths += leaves(value, f"{prefix}{field.name}.")
        elif not (callable(value) or has_no_key(settings, field.name)):
            paths.append(prefix + field.name)
    return paths


@each_recipe
def test_every_setting_is_explained(name: str) -> None:
    """A key with nothing under it helps nobody."""
    lines = unfolded(cdeq("demo", name, "--help").out).splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("  --"):
            assert after.startswith("    "), line


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trian", "digits"], "there is no command 'trian'; did you mean 'train'?"),
        (["reports"], "there is no command 'reports'; did you mean 'report'?"),
        (["xyz"], "there is no command 'xyz'; known: train, cache, distill, baseline, "),
        (["train", "digitz"], "there is no recipe 'digitz'; did you mean 'digits'?"),
        (
            ["demo", "digits_tinny"],
            "there is no recipe 'digits_tinny'; did you mean 'digits_tiny'?",
        ),
        (["demo", "mnist1d"], "there is no recipe 'mnist1d'; known: digits, "),
    ],
)
def test_unknown_words_name_the_nearest(words: list[str], text: str) -> None:
    said = cdeq(*words)
    assert said.code == 1
    assert said.err.startswith(f"cdeq: {text}")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("--teacher.plan.stepz", "--teacher.plan.steps INT"),
        ("--student.loss.anchor-wieght", "--student.loss.anchor-weight FLOAT"),
        ("--sed", "--seed INT"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, near: str, tmp_path: Path) -> None:
    said = cdeq("train", "digits_tiny", "--folder", tmp_path / "run", key, "3")
    assert said.code == 2
    assert "Unrecognized options" in said.err
    assert near in said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--teacher.plan.steps", "many"], "invalid"),
        (["--teacher.plan.steps"], "--teacher.plan.steps"),
        (["--hardware.precision", "bf17"], "32-true"),
        (["--hardware.strategy", "fsdp"], "ddp"),
        (["--trajectories.dtype", "int8"], "bfloat16"),
        (["--distil", "student-worst"], "student-paper"),
        (["--student.loss.distance", "l1"], "Unrecognized"),
    ],
)
def test_a_value_of_another_kind_says_what_is_expected(
    words: list[str], text: str, tmp_path: Path
) -> None:
    said = cdeq("train", "digits_tiny", "--folder", tmp_path / "run", *words)
    assert said.code == 2
    assert text in said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--teacher.plan.steps", "0"], "`steps` is a count of at least 1; got 0"),
        (["--seed", "-1"], "`seed` is a whole number from 0 to"),
        (["--limit", "0"], "`limit` is a count of at least 1; got 0"),
        (["--network.factor", "1.5"], "contraction factor"),
        (["--student.mixing", "0"], "relaxation"),
        (["--student.loss.anchor-weight", "1.2"], "`anchor_weight` is a mixing weight in [0, 1]"),
        (["--student.boundary.span.eps", "0.1"], "speak of one virtual time"),
        (["--student.no-accelerate"], "choose the one without AA by `distil`"),
        (["--evaluation.budgets", "2", "1"], "at least one and ascending; got (2, 1)"),
        (["--hardware.devices", "0"], "`devices` is a count of at least 1"),
        (["--hardware.accelerator", "abacus"], "training needs hardware that is there"),
        (["--network.classes", "9"], "the digits have 10 classes; got a network for 9"),
        (["--network.size", "9"], "built for images of shape (1, 9, 9)"),
    ],
)
def test_an_impossible_value_is_one_sentence_and_leaves_no_model(
    words: list[str], text: str, tmp_path: Path
) -> None:
    said = cdeq("train", "digits_tiny", "--folder", tmp_path / "run", *words)
    assert said.code in (1, 2)
    assert text in " ".join(said.err.replace("│", " ").split())
    assert "Traceback" not in said.err
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("command", ["report", "bench", "compare", "combine"])
def test_the_other_commands_explain_themselves(command: str) -> None:
    said = cdeq(command, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: cdeq {command} ")
    assert "--output" in said.out
    assert cdeq(command, "--outptu", "x").code == 2


def test_a_process_exits_with_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cdeq.cli.main", "trian"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "cdeq: there is no command 'trian'; did you mean 'train'?\n"


# The listing itself


def test_descriptions_are_those_of_the_docstrings() -> None:
    said = dict(descriptions(Plan))
    assert set(said) == {field.name for field in fields(Plan)}
    assert said["clip"] == "The largest gradient norm; 0 does not clip."
    assert said["validate_every"].endswith("the best weights are kept. 0 keeps the last.")


def test_formulas_lose_their_marks() -> None:
    assert dict(descriptions(Anderson))["mixing"] == "The relaxation β ∈ (0, 1]."


def test_lines_keep_to_the_width() -> None:
    for width in (40, 60, 100):
        for line in key_lines(RECIPES["digits"](), width):
            assert len(line) <= width or len(line.split()) == 1, "a word is never broken"


def test_a_folded_option_is_the_same_option() -> None:
    narrow, wide = ("\n".join(key_lines(Plan(steps=1), width)) for width in (30, 1000))
    assert narrow != wide
    assert options(unfolded(narrow)) == options(wide)
    values = re.findall(r"^  --.*", wide, re.MULTILINE)
    assert re.findall(r"^  --.*", unfolded(narrow), re.MULTILINE) == values


def test_only_the_fields_asked_for_are_listed() -> None:
    text = "\n".join(key_lines(RECIPES["digits"](), 80, only=("seed", "evaluation")))
    assert options(text) == [
        "--seed", "--evaluation.budgets", "--evaluation.reference-steps",
        "--evaluation.reference-tol", "--evaluation.certify-tol", "--evaluation.certify-steps",
        "--evaluation.solvers", "--evaluation.cost-budgets", "--evaluation.cost-rounds",
        "--evaluation.probed", "--evaluation.splits", "--evaluation.batch-size",
        "--evaluation.intervals,", "--evaluation.only",
    ]  # fmt: skip
