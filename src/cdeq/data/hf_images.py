"""Image data sets of Hugging Face: features `Image` and `ClassLabel`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from cdeq.data.byte_images import ImageParts, divide
from cdeq.data.image_cache import Cached, Decoding, Sample, Source, cached_images
from cdeq.data.lines import Progress
from cdeq.errors import CDEQError, StoreError

Dataset: TypeAlias = Any
"""A `datasets.Dataset`; the package need not be there for this module to be imported."""


def read_hf_images(
    source: str,
    decoding: Decoding,
    *,
    cache: Path,
    config: str | None = None,
    revision: str | None = None,
    train: str = "train",
    validation: str | float = 0.1,
    test: str | float = "test",
    image: str | None = None,
    label: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImageParts:
    """Train, validation and test images of a data set, fetched where it is not there.

    Arguments:
        source: A repository of the hub, `owner/name`, or a folder that `datasets` reads.
        decoding: How images are decoded.
        cache: The folder that decoded images are kept in, besides what `datasets` keeps.
        config: Which of the source's configurations.
        revision: Which state of the repository.
        train: The split to train on.
        validation: The split to select on, or the share of `train` that is held out for it.
        test: The split to report, or likewise.
        image: The column of images; None takes the only one there is.
        label: The column of classes; likewise.
        seed: Decides which images are held out, and the order of the parts.
        progress: Told of the images that are decoded.

    Raises:
        ValueError: When a share is none, a split is named twice, or columns are not what they
            should be.
        StoreError: When an image is refused, a label is no class, or the cache cannot be written.
        CDEQError: When `datasets` is not installed or does not succeed.
    """

    def read(split: str) -> Cached:
        dataset = _loaded(source, config, split, revision)
        path = cache / f"{split}.{decoding.framing.size}.images"
        return hf_image_set(dataset, decoding, path, image=image, label=label, progress=progress)

    names = [name for name in (train, validation, test) if isinstance(name, str)]
    if len({*names}) < len(names):
        raise ValueError(
            "what is trained on, selected on and reported are different images, so no split is "
            f"named twice; got {names}; name others, or shares of `train` to hold out."
        )
    splits = {name: read(name) for name in names}
    parts = divide(
        splits[train].images,
        validation=splits[validation].images if isinstance(validation, str) else validation,
        test=splits[test].images if isinstance(test, str) else test,
        seed=seed,
    )
    skipped = (sentence for part in splits.values() for sentence in part.skipped)
    return ImageParts(*parts, skipped=tuple(skipped))


def _loaded(source: str, config: str | None, split: str, revision: str | None) -> Dataset:
    load_dataset = _package().load_dataset
    try:
        return load_dataset(source, config, split=split, revision=revision)
    except Exception as error:  # a hub out of reach fails in a dozen ways
        raise CDEQError(
            f"the split {split} of {source} could not be fetched ({type(error).__name__}: "
            f"{error}); try again, give a folder, or the share of the training images to hold out "
            "where there is no such split."
        ) from error


def hf_image_set(
    dataset: Dataset,
    decoding: Decoding,
    path: Path,
    *,
    image: str | None = None,
    label: str | None = None,
    progress: Progress | None = None,
) -> Cached:
    """The images of one `datasets.Dataset`, decoded once and kept.

    What is kept is used for as long as the fingerprint stays that `datasets` gives the data.

    Arguments:
        dataset: With a column of the feature `Image` and one of `ClassLabel`.
        decoding: How images are decoded.
        path: The file they are kept in.
        image: The column of images; None takes the only one there is.
        label: The column of classes; likewise.
        progress: Told of the images that are decoded.

    Raises:
        TypeError: When the data set is none that knows its length.
        ValueError: When columns are not what they should be.
        StoreError: When an image is refused, a label is no class, or the file cannot be written.
        CDEQError: When `datasets` is not installed.
    """
    package = _package()
    if not isinstance(dataset, package.Dataset):
        raise TypeError(
            f"a `datasets.Dataset` is needed, one split of the data; got {type(dataset).__name__}."
        )
    image = _column(dataset, package.Image, image)
    label = _column(dataset, package.ClassLabel, label)
    classes = tuple(dataset.features[label].names)
    rows = dataset.with_format(None).select_columns([image, label])
    rows = rows.cast_column(image, package.Image(decode=False))

    def samples() -> Iterator[Sample]:
        for number, row in enumerate(rows):
            name = f"row {number} of `{image}`"
            yield Sample(name, _class(row[label], name, len(classes)), _content(row[image], name))

    stamp = f"{dataset._fingerprint} {image} {label} {classes}"
    source = Source(samples, len(rows), classes, stamp)
    return cached_images(path, source, decoding, progress)


def _package() -> Any:  # noqa: ANN401 - an optional package
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CDEQError(
            "data sets of Hugging Face are read by `datasets`, which is missing; install "
            "cdeq[vision]."
        ) from error
    return datasets


def _column(dataset: Dataset, kind: type, asked: str | None) -> str:
    having = [name for name, feature in dataset.features.items() if isinstance(feature, kind)]
    found = having if asked is None else [name for name in having if name == asked]
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"one column of the feature {kind.__name__} is needed, and named where there are several "
        f"(`image`, `label`); got {asked!r}, and such columns are {having} of "
        f"{[*dataset.features]}."
    )


def _class(label: int | None, name: str, classes: int) -> int:
    if label is None or not 0 <= label < classes:
        raise StoreError(f"labels are classes from 0 to {classes - 1}; {name} has {label}.")
    return label


def _content(image: dict[str, Any] | None, name: str) -> Path | bytes:
    if image is not None and image["bytes"] is not None:
        return image["bytes"]
    if image is not None and image["path"] is not None:
        return Path(image["path"])
    raise StoreError(f"{name} is empty; remove that row.")
