"""Images from the command line: every stage, files that are classified, folders of one's own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli.run import Ended, cdeq, contents, refused, rows_of, weights
from image_files import CLASSES, fill, no_image
from rich.console import Console

from cdeq.cli.measuring import Ready
from cdeq.cli.predicting import Predict, Prediction, predict
from cdeq.cli.scoring import trained_students
from cdeq.cli.stages import Run
from cdeq.consistency.refine import refine
from cdeq.core.solve import solve
from cdeq.data.framing import Framing
from cdeq.data.labels import Labels
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.mdeq import MDEQ
from cdeq.recipes import image
from cdeq.recipes.image import LABELS, ImageRecipe
from cdeq.report import Results

STEPS = [
    "--source.framing.size", "8",
    "--source.framing.resize", "8",
    "--network.channels", "4", "4",
    "--network.groups", "2",
    "--network.expansion", "1",
    "--network.strides", "1",
    "--network.head", "1", "1",
    "--network.features", "4",
    "--augmentation.padding", "1",
    "--teacher.plan.steps", "4",
    "--teacher.plan.batch-size", "8",
    "--teacher.plan.validate-every", "2",
    "--teacher.pretraining.plan.steps", "2",
    "--trajectories.max-steps", "6",
    "--student.plan.steps", "3",
    "--best.plan.steps", "3",
    "--hyper.plan.steps", "2",
    "--hyper.longest", "3",
    "--few-step.steps", "2",
    "--few-step.validate-every", "0",
    "--few-step-budgets", "1",
    "--explicit", "bn_inception", "hrnet",
    "--bn-inception.network.width", "0.03",
    "--bn-inception.plan.steps", "2",
    "--bn-inception.plan.validate-every", "0",
    "--hrnet.network.widths", "4", "4",
    "--hrnet.network.modules", "1",
    "--hrnet.network.head", "2", "2",
    "--hrnet.network.strides", "1", "1",
    "--hrnet.plan.steps", "2",
    "--hrnet.plan.validate-every", "0",
    "--evaluation.budgets", "1", "2",
    "--evaluation.reference-steps", "12",
    "--evaluation.cost-budgets", "1",
    "--evaluation.cost-rounds", "1",
]  # fmt: skip
"""`own_images` with networks of a few channels, trained for a few steps."""

STUDENTS = ("student-paper", "student-paper-no-aa", "student-best", "hyperdeq")
EXPLICIT = ("bn_inception", "hrnet")
TRAINED = ("pretraining", "teacher", *STUDENTS, "few-step-1", *EXPLICIT)


def small(command: str, root: Path, *more: object) -> Ended:
    source = ["--source.path", root / "pictures"]
    return cdeq(command, "own_images", *more, "--folder", root / "run", *source, *STEPS)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    root = tmp_path_factory.mktemp("images")
    fill(root / "pictures", (14, 15, 16))
    return root, small("demo", root)


@pytest.fixture(scope="module")
def finished(demo: tuple[Path, Ended]) -> Path:
    """The folder of pictures and run, not to be changed."""
    return demo[0]


@pytest.fixture(scope="module")
def run(finished: Path) -> Run:
    from cdeq.cli import main

    seen: list[Run] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "start", lambda command, run: seen.append(run))
        small("evaluate", finished)
    return seen[0]


def test_the_demo_trains_everything_in_order(demo: tuple[Path, Ended]) -> None:
    root, said = demo
    assert (said.code, said.err) == (0, "")
    order = [
        "pre-training", "training the teacher", "The teacher ",
        *(f"distilling {name}" for name in STUDENTS),
        "training few-step 1", *(f"training {name} " for name in EXPLICIT),
        "evaluating  ", "accuracy on test", "Everything is in",
    ]  # fmt: skip
    places = [said.out.find(text) for text in order]
    assert -1 not in places
    assert places == sorted(places)
    folders = {path.name for path in (root / "run").iterdir() if path.is_dir()}
    assert folders == {*TRAINED, "evaluation"}


def test_every_model_is_scored(finished: Path) -> None:
    assert Results.load(finished / "run/results.json").task == "image classification"
    scored = {(r.model, r.nfe) for r in rows_of(finished / "run") if r.metric == "accuracy"}
    iterative = ("picard", "anderson", "broyden", *STUDENTS)
    behind = ("student-paper-then-solver", "student-paper-no-aa-then-solver")
    expected = {(name, nfe) for name in (*iterative, *behind) for nfe in (1, 2)}
    ones = {("teacher", None), ("few-step", 1), *((name, None) for name in EXPLICIT)}
    assert scored == expected | ones


def test_what_is_done_is_done(finished: Path) -> None:
    before = contents(finished)
    said = small("demo", finished)
    assert (said.code, said.err) == (0, "")
    assert contents(finished) == before


def test_further_images_are_scored_by_the_same_rule(
    finished: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The test set once more, under another name: the same numbers once more."""
    again = {"again": run.data.test}
    monkeypatch.setattr(ImageRecipe, "further_data", lambda self: again)
    monkeypatch.setattr(image, "MANY", 3)
    with Restored(finished / "run"):
        assert small("evaluate", finished, "--fresh").code == 0
        rows = rows_of(finished / "run")
    by_split = {
        split: {(r.model, r.nfe, r.metric): r.value for r in rows if r.split == split}
        for split in ("test", "again")
    }
    assert by_split["again"].items() <= by_split["test"].items()
    five = {key for key in by_split["again"] if key[2] == "accuracy_top5"}
    assert {(*key[:2], "accuracy") for key in five} <= by_split["again"].keys()
    assert {by_split["again"][key] for key in five} == {1.0}, "three classes are among five"
    assert {key[0] for key in five} >= {"teacher", "few-step", "student-best", *EXPLICIT}


class Restored:
    """What a folder held is put back."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, contents(folder)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for name in contents(self.folder).keys() - self.before.keys():
            (self.folder / name).unlink()
        for name, content in self.before.items():
            (self.folder / name).write_bytes(content)


def test_augmentation_decides_what_is_trained(finished: Path) -> None:
    words = ["own_images", "--folder", finished / "run", *STEPS]
    source = ["--source.path", finished / "pictures"]
    text = refused(finished, "train", *words, *source, "--augmentation.padding", "2")
    assert "augmentation.padding was 1, now 2" in " ".join(text.split())


# What was left out of a folder


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    fill(tmp_path / "pictures", (14, 15, 16))
    no_image(tmp_path / "pictures/bee/notes.txt")
    said = small("train", tmp_path, "--source.unusable", "skip")
    assert (said.code, said.err) == (0, "")
    assert "bee/notes.txt is no image" in " ".join(said.out.split())


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "pictures", (14, 15, 16))
    no_image(tmp_path / "pictures/bee/notes.txt")
    said = small("train", tmp_path)
    assert said.code == 1
    assert "bee/notes.txt is no image" in " ".join(said.err.split())


def test_a_folder_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    said = small("train", tmp_path)
    assert said.code == 1
    assert f"there is no folder {tmp_path}/pictures" in " ".join(said.err.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--source.framing.size", "7"), "a multiple of that; got images of 7 × 7"),
        (("--explicit", "alexnet"), "alexnet with these settings takes images of 15 × 15"),
    ],
)
def test_images_that_a_network_does_not_take_are_refused_before_anything(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    fill(tmp_path / "pictures", (14, 15, 16))
    source = ["--source.path", tmp_path / "pictures"]
    said = cdeq("train", "own_images", "--folder", tmp_path / "run", *source, *STEPS, *words)
    assert said.code == 1
    assert says in said.err
    assert not (tmp_path / "run").exists()


def test_students_can_learn_from_some_of_the_images(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run/teacher", tmp_path / "run/teacher")
    source = ["--source.path", finished / "pictures", "--folder", tmp_path / "run"]
    few = ("--distil", "student-best", "--trajectories.samples", "9")
    said = cdeq("distill", "own_images", *source, *STEPS, *few)
    assert (said.code, said.err) == (0, "")
    assert weights(tmp_path / "run/student-best") != weights(finished / "run/student-best")


# Files that are classified

FILES = 5


def files_of(root: Path) -> tuple[Path, ...]:
    return tuple(sorted((root / "pictures").rglob("*.png"))[::9][:FILES])


def asked(run: Run, root: Path, **changes: object) -> list[Prediction]:
    teacher, labels = run.teacher(), Labels.load(run.folder / "teacher" / LABELS)
    assert isinstance(teacher, MDEQ)
    options = Predict(images=files_of(root), **changes)  # type: ignore[arg-type]
    return predict(options, teacher, students_of(run), labels, Console(quiet=True))


def students_of(run: Run) -> dict[str, Ready]:
    found = trained_students(run, run.teacher())
    return {name: Ready(one, run.recipe.students[name].inference) for name, one in found.items()}


def probabilities(run: Run, root: Path, by: str, nfe: int) -> Iterator[tuple[Path, torch.Tensor]]:
    """One file at a time, by the library alone."""
    model = run.teacher().eval()
    for path in files_of(root):
        pixels = Framing(size=8, resize=8).decode(path).unsqueeze(0).float() / 255
        with torch.no_grad():
            x = model.encode(ImageBatch(pixels, torch.zeros(1, dtype=torch.long)))
            if by == "teacher":
                z = solve(model.bind(x), model.initial(x), model.deq.solver, max_steps=nfe).z
            else:
                student, times = students_of(run)[by]
                *_, z = refine(student, x, model.initial(x), times.times(nfe))
            yield path, model.decode(z, x).softmax(1)[0]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("by", ["teacher", "student-best", "student-paper", "hyperdeq"])
def test_answers_are_those_of_the_library(
    run: Run, finished: Path, by: str, batch_size: int
) -> None:
    """Whoever is in the batch besides, in the order of the files."""
    found = asked(run, finished, by=(by,), nfe=3, max_steps=3, tol=1e-6, batch_size=batch_size)
    expected = [*probabilities(run, finished, by, 3)]
    assert [one.image for one in found] == [path for path, _ in expected]
    for one, (_, shares) in zip(found, expected, strict=True):
        assert set(one.classes) == set(CLASSES)
        named = torch.tensor([shares[CLASSES.index(name)] for name in one.classes])
        assert torch.allclose(torch.tensor(one.probabilities), named, atol=1e-6)
        assert list(one.probabilities) == sorted(one.probabilities, reverse=True)
        assert (one.evaluations, one.missed, one.by) == (3, by == "teacher", by)


def test_several_answer_side_by_side(run: Run, finished: Path) -> None:
    """Image by image, each of them once."""
    both = asked(run, finished, by=("student-best", "teacher", "student-best"), batch_size=2)
    assert [one.by for one in both] == ["student-best", "teacher"] * FILES
    assert both[::2] == asked(run, finished, by=("student-best",), batch_size=2)
    assert [one.image for one in both[::2]] == [*files_of(finished)]


def test_as_many_classes_as_are_asked_for(run: Run, finished: Path) -> None:
    for top in (1, 2):
        assert {len(one.classes) for one in asked(run, finished, top=top)} == {top}


def test_every_answer_is_shown_in_whole(
    run: Run, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However narrow the terminal: the file, the classes, probabilities and evaluations."""
    before, path = contents(finished), files_of(finished)[0]
    monkeypatch.setenv("COLUMNS", "40")
    said = small("predict", finished, path, "--by", "teacher", "student-best", "--nfe", "1")
    assert (said.code, said.err) == (0, "")
    file, *lines = said.out.strip().splitlines()
    assert file == str(path)
    expected = asked(run, finished, by=("teacher", "student-best"), nfe=1)[:2]
    for line, one in zip(lines, expected, strict=False):
        pairs = zip(one.classes, one.probabilities, strict=True)
        named = ", ".join(f"{name} {share:.1%}" for name, share in pairs)
        spent = f"{one.evaluations}{'*' if one.missed else ''} evaluation"
        assert line.startswith(f"  {one.by:<12}  {named} ({spent}")
    assert contents(finished) == before


def test_files_are_classified_without_the_images_of_training(
    finished: Path, tmp_path: Path
) -> None:
    """A trained folder is enough, wherever it was brought."""
    shutil.copytree(finished / "run", tmp_path / "run")
    path = files_of(finished)[0]
    words = ("predict", "own_images", path, "--folder", tmp_path / "run", "--by", "student-best")
    away, here = cdeq(*words), small("predict", finished, path, "--by", "student-best")
    assert (away.code, away.out) == (0, here.out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "there is nothing to classify; name image files behind the recipe."),
        (("gone.png",), "gone.png cannot be read as an image"),
        (("{files}", "--by", "student-bset"), "there is no trained 'student-bset' to ask"),
        (("{files}", "--nfe", "0"), "`nfe` is a count of at least 1; got 0."),
    ],
    ids=str,
)
def test_what_cannot_be_classified_is_refused(
    finished: Path, words: tuple[str, ...], says: str
) -> None:
    path = str(files_of(finished)[0])
    said = small("predict", finished, *(word.format(files=path) for word in words))
    assert said.code == 1
    assert says in " ".join(said.err.split())
    assert said.err.count("\n") == 1, "one sentence"


def test_a_file_that_is_no_image_is_refused_or_left_out(finished: Path, tmp_path: Path) -> None:
    no_image(tmp_path / "notes.txt")
    files = (tmp_path / "notes.txt", files_of(finished)[0])
    said = small("predict", finished, *files)
    assert said.code == 1
    assert "notes.txt is no image" in " ".join(said.err.split())
    said = small("predict", finished, *files, "--unusable", "skip")
    assert (said.code, said.err) == (0, "")
    assert "notes.txt is no image" in " ".join(said.out.split())
    said = small("predict", finished, files[0], "--unusable", "skip")
    assert said.code == 1
    assert "none of the files is an image" in said.err


def test_other_recipes_classify_no_files(tmp_path: Path) -> None:
    said = cdeq("predict", "digits_tiny", "a.png", "--folder", tmp_path / "run")
    assert said.code == 1
    assert "files of images are what MDEQ classifies; digits_tiny trains another" in said.err


def test_help_says_where_files_stand() -> None:
    said = cdeq("predict", "mdeq_tiny", "--help")
    assert said.code == 0
    assert "usage: cdeq predict mdeq_tiny IMAGES… [--key value …]" in said.out
    assert "--images" not in said.out
    assert "--by teacher" in said.out
