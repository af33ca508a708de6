"""Training and serving see the same pixels of the same bytes, whatever kind of file they are."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.models.decoding import formats
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.decoding.refusals import Kind
from glimpse.models.prestem import host
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.train.data import read
from glimpse.server.decoding.decode import decode
from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage
from glimpse.server.errors import Reason
from tests.server.files import chunk, encoded, gif, turned
from tests.server.test_decode_pictures import BMPS, GIFS, PALETTE, PNGS, adobe, cmyk, noise, scene
from tests.server.test_odd_bmps import OTHER_BMPS
from tests.server.test_odd_pngs import ODD_PNGS

LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6)
RECIPES = [Recipe(height=48, width=48), Recipe(height=6, width=5, geometry="letterbox", smaller="resize")]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def control(flags: int, index: int) -> bytes:
    return b"\x21\xf9\x04" + struct.pack("<BHB", flags, 0, index) + b"\x00"


def modes() -> dict[str, bytes]:
    """A picture of every kind that Pillow writes in every format."""
    colour = Image.fromarray(scene(24, 33))
    alpha = Image.linear_gradient("L").resize(colour.size)
    clear = colour.convert("RGBA")
    clear.putalpha(alpha)
    indexed = clear.convert("P", palette=Image.Palette.ADAPTIVE)
    deep = Image.fromarray((np.asarray(colour.convert("L")).astype(np.uint16) << 8) + 77)
    kinds = {
        "1": colour.convert("1"),
        "L": colour.convert("L"),
        "LA": clear.convert("LA"),
        "P": colour.convert("P"),
        "PA": clear.convert("PA"),
        "P of alphas": indexed,
        "RGB": colour,
        "RGBA": clear,
        "I;16": deep,
        "CMYK": colour.convert("CMYK"),
        "YCbCr": colour.convert("YCbCr"),
    }
    found = {}
    for form in formats.FORMATS:
        for name, picture in kinds.items():
            try:
                found[f"{form} {name}"] = encoded(form, picture)
            except (OSError, ValueError):  # there is no such file
                continue
    for index, transparency in enumerate((0, 7, bytes(range(0, 256, 3)))):
        found[f"PNG P, transparency {index}"] = encoded("PNG", colour.convert("P"), transparency=transparency)
        if isinstance(transparency, int):
            found[f"GIF P, transparency {index}"] = encoded("GIF", colour.convert("P"), transparency=transparency)
    return found


def photos() -> dict[str, bytes]:
    upright = scene(24, 33)
    colour = Image.fromarray(upright)
    plain = encoded("JPEG", colour)
    found = {
        f"{form} turned {orientation}": turned(form, upright, orientation)
        for form in ("JPEG", "PNG", "WEBP")
        for orientation in range(1, 9)
    }
    inks = encoded("JPEG", cmyk(), quality=95)
    found |= {
        "JPEG progressive": encoded("JPEG", colour, progressive=True),
        "JPEG 4:2:0 with restarts": encoded("JPEG", colour, subsampling="4:2:0", restart_marker_blocks=1),
        "JPEG without a transform": adobe(inks, 0),
        "JPEG YCCK": adobe(inks, 2),
        "JPEG with zeros behind a comment": plain[:2] + b"\xff\xfe\x00\x06abcd\x00\x00" + plain[2:],
        "JPEG with an orientation in XMP": encoded("JPEG", colour, xmp=XMP),
        "JPEG with two orientations": twice(turned("JPEG", upright, 1), turned("JPEG", upright, 6)),
        "PNG with an orientation in XMP": encoded("PNG", colour, exif=b"").replace(
            chunk(b"IEND", b""), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + chunk(b"IEND", b"")
        ),
    }
    frames = [Image.fromarray(noise(9, 11)), colour.resize((11, 9)), Image.new("RGB", (11, 9), "blue")]
    clear = [frame.convert("RGBA") for frame in frames]
    for frame in clear:
        frame.putalpha(Image.linear_gradient("L").resize(frame.size))
    for form in ("PNG", "WEBP", "GIF"):
        for disposal in (0, 1, 2) if form != "WEBP" else (0,):
            options = {} if form == "WEBP" else {"disposal": disposal}
            several = {"save_all": True, **options}
            found[f"{form} animated {disposal}"] = encoded(form, frames[0], append_images=frames[1:], **several)
            found[f"{form} animated, clear {disposal}"] = encoded(form, clear[0], append_images=clear[1:], **several)
    found["PNG with a picture of its own"] = encoded(
        "PNG", frames[0], save_all=True, append_images=frames[1:], default_image=True
    )
    buffer = io.BytesIO()
    frames[0].save(buffer, "MPO", save_all=True, append_images=frames[1:])
    found["JPEG with further pictures"] = buffer.getvalue()
    found["GIF with two controls"] = gif(
        (3, 1), (1, 0, 2, 1), [1, 2], PALETTE, extensions=control(1, 1) + control(0, 0) + control(1, 2)
    )
    found["GIF with a control that is taken back"] = gif(
        (2, 1), (0, 0, 2, 1), [1, 2], PALETTE, extensions=control(1, 1) + control(0, 0)
    )
    return found


def twice(one: bytes, other: bytes) -> bytes:
    """The first with the EXIF data of the second behind its own."""
    (at, end), (start, stop) = (segment(data) for data in (one, other))
    assert at < end
    return one[:end] + other[start:stop] + one[end:]


def segment(data: bytes) -> tuple[int, int]:
    at = data.index(b"\xff\xe1")
    return at, at + 2 + int.from_bytes(data[at + 2 : at + 4])


TABLES = {"PNG": PNGS, "GIF": GIFS, "BMP": BMPS}
USUAL = {f"{form} {name}": data for form, table in TABLES.items() for name, (data, _) in table.items()}
USUAL |= modes() | photos()
ODD = {f"BMP {name}": data for name, (data, _) in OTHER_BMPS.items()}
ODD |= {f"PNG {name}": data for name, (data, _) in ODD_PNGS.items()}
FILES = USUAL | ODD
SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}


@pytest.mark.parametrize("recipe", RECIPES, ids=["as they are", "fitted"])
def test_what_is_trained_on_is_what_is_served(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "cat").mkdir()
    for number, (name, data) in enumerate(FILES.items()):
        (tmp_path / "cat" / f"{number:04}{SUFFIX[name.split()[0]]}").write_bytes(data)
    trained = read(tmp_path, recipe).pixels
    assert len(trained) == len(FILES) > 150
    for (name, data), pixels in zip(FILES.items(), trained, strict=True):
        served = prepare(EncodedImage(data), recipe, LIMITS).pixels
        np.testing.assert_array_equal(pixels, served, name)


# Pillow makes another picture of them: it takes what the last of several says, and metadata that no viewer does.
ANOTHER = {"GIF with a control that is taken back"}


@pytest.mark.parametrize("name", sorted(USUAL.keys() - ANOTHER))
def test_a_picture_that_pillow_has_opened_becomes_what_is_served(name: str) -> None:
    with Image.open(io.BytesIO(USUAL[name])) as image:
        opened = np.asarray(host.to_rgb(image))
    np.testing.assert_array_equal(opened, served(USUAL[name]))


def served(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode(EncodedImage(data), LIMITS).image)


def test_whatever_the_decoder_refuses_has_a_reason_of_the_service() -> None:
    assert {kind.value for kind in Kind} <= {reason.value for reason in Reason}
