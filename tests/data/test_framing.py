"""From a file to three colours of one size: by the written rules, or a sentence why not."""

import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

from cdeq.data.framing import Framing
from cdeq.errors import CDEQError, StoreError

AS_IS = Framing(size=8)


def saved(picture: Image.Image, kind: str = "png", **settings: object) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def noise(mode: str, width: int = 8, height: int = 8) -> Image.Image:
    size = width * height * len(Image.new(mode, (1, 1)).getbands())
    content = torch.randint(0, 256, (size,), dtype=torch.uint8).numpy().tobytes()
    return Image.frombytes(mode, (width, height), content)


def pixels(picture: Image.Image) -> list[tuple[int, ...]]:
    """The colours, row by row, as Pillow tells them one at a time."""
    width, height = picture.size
    return [picture.getpixel((x, y)) for y in range(height) for x in range(width)]  # type: ignore[misc]


def colours(image: Tensor) -> list[tuple[int, ...]]:
    return [tuple(colour) for colour in image.flatten(1).T.tolist()]


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm", "webp"])
def test_bytes_of_colour_pictures_are_theirs(kind: str) -> None:
    picture = noise("RGB")
    settings = {"lossless": True} if kind == "webp" else {}
    assert colours(AS_IS.decode(saved(picture, kind, **settings))) == pixels(picture)


def test_a_file_is_its_contents(tmp_path: Path) -> None:
    content = saved(noise("RGB"), "jpeg")
    (tmp_path / "one.JPEG").write_bytes(content)
    assert torch.equal(AS_IS.decode(tmp_path / "one.JPEG"), AS_IS.decode(content))


def test_grey_is_three_equal_colours() -> None:
    picture = noise("L")
    for content in (saved(picture), saved(picture, "tiff")):
        assert colours(AS_IS.decode(content)) == [(value,) * 3 for value in pixels(picture)]


def test_one_bit_is_black_or_white() -> None:
    picture = noise("L").convert("1")
    assert colours(AS_IS.decode(saved(picture))) == [(value,) * 3 for value in pixels(picture)]


def test_palettes_become_their_colours() -> None:
    picture = noise("RGB").quantize(16)
    for kind in ("png", "gif"):
        assert colours(AS_IS.decode(saved(picture, kind))) == pixels(picture.convert("RGB"))


def test_cmyk_is_converted() -> None:
    flat = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = AS_IS.decode(saved(flat, "tiff"))[:, 0, 0].tolist()
    assert red < 30 and green > 150 and blue > 200


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = saved(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert colours(AS_IS.decode(content)) == [(255, 0, 0)] * 64


def test_pictures_stand_upright() -> None:
    picture, turned = noise("RGB"), Image.Exif()
    turned[0x0112] = 6  # shown turned by a quarter, clockwise
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    assert colours(AS_IS.decode(saved(picture, exif=turned))) == pixels(upright)


def over_white(colour: tuple[int, ...]) -> tuple[float, ...]:
    *mixed, alpha = colour
    return tuple(255 + (value - 255) * alpha / 255 for value in mixed)


TRANSPARENT = {
    "rgba": lambda: saved(noise("RGBA")),
    "la": lambda: saved(noise("LA")),
    "palette": lambda: saved(noise("RGB").quantize(8), transparency=3),
    "palette of alphas": lambda: saved(noise("RGB").quantize(4), transparency=bytes([9, 0, 255])),
    "one colour": lambda: saved(Image.new("RGB", (8, 8), "red"), transparency=(255, 0, 0)),
    "one grey": lambda: saved(noise("L").point(lambda v: v & 64), transparency=64),
    "gif": lambda: saved(noise("RGB").quantize(8), "gif", transparency=3),
}


@pytest.mark.parametrize("made", TRANSPARENT.values(), ids=TRANSPARENT)
def test_what_is_transparent_lies_over_white_or_is_refused(made) -> None:
    content = made()
    picture = Image.open(BytesIO(content)).convert("RGBA")
    assert picture.getchannel("A").getextrema()[0] < 255
    wanted = torch.tensor([over_white(colour) for colour in pixels(picture)])
    ours = torch.tensor(colours(AS_IS.decode(content)))
    assert float((ours - wanted).abs().max()) <= 1.0
    with pytest.raises(StoreError, match=r"it has transparent pixels .*, which .alpha. refuse"):
        Framing(size=8, alpha="refuse").decode(content, "it")


def test_without_transparency_nothing_is_refused() -> None:
    for mode in ("RGB", "L", "1"):
        content = saved(noise("L").convert(mode))
        refusing = Framing(size=8, alpha="refuse").decode(content)
        assert torch.equal(refusing, AS_IS.decode(content))


@pytest.mark.parametrize(("width", "height"), [(40, 24), (24, 40), (31, 31), (5, 9), (24, 24)])
def test_the_centre_of_what_was_resized_is_cut_out(width: int, height: int) -> None:
    picture = noise("RGB", width, height)
    longer = round(24 * max(width, height) / min(width, height))
    size = (longer, 24) if width > height else (24, longer)
    left, top = (size[0] - 16) // 2, (size[1] - 16) // 2
    wanted = picture.resize(size, Resampling.BILINEAR).crop((left, top, left + 16, top + 16))
    assert colours(Framing(size=16, resize=24).decode(saved(picture))) == pixels(wanted)


@pytest.mark.parametrize(("width", "height"), [(1, 60_000), (60_000, 1), (2, 101)])
def test_a_thin_picture_is_refused_before_it_grows(width: int, height: int) -> None:
    content = saved(Image.new("RGB", (width, height)))
    text = f"it is {width} × {height} pixels, one side more than 50 times the other"
    with pytest.raises(StoreError, match=text):
        Framing(size=8, resize=256).decode(content, "it")
    assert Framing(size=8, resize=8).decode(saved(Image.new("RGB", (2, 100)))).shape == (3, 8, 8)


def test_to_its_own_size_a_picture_is_resized_to_itself() -> None:
    content = saved(noise("RGB"))
    assert torch.equal(Framing(size=8, resize=8).decode(content), AS_IS.decode(content))


@pytest.mark.parametrize(("width", "height"), [(8, 7), (7, 8), (16, 16)])
def test_another_size_is_refused_without_resizing(width: int, height: int) -> None:
    text = f"it is {width} × {height} pixels, not 8 × 8; set `resize`"
    with pytest.raises(StoreError, match=text):
        AS_IS.decode(saved(noise("RGB", width, height)), "it")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(mode: str) -> None:
    content = saved(Image.new(mode, (8, 8)), "tiff")
    with pytest.raises(StoreError, match=r"it has pixels of more than 8 bits .*; convert it to 8"):
        AS_IS.decode(content, "it")


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "gif", "tiff", "ppm"])
def test_a_file_that_was_cut_off_is_refused(kind: str) -> None:
    content = saved(noise("RGB", 64, 64), kind)
    assert Framing(size=64).decode(content).shape == (3, 64, 64)
    with pytest.raises(StoreError, match=r"it (cannot be read as an|is no) image"):
        Framing(size=64).decode(content[: len(content) // 2], "it")


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(100)])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(StoreError, match="it is no image of a kind that is read, JPEG, PNG, "):
        AS_IS.decode(content, "it")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(StoreError, match=rf"{path} cannot be read as an image \(.*Error: "):
            AS_IS.decode(path)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"size": 0}, "`size` is the side of an image, at least 1; got 0"),
        ({"size": 8, "resize": 7}, "at least 8; got 7"),
    ],
)
def test_impossible_sizes_are_refused(settings: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Framing(**settings)  # type: ignore[arg-type]


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(noise("RGB"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CDEQError, match=r"Pillow .* is missing; install cdeq\[vision\]"):
        AS_IS.decode(content)
