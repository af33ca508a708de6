"""Image files made by hand, for what no encoder at hand writes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
# How a camera held in each of the eight ways of EXIF stores the same scene, [H, W, 3].
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.transpose(1, 0, 2),
    6: lambda scene: np.rot90(scene, 1),
    7: lambda scene: np.rot90(scene.transpose(1, 0, 2), 2),
    8: lambda scene: np.rot90(scene, -1),
}


def encoded(form: str, image: Image.Image, **options: object) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(form: str, scene: NDArray[np.uint8], orientation: int, **options: object) -> bytes:
    """A file that shows `scene` once its EXIF orientation is applied."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](scene))
    return encoded(form, Image.fromarray(stored), exif=exif, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG file: `rows` are as the format packs them, without the byte for the filter in front of each."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    length = len(rows) // height
    filtered = b"".join(b"\x00" + rows[at : at + length] for at in range(0, len(rows), length))
    return PNG + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")


def gif(
    screen: tuple[int, int],
    frame: tuple[int, int, int, int],
    indices: list[int],
    palette: bytes,
    *,
    control: tuple[int, int] | None = None,
    extensions: bytes = b"",
) -> bytes:
    """A GIF file of one frame with four colours, not compressed.

    Args:
        screen: its width and height.
        frame: left, top, width and height.
        indices: of the frame's pixels in the palette.
        palette: four colours of three bytes.
        control: disposal and the transparent index.
        extensions: what stands in front of the frame.
    """
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x81, 0, 0) + palette
    if control is not None:
        head += b"\x21\xf9\x04" + struct.pack("<BHB", control[0] << 2 | 1, 0, control[1]) + b"\x00"
    # LZW with codes of three bits: a code that clears the table (4) after every second pixel keeps them so short.
    codes = [code for i, index in enumerate(indices) for code in ([4, index] if i % 2 == 0 else [index])] + [5]
    bits = sum(code << 3 * i for i, code in enumerate(codes)).to_bytes((3 * len(codes) + 7) // 8, "little")
    pixels = b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02" + bytes([len(bits)]) + bits + b"\x00"
    return head + extensions + pixels + b";"


def bmp(width: int, height: int, bits: int, rows: bytes, *, palette: bytes = b"", masks: tuple[int, ...] = ()) -> bytes:
    """A BMP file with a BITMAPINFOHEADER and, where there are `masks`, one for each channel behind it.

    Args:
        width: pixels.
        height: rows; negative: they begin at the top.
        bits: of a pixel.
        rows: as they lie in the file, padded to four bytes each.
        palette: four bytes a colour.
        masks: red, green and blue, and alpha if there are four.
    """
    length = 40 if len(masks) < 4 else 56
    compression = 3 if masks else 0
    header = struct.pack("<IiiHHIIIIII", length, width, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
    if palette:
        header = header[:32] + struct.pack("<II", len(palette) // 4, 0)
    header += struct.pack(f"<{len(masks)}I", *masks) + palette
    at = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + header + rows


def other_bmp(
    width: int,
    height: int,
    bits: int,
    rows: bytes,
    *,
    header: int = 40,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
    colours: int = 0,
    gap: int = 0,
) -> bytes:
    """A BMP file with any header that there is.

    Args:
        width: pixels.
        height: rows; negative: they begin at the top.
        bits: of a pixel.
        rows: as they lie in the file, padded to four bytes each.
        header: bytes of the header: 12 of OS/2 1.x, 16 to 64 of OS/2 2.x, 40, 52, 56, 108 or 124 of Windows.
        compression: 0 none, 3 masks, 6 masks with one for alpha.
        masks: of the channels: within a header of 52 bytes or more, else behind it.
        palette: three bytes a colour with the shortest header, else four.
        colours: that the header says there are.
        gap: bytes between palette and pixels.
    """
    if header == 12:
        fields = struct.pack("<IHHHH", header, width, height, 1, bits)
    else:
        fields = struct.pack("<IiiHHIIIIII", header, width, height, 1, bits, compression, len(rows), 0, 0, colours, 0)
        packed = struct.pack(f"<{len(masks)}I", *masks)
        fields = (
            (fields + packed).ljust(header, b"\0") if header > 40 else fields[:header].ljust(header, b"\0") + packed
        )
    at = 14 + len(fields) + len(palette) + gap
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + fields + palette + bytes(gap) + rows


def exif_bomb(length: int) -> bytes:
    """EXIF data of `length` bytes in which every field claims to be all of it."""
    fields = min((length // 2) // 12, 60_000)
    listed = b"".join(struct.pack("<HHII", 0x1000 + (i & 0x7FFF), 7, length - 100, 8) for i in range(fields))
    head = b"II*\x00" + struct.pack("<IH", 8, fields) + listed
    return head + bytes(length - len(head))
