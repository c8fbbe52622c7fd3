"""Hugging Face images: the pixels and classes of the rows, whatever way they are kept."""

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from torch import Tensor

from cdeq.data.framing import Framing
from cdeq.data.hf_images import hf_image_set, read_hf_images
from cdeq.data.image_cache import Cached, Decoding
from cdeq.errors import CDEQError, StoreError
from cdeq.recipes.image_sources import HubSource

CLASSES = ["ant", "bee", "cat"]
EIGHT = Decoding(framing=Framing(size=8))
SKIP = Decoding(framing=Framing(size=8), unusable="skip")


def pixels(count: int = 12) -> Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=draw)


def png(image: Tensor) -> bytes:
    file = BytesIO()
    content = image.permute(1, 2, 0).contiguous().numpy().tobytes()
    Image.frombytes("RGB", (8, 8), content).save(file, "png")
    return file.getvalue()


FEATURES = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}


def rows(contents: list[Any], labels: list[Any] | None = None) -> datasets.Dataset:
    labels = [i % 3 for i in range(len(contents))] if labels is None else labels
    columns = {"image": contents, "label": labels}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(FEATURES))


def in_memory(count: int = 12) -> datasets.Dataset:
    return rows([{"bytes": png(image), "path": None} for image in pixels(count)])


def passes(
    dataset: datasets.Dataset, path: Path, decoding: Decoding = EIGHT, **names: str
) -> tuple[Cached, int]:
    seen: list[int] = []
    found = hf_image_set(
        dataset, decoding, path, progress=lambda _, done, total: seen.append(done), **names
    )
    return found, max(seen, default=0)


def test_rows_are_decoded_once(tmp_path: Path) -> None:
    for expected in (12, 0, 0):
        (images, skipped), decoded = passes(in_memory(), tmp_path / "train.images")
        assert decoded == expected
        assert torch.equal(images.image, pixels())
        assert images.label.tolist() == [0, 1, 2] * 4
        assert (images.classes, skipped) == (tuple(CLASSES), ())


def test_files_are_read_where_rows_name_them(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for path, image in zip(paths, pixels(), strict=True):
        path.write_bytes(png(image))
    images = hf_image_set(rows([str(path) for path in paths]), EIGHT, tmp_path / "cache").images
    assert torch.equal(images.image, pixels())


def test_chosen_shuffled_and_formatted_rows_are_their_own(tmp_path: Path) -> None:
    order = [7, 3, 3, 0]
    chosen = in_memory().select(order).with_format("torch")
    images = hf_image_set(chosen, EIGHT, tmp_path / "cache").images
    assert torch.equal(images.image, pixels()[order])
    assert images.label.tolist() == [i % 3 for i in order]


def test_other_rows_are_noticed(tmp_path: Path) -> None:
    whole, path = in_memory(), tmp_path / "cache"
    counts = [passes(part, path)[1] for part in (whole, whole, whole.select([1, 2]), whole)]
    assert counts == [12, 0, 2, 12]


def test_columns_are_named_where_there_are_several(tmp_path: Path) -> None:
    contents = [{"bytes": png(image), "path": None} for image in pixels()]
    columns = {"picture": contents, "mask": contents[::-1], "label": [0] * 12}
    kinds = {"picture": datasets.Image(), "mask": datasets.Image(), "label": FEATURES["label"]}
    twice = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    with pytest.raises(ValueError, match=r"feature Image .* got None, and .* are \['picture', 'm"):
        hf_image_set(twice, EIGHT, tmp_path / "cache")
    for name, wanted in (("picture", pixels()), ("mask", pixels().flip(0))):
        images = hf_image_set(twice, EIGHT, tmp_path / "cache", image=name).images
        assert torch.equal(images.image, wanted)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"image": "label"}, r"feature Image .* got 'label', and such columns are \['image'\]"),
        ({"label": "fine"}, r"feature ClassLabel .* got 'fine', and .* are \['label'\] of \['ima"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, names, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        hf_image_set(in_memory(), EIGHT, tmp_path / "cache", **names)


def test_numbers_without_names_are_no_classes(tmp_path: Path) -> None:
    plain = in_memory().cast_column("label", datasets.Value("int64"))
    with pytest.raises(ValueError, match=r"feature ClassLabel .* such columns are \[\]"):
        hf_image_set(plain, EIGHT, tmp_path / "cache")


def test_several_splits_at_once_are_refused(tmp_path: Path) -> None:
    several = datasets.DatasetDict({"train": in_memory()})
    with pytest.raises(TypeError, match="one split of the data; got DatasetDict"):
        hf_image_set(several, EIGHT, tmp_path / "cache")


@pytest.mark.parametrize("label", [-1, None])
def test_rows_without_a_class_are_refused(tmp_path: Path, label: int | None) -> None:
    """As official test splits have them."""
    contents = [{"bytes": png(image), "path": None} for image in pixels(3)]
    dataset = rows(contents, [0, 1, label])
    with pytest.raises(StoreError, match=f"classes from 0 to 2; row 2 of `image` has {label}"):
        hf_image_set(dataset, SKIP, tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_an_empty_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="row 1 of `image` is empty; remove that row"):
        hf_image_set(rows([png(pixels(1)[0]), None]), EIGHT, tmp_path / "cache")


def test_what_is_unusable_is_refused_or_skipped(tmp_path: Path) -> None:
    good = png(pixels(1)[0])
    dataset = rows([good, good[:60], b"no image", good, good, good])
    with pytest.raises(StoreError, match="row 1 of `image` cannot be read as an image"):
        hf_image_set(dataset, EIGHT, tmp_path / "cache")
    images, skipped = hf_image_set(dataset, SKIP, tmp_path / "cache")
    assert images.label.tolist() == [0, 0, 1, 2]
    assert [sentence[:16] for sentence in skipped] == ["row 1 of `image`", "row 2 of `image`"]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that `datasets` reads as it does a repository of the hub, with two splits."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "source" / "data"
    folder.mkdir(parents=True)
    in_memory(30).to_parquet(folder / "train-0.parquet")
    in_memory(9).to_parquet(folder / "test-0.parquet")
    return str(folder.parent)


def test_splits_are_given_or_held_out(source: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    parts = read_hf_images(source, EIGHT, cache=cache, validation=0.2)
    assert [part.labels.bincount().tolist() for part in parts[:3]] == [[8] * 3, [2] * 3, [3] * 3]
    assert sorted(path.name for path in cache.iterdir()) == ["test.8.images", "train.8.images"]
    order = parts.test.rows
    assert order is not None and sorted(order.tolist()) == [*range(9)]
    assert torch.equal(parts.test.image[order], pixels(9)[order])
    both = read_hf_images(source, EIGHT, cache=cache, validation="test", test=0.1)
    assert [len(part) for part in both[:3]] == [27, 9, 3]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_recipes_source_gives_the_same_parts_whoever_decodes(
    source: str, tmp_path: Path, threads: int
) -> None:
    framing = EIGHT.framing
    given = HubSource(
        name=source, framing=framing, validation=0.2, threads=threads, cache=tmp_path / "own"
    )
    expected = read_hf_images(source, EIGHT, cache=tmp_path / "cache", validation=0.2)
    found = given.load()
    assert (found.framing, found.parts.skipped) == (framing, expected.skipped)
    assert [part.digest() for part in found.parts[:3]] == [part.digest() for part in expected[:3]]


def test_columns_and_splits_of_a_recipes_source_are_those_asked_for(
    source: str, tmp_path: Path
) -> None:
    asked = {"name": source, "framing": EIGHT.framing, "cache": tmp_path / "cache"}
    parts = HubSource(**asked, train="test", test=0.3, validation=0.3).load().parts  # type: ignore[arg-type]
    assert sum(len(part) for part in parts[:3]) == 9
    for column in ("image", "label"):
        with pytest.raises(ValueError, match=r"needed, and named .* got 'other'"):
            HubSource(**asked, **{column: "other"}).load()  # type: ignore[arg-type]


@pytest.mark.parametrize("roles", [{"validation": "test"}, {"test": "train"}])
def test_no_split_has_two_roles(roles: dict[str, str], source: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no split is named twice; got"):
        read_hf_images(source, EIGHT, cache=tmp_path / "cache", **roles)


def test_a_source_that_cannot_be_fetched_is_named(source: str, tmp_path: Path) -> None:
    with pytest.raises(CDEQError, match=r"the split other of .*source could not be fetched \(Val"):
        read_hf_images(source, EIGHT, cache=tmp_path / "cache", test="other")


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = in_memory()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CDEQError, match=r"`datasets`, which is missing; install cdeq\[vision\]"):
        hf_image_set(dataset, EIGHT, tmp_path / "cache")
