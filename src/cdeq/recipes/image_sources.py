"""Where a recipe's images come from: official archives, folders, the hub, or scikit-learn."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from cdeq.data.byte_images import ByteImageSet, ImageParts
from cdeq.data.cifar import read_cifar10
from cdeq.data.framing import Framing
from cdeq.data.hf_images import read_hf_images
from cdeq.data.image_cache import Decoding, Unusable
from cdeq.data.image_folder import read_image_parts
from cdeq.data.images import load_digits
from cdeq.data.lines import Progress
from cdeq.recipes.data_root import data_root, looking_in
from cdeq.recipes.kept import Kept


class Images(NamedTuple):
    """What a source gives."""

    parts: ImageParts
    framing: Framing
    """What files become that are to be classified."""
    further: tuple[tuple[str, ByteImageSet], ...] = ()
    """More sets to report on, by name."""


@dataclass(frozen=True, kw_only=True)
class CIFARSource:
    """CIFAR-10's official Python batches.

    What is reported is held out of the training images; the test batch is reported besides, under
    the name official-test.

    Arguments:
        root: The folder that holds cifar-10-batches-py; `CDEQ_DATA` by default.
        validation: Training images that are held out to select on.
        held_out: Training images that are held out to report.
        test_first: Only so many images of the test batch; None takes all.
        seed: Decides which images are held out.
    """

    root: Path = field(default_factory=data_root)
    validation: int = 2000
    held_out: int = 5000
    test_first: int | None = None
    seed: int = 0

    def load(self, progress: Progress | None = None) -> Images:
        """Its parts."""
        with looking_in(self.root):
            train, validation, held_out, test = read_cifar10(
                self.root / "cifar-10-batches-py",
                validation=self.validation,
                held_out=self.held_out,
                test_first=self.test_first,
                seed=self.seed,
            )
        parts = ImageParts(train, validation, held_out)
        return Images(parts, Framing(size=32, resize=32), (("official-test", test),))


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Images in folders of their classes, ImageNet's way (see `read_image_parts`).

    Arguments:
        path: The folder, from `root` unless it is absolute.
        root: The folder of all data sets; `CDEQ_DATA` by default.
        framing: What becomes of each image.
        validation: The share that is held out to select on, where there is no such folder.
        test: The share that is held out to report, where there is no such folder.
        seed: Decides which images are held out.
        unusable: Refuse a file that is no image, or leave it out and say so.
        threads: How many decode at once.
        cache: Where decoded images are kept; None is beside the folder.
    """

    path: Path = Path("images")
    root: Path = field(default_factory=data_root)
    framing: Framing = Framing(size=64, resize=64)
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    unusable: Unusable = "refuse"
    threads: int = 2
    cache: Path | None = None

    def load(self, progress: Progress | None = None) -> Images:
        """Its parts."""
        decoding = Decoding(framing=self.framing, unusable=self.unusable, threads=self.threads)
        folder = self.root / self.path
        with looking_in(self.root, folder):
            parts = read_image_parts(
                folder,
                decoding,
                validation=self.validation,
                test=self.test,
                seed=self.seed,
                cache=self.cache,
                progress=progress,
            )
        return Images(parts, self.framing)


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """An image data set of Hugging Face, through `datasets`.

    Arguments:
        name: A repository, `owner/name`, or a folder that `datasets` reads.
        config: Which of its configurations.
        revision: Which state of the repository.
        framing: What becomes of each image.
        train: The split to train on.
        validation: The split to select on, or the share of the training images held out for it.
        test: The split to report, or likewise.
        image: The column of images; None takes the only one there is.
        label: The column of classes; likewise.
        seed: Decides which images are held out.
        unusable: Refuse an image that cannot be read, or leave it out and say so.
        threads: How many decode at once.
        cache: Where decoded images are kept; None is `hub` in the folder of all data sets.
    """

    name: str = "uoft-cs/cifar10"
    config: str | None = None
    revision: str | None = None
    framing: Framing = Framing(size=32, resize=32)
    train: str = "train"
    validation: float | str = 0.1
    test: float | str = "test"
    image: str | None = None
    label: str | None = None
    seed: int = 0
    unusable: Unusable = "refuse"
    threads: int = 2
    cache: Path | None = None

    def load(self, progress: Progress | None = None) -> Images:
        """Its parts."""
        cache = self.cache or data_root() / "hub" / self.name.replace("/", "--")
        parts = read_hf_images(
            self.name,
            Decoding(framing=self.framing, unusable=self.unusable, threads=self.threads),
            cache=cache,
            config=self.config,
            revision=self.revision,
            train=self.train,
            validation=self.validation,
            test=self.test,
            image=self.image,
            label=self.label,
            seed=self.seed,
            progress=progress,
        )
        return Images(parts, self.framing)


@dataclass(frozen=True, kw_only=True)
class DigitsSource:
    """Scikit-learn's digits, grey made colours, 8 × 8 pixels.

    Arguments:
        limit: Only the first so many images of each part.
    """

    limit: int | None = None

    def load(self, progress: Progress | None = None) -> Images:
        """Its parts."""
        names = tuple(str(digit) for digit in range(10))
        train, validation, test = (
            ByteImageSet(
                image=(part.image * 255).round().to(torch.uint8).expand(-1, 3, -1, -1),
                label=part.label,
                classes=names,
            )
            for part in load_digits(limit=self.limit)
        )
        return Images(ImageParts(train, validation, test), Framing(size=8, resize=8))


Source: TypeAlias = CIFARSource | FolderSource | HubSource | DigitsSource


loaded: Kept[Images] = Kept()
"""Gives the images of a source."""
