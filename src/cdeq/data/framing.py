"""What an image file becomes: bytes of three colours, of one size, by rules that are written."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from cdeq.errors import CDEQError, StoreError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

THINNEST = 50
"""How many times its width a picture may be high that a square is cut out of, and vice versa."""
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is read; other formats that Pillow knows start programs, or are not pictures."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How image files become squares of red, green and blue.

    * A picture stands as its EXIF orientation says; of an animation, the first frame counts.
    * Grey pictures, one bit a pixel included, become three equal colours.
    * Palettes become their colours; CMYK and YCbCr are converted by Pillow, without profiles.
    * What is transparent is laid over white, or refused.
    * Grey pixels of 16 or 32 bits are refused: nothing says where their white is. Of colours of
      16 bits Pillow reads the upper half.

    Arguments:
        size: The side of the square.
        resize: The shorter side is brought to this length (Pillow's bilinear filter, which
            averages where it shrinks), at least `size`, and the centre is cut out. None changes
            no size, and refuses pictures of another than `size` × `size`.
        alpha: What to do with pictures that have transparency: lay them over white, or refuse.

    Raises:
        ValueError: When a length is below 1, or more is cut out than there is.

    Example:
        >>> from PIL import Image
        >>> file = BytesIO()
        >>> Image.new("L", (9, 6), 128).save(file, "png")
        >>> Framing(size=4, resize=4).decode(file.getvalue(), "grey")[:, 0, 0]
        tensor([128, 128, 128], dtype=torch.uint8)
    """

    size: int = 64
    resize: int | None = None
    alpha: Literal["white", "refuse"] = "white"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"`size` is the side of an image, at least 1; got {self.size}.")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"`resize` is a shorter side out of which {self.size} × {self.size} is cut, so at "
                f"least {self.size}; got {self.resize}."
            )

    def decode(self, content: Path | bytes, name: str = "") -> UInt8[Tensor, "3 s s"]:
        """One image.

        Arguments:
            content: A file, or what is in one.
            name: What errors call it; by default the path.

        Raises:
            StoreError: When it is no image, cut off, damaged, or refused by these rules.
            CDEQError: When Pillow is not installed.
        """
        name = name or str(content if isinstance(content, Path) else "the image")
        picture = self._framed(self._coloured(_opened(content, name), name), name)
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        return pixels.view(self.size, self.size, 3).permute(2, 0, 1).contiguous()

    def _coloured(self, picture: "Picture", name: str) -> "Picture":
        from PIL import Image

        if picture.mode.startswith(("I", "F")):
            raise StoreError(
                f"{name} has pixels of more than 8 bits (mode {picture.mode}); convert it to 8 "
                "bits a channel."
            )
        if not picture.has_transparency_data:
            return picture if picture.mode == "RGB" else picture.convert("RGB")
        if self.alpha == "refuse":
            raise StoreError(
                f"{name} has transparent pixels (mode {picture.mode}), which `alpha` refuse does "
                "not let through; flatten it, or choose `alpha` white."
            )
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")

    def _framed(self, picture: "Picture", name: str) -> "Picture":
        from PIL.Image import Resampling

        (width, height), size = picture.size, self.size
        if self.resize is None:
            if (width, height) != (size, size):
                raise StoreError(
                    f"{name} is {width} × {height} pixels, not {size} × {size}; set `resize` to "
                    "have pictures resized and cropped."
                )
            return picture
        if max(width, height) > THINNEST * min(width, height):
            raise StoreError(
                f"{name} is {width} × {height} pixels, one side more than {THINNEST} times the "
                "other, of which a square shows next to nothing; cut out what matters."
            )
        scale = self.resize / min(width, height)
        width, height = (max(self.resize, round(scale * side)) for side in (width, height))
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        return picture.crop((left, top, left + size, top + size))


def _opened(content: Path | bytes, name: str) -> "Picture":
    """All pixels, upright."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise CDEQError("Pillow reads images and is missing; install cdeq[vision].") from error
    file = BytesIO(content) if isinstance(content, bytes) else content
    try:
        with Image.open(file, formats=KINDS) as picture:
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return picture
    except UnidentifiedImageError as error:
        raise StoreError(
            f"{name} is no image of a kind that is read, {', '.join(KINDS)}."
        ) from error
    except Exception as error:  # a damaged image fails in a dozen ways
        raise StoreError(
            f"{name} cannot be read as an image ({type(error).__name__}: {error})."
        ) from error
