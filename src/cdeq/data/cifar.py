"""CIFAR-10 from its official Python batches."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cdeq.data.array_pickle import ByteArray, read_array_pickle
from cdeq.data.byte_images import ByteImageSet, stratified
from cdeq.errors import StoreError

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST, META = "test_batch", "batches.meta"
SHAPE = (3, 32, 32)


class CIFAR10(NamedTuple):
    """Fit train, select on validation; report held out, which has never been seen, and test."""

    train: ByteImageSet
    validation: ByteImageSet
    held_out: ByteImageSet
    """Training images that nothing is fitted to: a test for whoever has a spoilt test batch."""
    test: ByteImageSet


def read_cifar10(
    folder: str | os.PathLike[str],
    *,
    validation: int = 5000,
    held_out: int = 5000,
    test_first: int | None = None,
    seed: int = 0,
) -> CIFAR10:
    """The 50,000 training images in three parts with the classes in proportion, and the test's.

    Arguments:
        folder: Holds data_batch_1 … data_batch_5, test_batch and batches.meta, as the archive
            `cifar-10-python` unpacks to.
        validation: How many training images are held out to select on.
        held_out: How many more are held out to report.
        test_first: Only so many images of the test batch, from its beginning; None takes all.
        seed: Decides which training images are held out; nothing else does.

    Raises:
        ValueError: When the parts leave nothing to train on, or there are fewer test images.
        StoreError: When a file is missing, damaged, asks for more than arrays, or holds other
            images.

    Example:
        >>> read_cifar10("nowhere")
        Traceback (most recent call last):
        ...
        cdeq.errors.StoreError: nowhere/data_batch_1 is missing (and 6 more); unpack the ...
    """
    folder = Path(folder)
    _require_files(folder)
    classes = _class_names(folder / META)
    batches = [_batch(folder / name, len(classes)) for name in TRAIN]
    image, label = (torch.cat(parts) for parts in zip(*batches, strict=True))
    fitted = ByteImageSet(image=image, label=label, classes=classes)
    rows = stratified(label, (validation, held_out), seed=seed)
    one, two, rest = (fitted.part(part) for part in rows)
    image, label = _batch(folder / TEST, len(classes))
    test = ByteImageSet(image=image, label=label, classes=classes)
    return CIFAR10(rest, one, two, _first(test, test_first))


def _first(test: ByteImageSet, count: int | None) -> ByteImageSet:
    if count is None:
        return test
    if not 1 <= count <= len(test):
        raise ValueError(
            f"`test_first` is a number of test images, of which there are {len(test)}; got "
            f"{count}."
        )
    return test.part(torch.arange(count))


def _require_files(folder: Path) -> None:
    missing = [name for name in (*TRAIN, TEST, META) if not (folder / name).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise StoreError(
            f"{folder / missing[0]} is missing{more}; unpack the archive of CIFAR-10's Python "
            "version, and give the folder cifar-10-batches-py in it."
        )


def _class_names(path: Path) -> tuple[str, ...]:
    held = read_array_pickle(path)
    names = held.get(b"label_names") if isinstance(held, dict) else None
    if not isinstance(names, list) or not names or {*map(type, names)} != {bytes}:
        raise StoreError(f"{path} holds no list `label_names`; unpack it again.")
    return tuple(name.decode() for name in names)


def _batch(path: Path, classes: int) -> tuple[Tensor, Tensor]:
    held = read_array_pickle(path)
    data, labels = (
        held.get(name) if isinstance(held, dict) else None for name in (b"data", b"labels")
    )
    if not isinstance(data, ByteArray) or not isinstance(labels, list):
        raise StoreError(f"{path} holds no array `data` and list `labels`; unpack it again.")
    counted = labels and all(type(label) is int for label in labels)
    if not counted or tuple(data.shape) != (len(labels), 3072):
        raise StoreError(
            f"{path} should hold 3,072 bytes and one number for each image, and holds an array of "
            f"{tuple(data.shape)} and {len(labels)} labels; unpack it again."
        )
    for number, label in enumerate(labels):
        if not 0 <= label < classes:
            raise StoreError(
                f"{path}: labels are classes from 0 to {classes - 1}; image {number} has {label}."
            )
    return data.tensor().view(-1, *SHAPE), torch.tensor(labels, dtype=torch.long)
