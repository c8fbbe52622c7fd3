"""Folders of images: which files count, and parts by folder or by share."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from image_files import CLASSES, EIGHT, SKIP, files, fill, no_image, passes, save

from cdeq.data.image_folder import read_image_folder, read_image_parts
from cdeq.errors import StoreError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "set", (4, 6, 10))
    return tmp_path / "set"


def test_images_are_those_of_the_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    made = fill(tmp_path / "set", (4, 2, 3))
    images, skipped = read_image_folder(tmp_path / "set", EIGHT)
    assert torch.equal(images.image, torch.stack([made[name] for name in sorted(made)]))
    assert images.label.tolist() == [CLASSES.index(name.split("/")[0]) for name in sorted(made)]
    assert (images.classes, skipped) == (CLASSES, ())


def test_hidden_files_and_files_beside_the_classes_do_not_count(root: Path) -> None:
    (first, _), _ = passes(root)
    for name in ("README.txt", "ant/.DS_Store", ".git/config", "bee/.cache/0.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image")
    (images, _), decoded = passes(root)
    assert decoded == 0 and torch.equal(images.image, first.image)


def test_links_count_but_lead_in_no_circle(root: Path) -> None:
    (root / "ant/link.png").symlink_to(root / "cat/0.png")
    (root / "ant/circle").symlink_to(root)
    (root / "dog").symlink_to(root / "cat")
    images = read_image_folder(root, EIGHT).images
    assert images.label.bincount().tolist() == [5, 6, 10, 10]
    assert torch.equal(images.image[-10:], images.image[-20:-10])


def test_what_holds_no_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"there is no folder {tmp_path}/none; give one that"):
        read_image_folder(tmp_path / "none", EIGHT)
    save(tmp_path / "set/0.png", 0)
    with pytest.raises(StoreError, match=rf"{tmp_path}/set holds no folders, so there are no cl"):
        read_image_folder(tmp_path / "set", EIGHT)


@pytest.mark.parametrize("hidden", [False, True])
def test_an_empty_class_is_refused(root: Path, hidden: bool) -> None:
    (root / "elk/deep").mkdir(parents=True)
    if hidden:
        (root / "elk/.keep").touch()
    with pytest.raises(StoreError, match=rf"the class folder {root}/elk holds no image; put some"):
        read_image_folder(root, EIGHT)


def test_a_folder_that_cannot_be_searched_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = os.scandir

    def refusing(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return search(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(StoreError, match=r"bee cannot be searched .*Permission denied: .*bee"):
        read_image_folder(root, EIGHT)


def test_a_single_folder_is_divided_by_shares(root: Path) -> None:
    parts = read_image_parts(root, EIGHT, validation=0.2, test=0.3, seed=4)
    assert [len(part) for part in parts[:3]] == [10, 4, 6]
    taken = [part.take(torch.arange(len(part))) for part in parts[:3]]
    whole = read_image_folder(root, EIGHT).images
    both = [
        sorted(
            (*image.flatten().tolist(), label)
            for image, label in zip(images, labels.tolist(), strict=True)
        )
        for images, labels in (
            (torch.cat([batch.image for batch in taken]), torch.cat([b.label for b in taken])),
            (whole.image.float() / 255, whole.label),
        )
    ]
    assert both[0] == both[1]
    assert parts.test.labels.bincount().tolist() == [1, 2, 3]


def test_the_seed_alone_decides_the_parts(root: Path) -> None:
    digests = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(digests))
        parts = read_image_parts(root, EIGHT, validation=0.2, test=0.3, seed=seed)
        digests.append([part.digest() for part in parts[:3]])
    assert digests[0] == digests[1] and not {*digests[0]} & {*digests[2]}


def test_train_and_val_are_what_is_fitted_and_reported(tmp_path: Path) -> None:
    fill(tmp_path / "train", (10, 20, 10))
    made = fill(tmp_path / "val", (1, 2, 3), seed=50)
    parts = read_image_parts(tmp_path, EIGHT, validation=0.1)
    assert [part.labels.bincount().tolist() for part in parts[:3]] == [
        [9, 18, 9],
        [1, 2, 1],
        [1, 2, 3],
    ]
    images = parts.test.take(torch.arange(6)).image.mul(255).round().byte()
    assert {tuple(image.flatten().tolist()) for image in images} == {
        tuple(image.flatten().tolist()) for image in made.values()
    }
    assert {"train.8.images", "val.8.images"} <= {*files(tmp_path)}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_test_folder_counts_where_it_has_classes(tmp_path: Path, labelled: bool) -> None:
    for name, each in (("train", (10, 20, 10)), ("val", (1, 2, 3))):
        fill(tmp_path / name, each)
    if labelled:
        fill(tmp_path / "test", (3, 2, 1))
    else:
        save(tmp_path / "test/images/0.png", 0)
    parts = read_image_parts(tmp_path, EIGHT, validation=0.1)
    wanted = (
        [[10, 20, 10], [1, 2, 3], [3, 2, 1]] if labelled else [[9, 18, 9], [1, 2, 1], [1, 2, 3]]
    )
    assert [part.labels.bincount().tolist() for part in parts[:3]] == wanted


def test_a_test_folder_of_other_classes_is_refused(tmp_path: Path) -> None:
    """Instead of being left out, and `val` reported in its place."""
    for name in ("train", "val", "test"):
        fill(tmp_path / name, (2, 2, 2))
    for folder in [*(tmp_path / "test").iterdir()]:
        folder.rename(folder.with_name(f"the {folder.name}"))
    with pytest.raises(StoreError, match=rf"{tmp_path}/test should have the 3 classes"):
        read_image_parts(tmp_path, EIGHT)


def test_what_was_skipped_anywhere_is_named(tmp_path: Path) -> None:
    for name in ("train", "val"):
        fill(tmp_path / name, (5, 5, 5))
        no_image(tmp_path / name / "bee/0.png")
    parts = read_image_parts(tmp_path, SKIP)
    assert [sentence.split(" is ")[0] for sentence in parts.skipped] == [
        str(tmp_path / name / "bee/0.png") for name in ("train", "val")
    ]


def lacking(val: Path) -> None:
    shutil.rmtree(val / "bee")


def unknown(val: Path) -> None:
    (val / "bee").rename(val / "eel")


def more(val: Path) -> None:
    save(val / "dog/0.png", 5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lacking, "the 3 classes of the training images, and has 2: it lacks bee"),
        (unknown, "the 3 classes of the training images, and has 3: it lacks bee"),
        (more, "the 3 classes of the training images, and has 4: it has dog"),
    ],
)
def test_other_classes_than_those_of_training_are_refused(
    tmp_path: Path, change: Callable[[Path], None], text: str
) -> None:
    for name in ("train", "val"):
        fill(tmp_path / name, (2, 2, 2))
    change(tmp_path / "val")
    with pytest.raises(StoreError, match=rf"{tmp_path}/val should have {text}"):
        read_image_parts(tmp_path, EIGHT)


def test_train_alone_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", (2, 2, 2))
    with pytest.raises(StoreError, match=f"{tmp_path} has a folder train, and should have one va"):
        read_image_parts(tmp_path, EIGHT)
