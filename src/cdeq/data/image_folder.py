"""Images in folders named after their classes, as ImageNet is usually laid out."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, NoReturn

from cdeq.data.byte_images import ImageParts, divide
from cdeq.data.corpus import cache_folder
from cdeq.data.image_cache import Cached, Decoding, Sample, Source, cached_images
from cdeq.data.lines import Progress
from cdeq.errors import StoreError


def read_image_parts(
    root: str | os.PathLike[str],
    decoding: Decoding,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> ImageParts:
    """Train, validation and test images of a root folder.

    * `root/train` and `root/val`: the latter is the test, as the literature reports it, and what
      selects is held out of the training images.
    * With class folders in `root/test` too, all three are as they are.
    * Without `root/train`, the class folders are in the root, and both parts are held out.

    Arguments:
        root: The folder.
        decoding: How images are decoded.
        validation: The share that is held out to select on, where there is no such folder.
        test: The share that is held out to report, where there is no such folder.
        seed: Decides which images are held out, and the order of the parts.
        cache: Where decoded images are kept if not beside the folder, see `cache_folder`.
        progress: Told of the images that are decoded.

    Raises:
        ValueError: When a share is none.
        StoreError: When there is no class, a class is empty, an image is refused, folders have
            other classes than the training images, or the cache cannot be written.
    """
    root, train = Path(root), Path(root, "train")
    read = partial(read_image_folder, decoding=decoding, cache=cache, progress=progress)
    if not train.is_dir():
        images, skipped = read(root)
        parts = divide(images, validation=validation, test=test, seed=seed)
        return ImageParts(*parts, skipped=skipped)
    fitted = read(train)
    classes = fitted.images.classes
    others = [read(folder, classes=classes) for folder in _other_folders(root, classes)]
    parts = divide(
        fitted.images,
        validation=others[0].images if len(others) == 2 else validation,
        test=others[-1].images,
        seed=seed,
    )
    skipped = (sentence for part in (fitted, *others) for sentence in part.skipped)
    return ImageParts(*parts, skipped=tuple(skipped))


def _other_folders(root: Path, classes: tuple[str, ...]) -> list[Path]:
    """`val`, and `test` where that has classes, which official test sets have not: they are one
    folder of images, with or without one more around it."""
    folders = [root / "val", root / "test"]
    if not folders[0].is_dir():
        raise StoreError(
            f"{root} has a folder train, and should have one val of the same classes beside it."
        )
    paths = folders[1].glob("[!.]*")
    inside = {path.name for path in paths if path.is_dir()}
    return folders if len(inside) > 1 or not inside.isdisjoint(classes) else folders[:1]


def read_image_folder(
    folder: str | os.PathLike[str],
    decoding: Decoding,
    *,
    cache: Path | None = None,
    classes: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Cached:
    """All images below `folder/<class>/`, however deep, classes in the order of their names.

    Every file there counts, whatever it is called, but for hidden ones. What was decoded is kept
    in one file, `<folder>.<size>.images`, for as long as names, sizes and times of change of all
    files stay the same: the next start takes as long as looking at those. It takes
    3 × size² bytes an image: 1.2 GB for 100,000 of 64 × 64, 250 GB for ImageNet at 256 × 256.

    Arguments:
        folder: Holds the folders of the classes; files beside those are left alone.
        decoding: How images are decoded.
        cache: Where decoded images are kept if not beside the folder, see `cache_folder`.
        classes: The classes that there should be; None takes those that there are.
        progress: Told of the images that are decoded.

    Raises:
        StoreError: When there is no class, a class is empty or another one, an image is refused,
            or the cache cannot be written.

    Example:
        >>> read_image_folder("nowhere", Decoding())
        Traceback (most recent call last):
        ...
        cdeq.errors.StoreError: there is no folder nowhere; give one that holds a folder of ...
    """
    folder = Path(os.path.abspath(folder)) if Path(folder).is_dir() else Path(folder)
    found = _class_names(folder)
    if classes not in (None, found):
        _refuse_other_classes(folder, found, classes or ())
    files = [file for label, name in enumerate(found) for file in _files(folder, name, label)]
    stamp = sha256(json.dumps([found, files]).encode()).hexdigest()

    def samples() -> Iterator[Sample]:
        for file in files:
            path = folder / file.path
            yield Sample(str(path), file.label, path)

    path = cache_folder(folder, cache) / f"{folder.name}.{decoding.framing.size}.images"
    return cached_images(path, Source(samples, len(files), found, stamp), decoding, progress)


class _File(NamedTuple):
    path: str
    "From the folder of all classes."
    label: int
    size: int
    time: int


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise StoreError(
            f"there is no folder {folder}; give one that holds a folder of images for each class."
        )
    with _reading(folder), os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    if not names:
        raise StoreError(
            f"{folder} holds no folders, so there are no classes; put the images of each class "
            "into a folder of its name."
        )
    return tuple(sorted(names))


def _files(folder: Path, name: str, label: int) -> list[_File]:
    with _reading(folder / name):
        files = sorted(_below(folder / name, name, label))
    if not files:
        raise StoreError(
            f"the class folder {folder / name} holds no image; put some there or remove it."
        )
    return files


def _below(folder: Path | str, path: str, label: int) -> Iterator[_File]:
    with os.scandir(folder) as entries:
        for entry in entries:
            inside = f"{path}/{entry.name}"
            if entry.name[0] == ".":
                continue
            if entry.is_dir(follow_symlinks=False):  # links could lead in a circle
                yield from _below(entry.path, inside, label)
            elif not entry.is_dir():
                fact = entry.stat()
                yield _File(inside, label, fact.st_size, fact.st_mtime_ns)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be searched for images ({error.strerror}: {error.filename})."
        ) from error


def _refuse_other_classes(
    folder: Path, found: tuple[str, ...], wanted: tuple[str, ...]
) -> NoReturn:
    missing, new = sorted({*wanted} - {*found}), sorted({*found} - {*wanted})
    name, verb = (missing[0], "lacks") if missing else (new[0], "has")
    raise StoreError(
        f"{folder} should have the {len(wanted)} classes of the training images, and has "
        f"{len(found)}: it {verb} {name}."
    )
