"""`cdeq predict`: what files show is what the library says of them, and it is shown in whole."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli.image_runs import run_of, small
from cli.run import cdeq, contents
from image_files import CLASSES, no_image
from rich.console import Console

from cdeq.cli.evaluating import trained_students
from cdeq.cli.measuring import Ready
from cdeq.cli.predicting import Predict, Prediction, predict
from cdeq.cli.stages import Run
from cdeq.consistency.refine import refine
from cdeq.core.solve import solve
from cdeq.data.framing import Framing
from cdeq.data.labels import Labels
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.mdeq import MDEQ
from cdeq.recipes.image import LABELS


@pytest.fixture(scope="module")
def run(imaged: Path) -> Run:
    return run_of(imaged)


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
    run: Run, imaged: Path, by: str, batch_size: int
) -> None:
    """Whoever is in the batch besides, in the order of the files."""
    found = asked(run, imaged, by=(by,), nfe=3, max_steps=3, tol=1e-6, batch_size=batch_size)
    expected = [*probabilities(run, imaged, by, 3)]
    assert [one.image for one in found] == [path for path, _ in expected]
    for one, (_, shares) in zip(found, expected, strict=True):
        assert set(one.classes) == set(CLASSES)
        named = torch.tensor([shares[CLASSES.index(name)] for name in one.classes])
        assert torch.allclose(torch.tensor(one.probabilities), named, atol=1e-6)
        assert list(one.probabilities) == sorted(one.probabilities, reverse=True)
        assert (one.evaluations, one.missed, one.by) == (3, by == "teacher", by)


def test_several_answer_side_by_side(run: Run, imaged: Path) -> None:
    """Image by image, each of them once."""
    both = asked(run, imaged, by=("student-best", "teacher", "student-best"), batch_size=2)
    assert [one.by for one in both] == ["student-best", "teacher"] * FILES
    assert both[::2] == asked(run, imaged, by=("student-best",), batch_size=2)
    assert [one.image for one in both[::2]] == [*files_of(imaged)]


def test_as_many_classes_as_are_asked_for(run: Run, imaged: Path) -> None:
    for top in (1, 2):
        assert {len(one.classes) for one in asked(run, imaged, top=top)} == {top}


def test_every_answer_is_shown_in_whole(
    run: Run, imaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However narrow the terminal: the file, the classes, probabilities and evaluations."""
    before, path = contents(imaged), files_of(imaged)[0]
    monkeypatch.setenv("COLUMNS", "40")
    said = small("predict", imaged, path, "--by", "teacher", "student-best", "--nfe", "1")
    assert (said.code, said.err) == (0, "")
    file, *lines = said.out.strip().splitlines()
    assert file == str(path)
    expected = asked(run, imaged, by=("teacher", "student-best"), nfe=1)[:2]
    for line, one in zip(lines, expected, strict=False):
        pairs = zip(one.classes, one.probabilities, strict=True)
        named = ", ".join(f"{name} {share:.1%}" for name, share in pairs)
        spent = f"{one.evaluations}{'*' if one.missed else ''} evaluation"
        assert line.startswith(f"  {one.by:<12}  {named} ({spent}")
    assert contents(imaged) == before


def test_files_are_classified_without_the_images_of_training(imaged: Path, tmp_path: Path) -> None:
    """A trained folder is enough, wherever it was brought."""
    shutil.copytree(imaged / "run", tmp_path / "run")
    path = files_of(imaged)[0]
    words = ("predict", "own_images", path, "--folder", tmp_path / "run", "--by", "student-best")
    away, here = cdeq(*words), small("predict", imaged, path, "--by", "student-best")
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
    imaged: Path, words: tuple[str, ...], says: str
) -> None:
    path = str(files_of(imaged)[0])
    said = small("predict", imaged, *(word.format(files=path) for word in words))
    assert said.code == 1
    assert says in " ".join(said.err.split())
    assert said.err.count("\n") == 1, "one sentence"


def test_a_file_that_is_no_image_is_refused_or_left_out(imaged: Path, tmp_path: Path) -> None:
    no_image(tmp_path / "notes.txt")
    files = (tmp_path / "notes.txt", files_of(imaged)[0])
    said = small("predict", imaged, *files)
    assert said.code == 1
    assert "notes.txt is no image" in " ".join(said.err.split())
    said = small("predict", imaged, *files, "--unusable", "skip")
    assert (said.code, said.err) == (0, "")
    assert "notes.txt is no image" in " ".join(said.out.split())
    said = small("predict", imaged, files[0], "--unusable", "skip")
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
