"""Images from the command line: every stage, from folders of one's own to their table."""

import shutil
from pathlib import Path

import datasets
import pytest
from cli.image_runs import EXPLICIT, STEPS, STUDENTS, TRAINED, run_of, small
from cli.run import Ended, cdeq, contents, refused, rows_of, weights
from image_files import CLASSES, fill, no_image

from cdeq.data.labels import Labels
from cdeq.recipes import image
from cdeq.recipes.image import LABELS, ImageRecipe
from cdeq.report import Results


def test_the_demo_trains_everything_in_order(image_demo: tuple[Path, Ended]) -> None:
    root, said = image_demo
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
    assert folders == {*TRAINED, "evaluation", "evaluation-baselines"}


def test_every_model_is_scored(imaged: Path) -> None:
    assert Results.load(imaged / "run/results.json").task == "image classification"
    scored = {(r.model, r.nfe) for r in rows_of(imaged / "run") if r.metric == "accuracy"}
    iterative = ("picard", "anderson", "broyden", *STUDENTS)
    behind = ("student-paper-then-solver", "student-paper-no-aa-then-solver")
    expected = {(name, nfe) for name in (*iterative, *behind) for nfe in (1, 2)}
    ones = {("teacher", None), ("few-step", 1), *((name, None) for name in EXPLICIT)}
    assert scored == expected | ones


def test_what_is_done_is_done(imaged: Path) -> None:
    before = contents(imaged)
    said = small("demo", imaged)
    assert (said.code, said.err) == (0, "")
    assert contents(imaged) == before


def test_further_images_are_scored_by_the_same_rule(
    imaged: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The test set once more, under another name: the same numbers once more."""
    again = {"again": run_of(imaged).data.test}
    monkeypatch.setattr(ImageRecipe, "further_data", lambda self: again)
    monkeypatch.setattr(image, "MANY", 3)
    with Restored(imaged / "run"):
        assert small("evaluate", imaged, "--fresh").code == 0
        rows = rows_of(imaged / "run")
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


def test_augmentation_decides_what_is_trained(imaged: Path) -> None:
    words = ["own_images", "--folder", imaged / "run", *STEPS]
    source = ["--source.path", imaged / "pictures"]
    text = refused(imaged, "train", *words, *source, "--augmentation.padding", "2")
    assert "augmentation.padding was 1, now 2" in " ".join(text.split())


# Hugging Face


def test_a_data_set_of_the_hub_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder that `datasets` reads as it does a repository."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    files = sorted(fill(tmp_path / "pictures", (14, 15, 16)))
    rows = {
        "picture": [{"bytes": None, "path": str(tmp_path / "pictures" / name)} for name in files],
        "animal": [CLASSES.index(name.partition("/")[0]) for name in files],
    }
    kinds = {"picture": datasets.Image(), "animal": datasets.ClassLabel(names=[*CLASSES])}
    (tmp_path / "hub").mkdir()
    whole = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    whole.to_parquet(tmp_path / "hub" / "train.parquet")
    shares = ["--source.validation", "0.2", "--source.test", "0.2"]
    source = ["--source.name", tmp_path / "hub", "--source.cache", tmp_path / "cache", *shares]
    words = ["train", "hub_images", "--folder", tmp_path / "run", *source, *STEPS]
    said = cdeq(*words)
    assert said.code == 0, said.err
    assert Labels.load(tmp_path / "run/teacher" / LABELS).classes == CLASSES
    said = cdeq(*(word for word in words if word not in shares))
    assert said.code == 1 and "the split test of" in said.err


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


def test_students_can_learn_from_some_of_the_images(imaged: Path, tmp_path: Path) -> None:
    shutil.copytree(imaged / "run/teacher", tmp_path / "run/teacher")
    source = ["--source.path", imaged / "pictures", "--folder", tmp_path / "run"]
    few = ("--distil", "student-best", "--trajectories.samples", "9")
    said = cdeq("distill", "own_images", *source, *STEPS, *few)
    assert (said.code, said.err) == (0, "")
    assert weights(tmp_path / "run/student-best") != weights(imaged / "run/student-best")
