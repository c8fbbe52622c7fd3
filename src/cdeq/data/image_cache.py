"""Images decoded once, memory-mapped from then on."""

import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cdeq.data.byte_images import ByteImageSet
from cdeq.data.corpus import HEADER, replacing
from cdeq.data.framing import Framing
from cdeq.data.lines import Progress
from cdeq.errors import StoreError

CHUNK = 256
"""Images that are in memory at once while they are decoded."""
FORMAT = 1

Unusable: TypeAlias = Literal["refuse", "skip"]
"""What to do with a file that is no image, or one that the framing refuses."""


class Sample(NamedTuple):
    """An image that is still to be decoded."""

    name: str
    label: int
    content: Path | bytes
    """A file, or what is in one."""


@dataclass(frozen=True)
class Source:
    """Images that may have to be decoded."""

    samples: Callable[[], Iterable[Sample]]
    """Gives every image; asked only where the cache is stale."""
    count: int
    """How many that are."""
    classes: tuple[str, ...]
    """The names of their classes."""
    stamp: str
    """Equal for equal samples."""


class Cached(NamedTuple):
    """All images of a source, and a sentence for each one that was left out."""

    images: ByteImageSet
    skipped: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How images get from their files into the cache.

    Arguments:
        framing: What becomes of each.
        unusable: Refuse a file that is no image, or leave it out and say so.
        threads: How many decode at once; decides no pixel.

    Raises:
        ValueError: When there is no thread.
    """

    framing: Framing = Framing()
    unusable: Unusable = "refuse"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"`threads` decode images, at least 1; got {self.threads}.")


def cached_images(
    path: Path, source: Source, decoding: Decoding, progress: Progress | None = None
) -> Cached:
    """The images from `path` where that was written from these very samples, else decoded.

    The file, in the safetensors format, appears whole or not at all: `image` (n × 3 × size ×
    size bytes), `label`, and the sentences about what was left out.

    Arguments:
        path: The cache.
        source: The samples.
        decoding: How they are decoded.
        progress: Told of every few hundred images: what is being done, how many are done, and how
            many there are.

    Raises:
        StoreError: When an image is refused, none of a class is left, or the cache cannot be
            written.
    """
    settings = repr((FORMAT, source.stamp, decoding.framing, decoding.unusable))
    stamp = sha256(settings.encode()).hexdigest()
    if (held := _held(path, stamp, source.classes)) is not None:
        return held
    with replacing(path) as file:
        _require_room(path, source.count * 3 * decoding.framing.size**2)
        decoded = _decoded(source, decoding, partial(progress or _silent, f"decoding {path.name}"))
        _write(file, stamp, decoded, decoding.framing.size, source.classes)
    if (held := _held(path, stamp, source.classes)) is not None:
        return held
    raise StoreError(f"{path} was replaced by another run just now; start this one again.")


def _held(path: Path, stamp: str, classes: tuple[str, ...]) -> Cached | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            if facts.get("stamp") != stamp:
                return None
            image, label, skipped = (file.get_tensor(n) for n in ("image", "label", "skipped"))
    except SafetensorError:
        return None  # damaged; the images are there to make it from again
    images = ByteImageSet(image=image, label=label, classes=classes, pixels=facts["pixels"])
    return Cached(images, tuple(json.loads(bytes(skipped.tolist()))))


def _decoded(
    source: Source, decoding: Decoding, progress: Callable[[int, int], object]
) -> Iterator[tuple[int, Tensor | str]]:
    """The label and the pixels of each sample, or why there are none."""
    remaining, done = iter(source.samples()), 0
    with ThreadPoolExecutor(decoding.threads) as pool:
        while chunk := list(islice(remaining, CHUNK)):
            # a single thread is this one, which Ctrl-C stops at once
            each = map if decoding.threads == 1 else pool.map
            pixels = each(partial(_pixels, decoding), chunk)
            yield from zip((sample.label for sample in chunk), pixels, strict=True)
            done += len(chunk)
            progress(done, source.count)


def _silent(doing: str, done: int, total: int) -> None:
    pass


def _pixels(decoding: Decoding, sample: Sample) -> Tensor | str:
    try:
        return decoding.framing.decode(sample.content, sample.name)
    except StoreError as error:
        if decoding.unusable == "skip":
            return str(error)
        raise StoreError(
            f"{str(error).removesuffix('.')}; mend or remove it, or leave all such files out "
            "(`unusable` skip)."
        ) from error


def _write(
    file: BinaryIO,
    stamp: str,
    decoded: Iterable[tuple[int, Tensor | str]],
    size: int,
    classes: Sequence[str],
) -> None:
    labels, skipped, first, pixels = array("q"), [], dict[int, str](), sha256()
    file.write(bytes(HEADER))
    for label, image in decoded:
        if isinstance(image, str):
            skipped.append(image)
            first.setdefault(label, image)
            continue
        labels.append(label)
        content = image.numpy().data
        pixels.update(content)
        file.write(content)
    if not labels:
        raise StoreError(
            f"there is no usable image among {len(skipped)} files; the first: {skipped[0]}"
        )
    for label in sorted(first.keys() - {*labels}):
        raise StoreError(
            f"there is no usable image of the class {classes[label]!r}; the first of its files: "
            f"{first[label]}"
        )
    pixels.update(labels.tobytes())
    end = file.tell() - HEADER
    text = json.dumps(skipped).encode()
    text += b" " * (-(end + len(text)) % 8)  # labels begin where a number of 8 bytes may
    file.write(text + labels.tobytes())
    shape = [len(labels), 3, size, size]
    bounds = (0, end, end + len(text), end + len(text) + 8 * len(labels))
    header = {
        "__metadata__": {"stamp": stamp, "pixels": pixels.hexdigest()},
        "image": {"dtype": "U8", "shape": shape, "data_offsets": bounds[0:2]},
        "skipped": {"dtype": "U8", "shape": [len(text)], "data_offsets": bounds[1:3]},
        "label": {"dtype": "I64", "shape": [len(labels)], "data_offsets": bounds[2:4]},
    }
    file.seek(0)
    # a safetensors file begins with the length of its header, which blanks may fill up
    content = json.dumps(header).encode().ljust(HEADER - 8)
    file.write((HEADER - 8).to_bytes(8, "little") + content)


def _require_room(path: Path, size: int) -> None:
    """Refuse before hours of decoding what could not be written at their end."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise StoreError(
            f"the decoded images take {size / 1e9:,.1f} GB, and {path.parent} has room for "
            f"{free / 1e9:,.1f} GB; make room, choose another cache folder or a smaller size."
        )
