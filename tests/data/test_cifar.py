"""CIFAR-10: official batches byte for byte, fair parts, and no pickle that runs anything."""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdeq.data.byte_images import ByteImageSet
from cdeq.data.cifar import CIFAR10, META, TEST, TRAIN, read_cifar10
from cdeq.errors import StoreError

NAMES = [f"class {number}".encode() for number in range(10)]
EACH = 40
"""Images of one generated batch."""


def python2(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and NumPy 1 have pickled it, opcode by opcode."""

    def text(content: bytes) -> bytes:
        return b"U" + bytes([len(content)]) + content

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    content = b"T" + struct.pack("<i", data.size) + data.tobytes()
    shape = number(data.shape[0]) + number(data.shape[1]) + b"\x86"
    array = start + text(b"b") + b"\x87R(" + number(1) + shape + kind + b"\x89" + content + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    items = text(b"batch_label") + text(b"one") + text(b"labels") + listed + text(b"data") + array
    return b"\x80\x02}(" + items + b"u."


def python3(protocol: int) -> Callable[[np.ndarray, list[int]], bytes]:
    return lambda data, labels: pickle.dumps({b"data": data, b"labels": labels}, protocol)


def images(number: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(number)
    return random.integers(0, 256, (EACH, 3072), np.uint8), [(7 * i) % 10 for i in range(EACH)]


def write(folder: Path, make: Callable[[np.ndarray, list[int]], bytes] = python2) -> Path:
    for number, name in enumerate((*TRAIN, TEST)):
        (folder / name).write_bytes(make(*images(number)))
    (folder / META).write_bytes(pickle.dumps({b"label_names": NAMES, b"num_vis": 3072}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def read(folder: Path, **settings: int | None) -> CIFAR10:
    return read_cifar10(folder, **{"validation": 30, "held_out": 20, **settings})  # type: ignore[arg-type]


def rows(part: ByteImageSet) -> list[tuple[int, ...]]:
    """Every pixel and the class of each image."""
    image, label = part.take(torch.arange(len(part)))
    bytes_again = (255 * image).round().long().flatten(1)
    return [(*pixels, c) for pixels, c in zip(bytes_again.tolist(), label.tolist(), strict=True)]


def official(*numbers: int) -> list[tuple[int, ...]]:
    batches = [images(number) for number in numbers]
    return [
        (*pixels, c)
        for data, labels in batches
        for pixels, c in zip(data.tolist(), labels, strict=True)
    ]


@pytest.mark.parametrize("make", [python2, python3(3), python3(4)], ids=["2", "3.3", "3.4"])
def test_the_parts_are_all_official_images_once(tmp_path: Path, make) -> None:
    cifar = read(write(tmp_path, make))
    training = [row for part in cifar[:3] for row in rows(part)]
    assert sorted(training) == sorted(official(0, 1, 2, 3, 4))
    assert rows(cifar.test) == official(5)
    assert [len(part) for part in cifar] == [150, 30, 20, 40]
    assert {part.classes for part in cifar} == {tuple(name.decode() for name in NAMES)}


def test_what_python_2_wrote_is_what_numpy_reads() -> None:
    """So that the batches made here are like the official ones."""
    data, labels = images(0)
    held = pickle.loads(python2(data, labels), encoding="bytes")
    assert held[b"labels"] == labels and np.array_equal(held[b"data"], data)


def test_bytes_are_kept_and_floats_taken(folder: Path) -> None:
    part = read(folder).test
    assert part.image.dtype is torch.uint8
    whole = torch.from_numpy(images(5)[0]).view(-1, 3, 32, 32)
    chosen = torch.tensor([5, 0, 5])
    batch = part.take(chosen)
    assert batch.image.dtype is torch.float32
    assert torch.equal(batch.image, whole[chosen].float() / 255)
    assert batch.label.tolist() == [images(5)[1][i] for i in (5, 0, 5)]


def test_every_part_has_the_classes_in_proportion(folder: Path) -> None:
    cifar = read(folder)
    for part in cifar[:3]:
        assert part.labels.bincount(minlength=10).tolist() == [len(part) // 10] * 10


def test_the_seed_alone_decides_what_is_held_out(folder: Path) -> None:
    first = [part.digest() for part in read(folder)]
    torch.manual_seed(7)
    assert [part.digest() for part in read(folder)] == first
    other = [part.digest() for part in read(folder, seed=1)]
    assert [a == b for a, b in zip(first, other, strict=True)] == [False, False, False, True]


def test_the_split_is_always_the_same(folder: Path) -> None:
    """Also across releases: another split would make the published numbers incomparable."""
    assert [part.digest()[:12] for part in read(folder)] == FIXED


FIXED = ["d8f2cce82b09", "c8cf1ed90b39", "a925f4573bea", "ef2f247c3d09"]


@pytest.mark.parametrize("count", [1, 17, 40])
def test_the_first_of_the_test_batch(folder: Path, count: int) -> None:
    assert rows(read(folder, test_first=count).test) == official(5)[:count]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"test_first": 0}, "of which there are 40; got 0"),
        ({"test_first": 41}, "of which there are 40; got 41"),
        ({"validation": 0}, r"at least 1 of 200 images.* got parts of \[0, 20\]"),
        ({"validation": 180}, r"they leave some to train on; got parts of \[180, 20\]"),
    ],
)
def test_impossible_parts_are_refused(folder: Path, settings, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read(folder, **settings)


class Runs:
    """Unpickled by pickle itself, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [TRAIN[2], TEST, META])
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_code_is_not_run(folder: Path, name: str, protocol: int) -> None:
    made = folder / "made"
    attack = pickle.dumps({"data": Runs(made)}, protocol)
    (folder / name).write_bytes(attack)
    with pytest.raises(StoreError, match=rf"{name} asks for `posix.mkdir`, which could run code"):
        read(folder)
    assert not made.exists()
    pickle.loads(attack)  # it would have
    assert made.is_dir()


@pytest.mark.parametrize(
    ("opcodes", "text"),
    [
        (b"cbuiltins\neval\n.", "asks for `builtins.eval`"),
        (b"cnumpy\nload\n.", "asks for `numpy.load`"),
        (b"cnumpy\nfromfile\n.", "asks for `numpy.fromfile`"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "numpy.ndarray.__class__"),
        (b"cnumpy.core.multiarray\nscalar\n.", "asks for `numpy.core.multiarray.scalar`"),
        (b"c_codecs\nencode\n.", "asks for `_codecs.encode`"),
        (b"cnumpy\ndtype\nU\x01O\x85R.", "ValueError: numbers are bytes, `u1`; got b'O'"),
        (b"Pname\n.", "is damaged .UnpicklingError"),
    ],
)
def test_nothing_but_arrays_of_bytes_is_read(folder: Path, opcodes: bytes, text: str) -> None:
    (folder / TRAIN[0]).write_bytes(opcodes)
    with pytest.raises(StoreError, match=rf"{TRAIN[0]} .*{text}"):
        read(folder)


@pytest.mark.parametrize("kept", [0, 1, 20, 200, 3000, -1])
def test_a_batch_that_was_cut_off_is_refused(folder: Path, kept: int) -> None:
    path = folder / TRAIN[4]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StoreError, match=rf"{TRAIN[4]} is damaged \(.*\); unpack it again"):
        read(folder)


DATA, LABELS = images(0)


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ([1], "holds no array `data` and list `labels`"),
        ({b"data": DATA}, "holds no array `data` and list `labels`"),
        ({b"labels": LABELS, b"data": b"x"}, "holds no array `data` and list `labels`"),
        ({b"labels": LABELS, b"data": DATA[:, :-1]}, r"array of \(40, 3071\) and 40 labels"),
        ({b"labels": LABELS[1:], b"data": DATA}, r"array of \(40, 3072\) and 39 labels"),
        ({b"labels": [b"0"] * 40, b"data": DATA}, "one number for each image"),
        ({b"labels": LABELS, b"data": DATA.T.copy().T}, r"no array of \(40, 3072\) bytes by rows"),
        ({b"labels": LABELS, b"data": DATA.astype("f8")}, "numbers are bytes, `u1`; got 'f8'"),
        ({b"labels": [*LABELS[:9], 10, *LABELS[10:]], b"data": DATA}, "0 to 9; image 9 has 10"),
        ({b"labels": [-1, *LABELS[1:]], b"data": DATA}, "0 to 9; image 0 has -1"),
        ({b"labels": [2**70, *LABELS[1:]], b"data": DATA}, f"0 to 9; image 0 has {2**70}"),
        ({b"labels": [], b"data": DATA[:0]}, r"array of \(0, 3072\) and 0 labels"),
    ],
)
def test_other_contents_are_refused(folder: Path, held: object, text: str) -> None:
    (folder / TRAIN[1]).write_bytes(pickle.dumps(held, 4))
    with pytest.raises(StoreError, match=rf"{TRAIN[1]}.*{text}"):
        read(folder)


@pytest.mark.parametrize("names", [None, [], b"cat", [1, 2]])
def test_classes_have_names(folder: Path, names: object) -> None:
    (folder / META).write_bytes(pickle.dumps({b"label_names": names}))
    with pytest.raises(StoreError, match=r"batches.meta holds no list `label_names`"):
        read(folder)


@pytest.mark.parametrize(("gone", "more"), [((TEST,), ""), ((TRAIN[3], META), r" \(and 1 more\)")])
def test_a_missing_file_is_named(folder: Path, gone: tuple[str, ...], more: str) -> None:
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(StoreError, match=rf"{gone[0]} is missing{more}; unpack the archive"):
        read(folder)
