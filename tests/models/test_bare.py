"""Image files without metadata: the same pixels, and nothing of what was written about them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import ExifTags, Image, PngImagePlugin

from glimpse.models.decoding.bare import png_of, without_metadata
from glimpse.models.decoding.decode import decode
from glimpse.models.decoding.limits import OWN_FILES
from glimpse.models.decoding.refusals import RefusedImageError

SECRET = b"Ada Lovelace, 51.5 N"
PHOTO = Image.fromarray(skimage.data.chelsea()[:150, :120])


def exif(orientation: int) -> bytes:
    fields = Image.Exif()
    fields[ExifTags.Base.Orientation] = orientation
    fields[ExifTags.Base.Artist] = SECRET.decode()
    fields.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] = SECRET
    return fields.tobytes()


def saved(form: str, image: Image.Image = PHOTO, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def jpeg(orientation: int, **options: Any) -> bytes:
    return saved("JPEG", exif=exif(orientation), comment=SECRET, icc_profile=SECRET * 9, xmp=SECRET, **options)


def png(orientation: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET.decode())
    return saved("PNG", exif=exif(orientation), pnginfo=info)


def webp(orientation: int, **options: Any) -> bytes:
    return saved("WEBP", exif=exif(orientation), xmp=SECRET, icc_profile=SECRET * 9, **options)


def animation(form: str) -> bytes:
    frames = [PHOTO.rotate(90 * number) for number in range(3)]
    return saved(form, frames[0], save_all=True, append_images=frames[1:], duration=100)


MAKERS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: jpeg(1),
    "JPEG on its side": lambda: jpeg(6),
    "progressive JPEG": lambda: jpeg(8, progressive=True),
    "JPEG of four inks": lambda: saved("JPEG", PHOTO.convert("CMYK"), comment=SECRET),
    "JPEG with something behind it": lambda: jpeg(1) + saved("JPEG", PHOTO.rotate(90), comment=SECRET) + SECRET,
    "grey JPEG": lambda: saved("JPEG", PHOTO.convert("L"), comment=SECRET),
    "PNG": lambda: png(1),
    "PNG upside down": lambda: png(3),
    "PNG with a palette": lambda: saved("PNG", PHOTO.quantize(9)) + SECRET,
    "WebP": lambda: webp(1),
    "WebP on its side": lambda: webp(6),
    "lossless WebP": lambda: webp(1, lossless=True),
    "moving WebP": lambda: animation("WEBP"),
    "GIF": lambda: saved("GIF", comment=SECRET),
    "moving GIF": lambda: animation("GIF") + SECRET,
    "BMP": lambda: saved("BMP") + SECRET,
    "BMP with a palette": lambda: saved("BMP", PHOTO.quantize(16)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_picture_stays_as_it_is_and_the_metadata_go(name: str) -> None:
    data = MAKERS[name]()
    bare = without_metadata(data)
    shown, kept = (np.asarray(decode(each, OWN_FILES).image) for each in (data, bare.data))
    assert np.array_equal(shown, kept)
    assert SECRET not in bare.data
    assert len(bare.data) <= len(data)
    assert bare.suffix[1:].replace("jpg", "jpeg") in name.lower()
    again = without_metadata(bare.data)
    assert again == bare


def test_a_thumbnail_and_what_stands_between_scans_go() -> None:
    data = jpeg(1, progressive=True)
    small = bytes(3 * 4 * 4)
    jfif = b"\xff\xe0" + (16 + len(small)).to_bytes(2) + b"JFIF\0\1\1\0\0\1\0\1\4\4" + small
    start = data.index(b"\xff\xdb")
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    comment = b"\xff\xfe" + (len(SECRET) + 2).to_bytes(2) + SECRET
    made = data[:2] + jfif + data[start:second] + comment + data[second:]
    bare = without_metadata(made).data
    assert np.array_equal(np.asarray(decode(made, OWN_FILES).image), np.asarray(decode(bare, OWN_FILES).image))
    assert SECRET not in bare
    assert b"JFIF\0\1\1\0\0\1\0\1\0\0" in bare
    assert small not in bare[:200]


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_that_ends_early_is_refused_or_cut_where_it_was(name: str) -> None:
    data = MAKERS[name]()
    for end in range(0, len(data), max(1, len(data) // 60)):
        try:
            bare = without_metadata(data[:end]).data
        except RefusedImageError:
            continue
        assert len(bare) <= end + 12


@pytest.mark.parametrize("shape", [(7, 5, 3), (7, 5, 1)])
def test_raw_pixels_become_a_png_of_the_same_pixels(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(png_of(pixels.tobytes(), *shape)))
    image.load()
    assert np.array_equal(np.asarray(image).reshape(shape), pixels)
