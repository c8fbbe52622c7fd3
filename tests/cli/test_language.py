"""Language models from the command line: every stage, from a text of one's own to its table."""

import shutil
from pathlib import Path

import pytest
import torch
from cli.run import Ended, cdeq, contents, refused, rows_of, weights
from safetensors.torch import load_file

from cdeq.report import Results

STEPS = [
    "--network.features", "8",
    "--network.heads", "2",
    "--network.inner", "8",
    "--network.memory", "8",
    "--network.adjoint-steps", "3",
    "--length", "6",
    "--streams", "4",
    "--teacher.loss.shortest", "4",
    "--teacher.loss.longest", "6",
    "--teacher.plan.steps", "4",
    "--teacher.plan.batch-size", "4",
    "--teacher.plan.validate-every", "2",
    "--teacher.pretraining.plan.steps", "3",
    "--teacher.pretraining.plan.batch-size", "4",
    "--trajectories.max-steps", "6",
    "--trajectories.samples", "16",
    "--student.plan.steps", "3",
    "--best.plan.steps", "3",
    "--hyper.plan.steps", "2",
    "--hyper.longest", "3",
    "--few-step.steps", "2",
    "--few-step.batch-size", "4",
    "--few-step.validate-every", "0",
    "--few-step-budgets", "1",
    "--explicit", "transformer_xl", "qrnn",
    "--transformer-xl.network.features", "8",
    "--transformer-xl.network.heads", "2",
    "--transformer-xl.network.inner", "8",
    "--transformer-xl.plan.steps", "2",
    "--transformer-xl.plan.batch-size", "4",
    "--transformer-xl.plan.validate-every", "0",
    "--qrnn.network.features", "8",
    "--qrnn.network.hidden", "8",
    "--qrnn.plan.steps", "2",
    "--qrnn.plan.batch-size", "4",
    "--qrnn.plan.validate-every", "0",
    "--evaluation.budgets", "1", "2",
    "--evaluation.reference-steps", "12",
    "--evaluation.cost-budgets", "1",
    "--evaluation.cost-rounds", "1",
    "--evaluation.probed", "8",
]  # fmt: skip
"""`own_text` with networks of a few features, trained for a few steps."""

STUDENTS = ("student-paper", "student-paper-no-aa", "student-best", "hyperdeq")
EXPLICIT = ("transformer_xl", "qrnn")
TRAINED = ("pretraining", "teacher", *STUDENTS, "few-step-1", *EXPLICIT)
WORDS = ("one", "two", "three", "four", "five", "six", "seven")


def small(command: str, root: Path, *more: object) -> Ended:
    source = ["--source.path", root / "text.txt"]
    return cdeq(command, "own_text", "--folder", root / "run", *source, *STEPS, *more)


def write_text(root: Path, lines: int = 300) -> None:
    """Lines that count, from a word that is drawn."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(0, len(WORDS), (lines,), generator=generator).tolist()
    text = "".join(
        " ".join(WORDS[(start + i) % len(WORDS)] for i in range(5)) + "\n" for start in starts
    )
    (root / "text.txt").write_text(text)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    root = tmp_path_factory.mktemp("language")
    write_text(root)
    return root, small("demo", root)


@pytest.fixture(scope="module")
def finished(demo: tuple[Path, Ended]) -> Path:
    """The folder of text and run, not to be changed."""
    return demo[0]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_the_demo_trains_everything_in_order(demo: tuple[Path, Ended]) -> None:
    root, said = demo
    assert (said.code, said.err) == (0, "")
    order = [
        "pre-training", "training the teacher", "The teacher ",
        *(f"distilling {name}" for name in STUDENTS),
        "training few-step 1", *(f"training {name} " for name in EXPLICIT),
        "evaluating  ", "perplexity on test", "Everything is in",
    ]  # fmt: skip
    places = [said.out.find(text) for text in order]
    assert -1 not in places
    assert places == sorted(places)
    folders = {path.name for path in (root / "run").iterdir() if path.is_dir()}
    assert folders == {*TRAINED, "evaluation", "evaluation-baselines", "memory"}


def test_every_model_has_a_perplexity(finished: Path) -> None:
    assert Results.load(finished / "run/results.json").task == "language modelling"
    rows = [row for row in rows_of(finished / "run") if row.metric == "perplexity"]
    iterative = ("picard", "anderson", *STUDENTS)
    behind = ("student-paper-then-solver", "student-paper-no-aa-then-solver")
    expected = {(name, nfe) for name in (*iterative, *behind) for nfe in (1, 2)}
    ones = {("teacher", None), ("few-step", 1), *((name, None) for name in EXPLICIT)}
    assert {(row.model, row.nfe) for row in rows} == expected | ones
    assert all(1.0 < row.value < 100.0 for row in rows)


def test_the_ratio_is_to_the_very_teacher(finished: Path) -> None:
    rows = rows_of(finished / "run")
    found = {(row.model, row.nfe): row.value for row in rows if row.metric == "perplexity"}
    ratios = {(row.model, row.nfe): row.value for row in rows if row.metric == "ratio_converged"}
    assert ratios
    for key, ratio in ratios.items():
        assert ratio == pytest.approx(found[key] / found["teacher", None], rel=1e-9)


def test_what_is_done_is_done(finished: Path) -> None:
    before = contents(finished)
    said = small("demo", finished)
    assert (said.code, said.err) == (0, "")
    assert contents(finished) == before


def test_a_teacher_goes_on_where_it_was_stopped(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its second half, it remembers what its streams have read."""
    from cdeq.training.teacher import TeacherObjective

    shutil.copy(finished / "text.txt", tmp_path)
    forward, done = TeacherObjective.forward, [0]

    def dying(self: TeacherObjective, *arguments: object) -> object:
        if done[0] == 3:
            raise Died
        done[0] += 1
        return forward(self, *arguments)  # type: ignore[arg-type]

    often = ("--teacher.plan.checkpoint-every", "1")
    with monkeypatch.context() as patch:
        patch.setattr(TeacherObjective, "forward", dying)
        with pytest.raises(Died):
            small("train", tmp_path, *often)
    assert small("train", tmp_path, *often).code == 0
    uninterrupted = load_file(finished / "run/teacher/model.safetensors")
    continued = load_file(tmp_path / "run/teacher/model.safetensors")
    assert uninterrupted.keys() == continued.keys()
    assert all(torch.equal(uninterrupted[name], continued[name]) for name in continued)


def test_networks_for_few_steps_begin_where_the_teacher_does(
    finished: Path, tmp_path: Path
) -> None:
    """Hardly moved, they are the pre-trained network; pre-training is done once for all."""
    shutil.copy(finished / "text.txt", tmp_path)
    still = ("--few-step.learning-rate", "1e-12")
    for times in (1, 0):
        said = small("baseline", tmp_path, *still, "--few-step-budgets", "1", "2", "--fresh")
        assert (said.code, said.err) == (0, "")
        assert said.out.count("pre-training ") == times
    assert weights(tmp_path / "run/pretraining") == weights(finished / "run/pretraining")
    begun = load_file(finished / "run/pretraining/model.safetensors")
    for steps in (1, 2):
        ended = load_file(tmp_path / f"run/few-step-{steps}/model.safetensors")
        assert all(torch.allclose(begun[name], ended[name], atol=1e-9) for name in begun)


class Died(BaseException):
    """The process is gone."""


def test_another_text_is_refused(copied: Path) -> None:
    text = copied / "text.txt"
    text.write_text(text.read_text().replace("one two", "two one"))
    words = ["own_text", "--folder", copied / "run", "--source.path", text, *STEPS]
    said = refused(copied / "run", "distill", *words)
    assert "data.train was " in " ".join(said.split())


def test_going_on_with_a_prompt_takes_no_data(copied: Path) -> None:
    """The folder says which words there are."""
    for path in copied.glob("text.*"):
        path.unlink()
    said = small("generate", copied, "--prompt", "one two", "--tokens", "2")
    assert (said.code, said.err) == (0, "")


def test_a_prompt_goes_on(finished: Path) -> None:
    before = weights(finished / "run/teacher")
    said = small("generate", finished, "--prompt", "one two three", "--tokens", "4")
    assert (said.code, said.err) == (0, "")
    _, _, after = said.out.partition("one two three …")
    assert "student-best" in after and "tokens a second" in after
    new = [word for word in after.split() if word in (*WORDS, "<eos>")]
    assert len(new) >= 8, "four tokens each of teacher and student"
    assert weights(finished / "run/teacher") == before
