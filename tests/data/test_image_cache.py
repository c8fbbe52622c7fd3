"""Decoded images kept on disk: those of the files or made anew, and never half of them."""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from image_files import EIGHT, SKIP, files, fill, no_image, passes, save
from PIL import Image

from cdeq.data import image_cache
from cdeq.data.framing import Framing
from cdeq.data.image_cache import Decoding
from cdeq.data.image_folder import read_image_folder
from cdeq.errors import StoreError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "set", (4, 6, 10))
    return tmp_path / "set"


def test_the_second_start_decodes_nothing(root: Path) -> None:
    found = [passes(root) for _ in range(3)]
    assert [decoded for _, decoded in found] == [20, 0, 0]
    first = found[0][0].images
    for (images, skipped), _ in found[1:]:
        assert torch.equal(images.image, first.image)
        assert torch.equal(images.label, first.label)
        assert images.digest() == first.digest() and skipped == ()
    assert files(root.parent)[0] == "set.8.images" and len(files(root.parent)) == 21


def test_every_number_of_threads_decodes_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "CHUNK", 7)
    caches = [root.parent / str(threads) for threads in (1, 2, 5)]
    found = [
        read_image_folder(root, Decoding(framing=Framing(size=8), threads=threads), cache=cache)
        for threads, cache in zip((1, 2, 5), caches, strict=True)
    ]
    contents = {path.read_bytes() for cache in caches for path in cache.rglob("*.images")}
    assert len(contents) == 1 and len({images.digest() for images, _ in found}) == 1


def touched(root: Path) -> None:
    os.utime(root / "ant/0.png", ns=(5, 5))


def replaced(root: Path) -> None:
    """By a file of another size, the time of change as it was."""
    path = root / "ant/0.png"
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    Image.new("RGB", (8, 8), "red").save(path)
    os.utime(path, ns=times)


def renamed(root: Path) -> None:
    (root / "ant/0.png").rename(root / "ant/z.png")


def moved(root: Path) -> None:
    (root / "ant/0.png").rename(root / "bee/10.png")


def added(root: Path) -> None:
    save(root / "cat/new.png", 99)


def removed(root: Path) -> None:
    (root / "cat/deep/3.png").unlink()


def called_otherwise(root: Path) -> None:
    (root / "cat").rename(root / "dog")


@pytest.mark.parametrize(
    "change", [touched, replaced, renamed, moved, added, removed, called_otherwise]
)
def test_every_change_of_a_file_is_noticed(root: Path, change: Callable[[Path], None]) -> None:
    passes(root)
    change(root)
    count = len(files(root))
    (images, _), decoded = passes(root)
    assert decoded == count == len(images)
    assert passes(root)[1] == 0


def test_another_framing_or_rule_decodes_anew(root: Path) -> None:
    small = Decoding(framing=Framing(size=4, resize=8))
    other = Decoding(framing=Framing(size=8, alpha="refuse"))
    assert [passes(root, decoding)[1] for decoding in (EIGHT, small, EIGHT, small)] == [
        20,
        20,
        0,
        0,
    ]
    assert [passes(root, decoding)[1] for decoding in (other, SKIP, SKIP)] == [20, 20, 0]


@pytest.mark.parametrize("kept", [0, 7, 500, 1024, -1])
def test_a_damaged_cache_is_replaced(root: Path, kept: int) -> None:
    wanted = passes(root)[0].images.image.clone()  # a mapped file must not be cut
    cache = root.with_name("set.8.images")
    cache.write_bytes(cache.read_bytes()[:kept])
    (again, _), decoded = passes(root)
    assert decoded == 20 and torch.equal(again.image, wanted)
    assert passes(root)[1] == 0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_pass_leaves_nothing(
    root: Path, stop: type[BaseException], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "CHUNK", 6)

    def progress(_: str, done: int, total: int) -> None:
        if done > total / 2:
            raise stop

    before = files(root.parent)
    decoding = Decoding(framing=Framing(size=8), threads=threads)
    with pytest.raises(stop):
        read_image_folder(root, decoding, progress=progress)
    assert files(root.parent) == before


def test_changing_the_images_changes_no_file(root: Path) -> None:
    images = read_image_folder(root, EIGHT).images
    before = root.with_name("set.8.images").read_bytes()
    images.image.zero_()
    assert root.with_name("set.8.images").read_bytes() == before


def test_a_cache_folder_may_be_asked_for(root: Path, tmp_path: Path) -> None:
    """In which folders of one name are kept apart."""
    other = tmp_path / "other" / "set"
    shutil.copytree(root, other)  # equally long and old
    save(other / "ant/0.png", 77)
    shutil.copystat(root / "ant/0.png", other / "ant/0.png")
    cache = tmp_path / "cache"
    first, second = (read_image_folder(each, EIGHT, cache=cache).images for each in (root, other))
    assert len(files(cache)) == 2 and not torch.equal(first.image, second.image)
    assert not root.with_name("set.8.images").exists()


def test_too_little_room_is_said_before_anything_is_decoded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 * 192 - 1))
    with pytest.raises(StoreError, match=r"images take 0.0 GB, and .* has room for 0.0 GB; make"):
        passes(root)
    assert not root.with_name("set.8.images").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 * 192))
    assert passes(root)[1] == 20


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def large(path: Path) -> None:
    Image.new("RGB", (9, 8)).save(path)


SPOILT = {
    cut_off: r"cannot be read as an image \(",
    no_image: r"is no image of a kind that is read, JPEG,",
    large: r"is 9 × 8 pixels, not 8 × 8",
}


@pytest.mark.parametrize(("spoil", "text"), SPOILT.items())
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_unusable_is_refused_by_name(
    root: Path, spoil: Callable[[Path], None], text: str, threads: int
) -> None:
    path = root / "bee/deep/3.png"
    spoil(path)
    before = files(root.parent)
    decoding = Decoding(framing=Framing(size=8), threads=threads)
    with pytest.raises(StoreError, match=rf"{path} {text}.* leave all such files out"):
        read_image_folder(root, decoding)
    assert files(root.parent) == before


@pytest.mark.parametrize(("spoil", "text"), SPOILT.items())
def test_what_is_unusable_is_skipped_and_named(
    root: Path, spoil: Callable[[Path], None], text: str
) -> None:
    (whole, _), _ = passes(root)
    spoil(root / "bee/deep/3.png")
    kept = [i for i, name in enumerate(sorted(files(root))) if name != "bee/deep/3.png"]
    for expected in (20, 0):  # the sentence is kept with the images
        (images, skipped), decoded = passes(root, SKIP)
        assert decoded == expected
        assert torch.equal(images.image, whole.image[kept])
        assert torch.equal(images.label, whole.label[kept])
        assert len(skipped) == 1
        assert re.match(rf"{root}/bee/deep/3.png {text}", skipped[0])


def test_if_nothing_is_left_that_is_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        no_image(tmp_path / "set" / name / "notes.txt")
    with pytest.raises(StoreError, match=r"no usable image among 2 files; the first: .*notes.txt"):
        read_image_folder(tmp_path / "set", SKIP)
    assert files(tmp_path) == ["set/a/notes.txt", "set/b/notes.txt"]


def test_a_class_of_which_nothing_is_left_is_named(root: Path) -> None:
    (root / "cow").mkdir()
    no_image(root / "cow" / "notes.txt")
    text = r"no usable image of the class 'cow'; the first of its files: .*notes.txt"
    with pytest.raises(StoreError, match=text):
        read_image_folder(root, SKIP)


def test_the_second_start_takes_milliseconds(tmp_path: Path) -> None:
    """For a thousand files, whose size then plays no part."""
    fill(tmp_path / "set", (300, 300, 400))
    read_image_folder(tmp_path / "set", EIGHT)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        read_image_folder(tmp_path / "set", EIGHT)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1
