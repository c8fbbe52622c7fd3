"""Folders of generated pictures, for tests."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cdeq.data.framing import Framing
from cdeq.data.image_cache import Cached, Decoding
from cdeq.data.image_folder import read_image_folder

EIGHT = Decoding(framing=Framing(size=8))
SKIP = Decoding(framing=Framing(size=8), unusable="skip")
CLASSES = ("ant", "bee", "cat")


def save(path: Path, seed: int, size: tuple[int, int] = (8, 8)) -> Tensor:
    """Writes a picture of noise, losslessly; its bytes as red, green and blue planes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8, generator=draw)
    Image.frombytes("RGB", size, image.numpy().tobytes()).save(path)
    return image.permute(2, 0, 1)


def fill(root: Path, each: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
    """Folders of classes with so many pictures each, some of them deeper."""
    made = {}
    for name, count in zip(CLASSES, each, strict=True):
        for number in range(count):
            inside = f"{name}/{'deep/' * (number % 2)}{number}.png"
            made[inside] = save(root / inside, seed + len(made))
    return made


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def passes(
    root: Path,
    decoding: Decoding = EIGHT,
) -> tuple[Cached, int]:
    """The images, and how many files had to be decoded."""
    seen: list[int] = []
    found = read_image_folder(root, decoding, progress=lambda _, done, total: seen.append(done))
    return found, max(seen, default=0)


def no_image(path: Path) -> None:
    path.write_text("a list of boxes")
