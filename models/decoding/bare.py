"""Image files without metadata: where a photo was taken, with what, by whom, and its thumbnails are left out.

The pixels stay as they are encoded, bit by bit; nothing is decoded. Of the metadata, the orientation is kept, because
it changes how the picture looks: as the only field of EXIF data. Colour profiles go, too: decoding ignores them.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from glimpse.models.decoding import formats, gif, jpeg, png, refusals
from glimpse.models.decoding.header import Header

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
_JFIF, _ADOBE, _START_OF_SCAN, _END_OF_IMAGE = 0xE0, 0xEE, 0xDA, 0xD9
_JPEG_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE))
# Of WebP, flags that say that there is a colour profile, EXIF data or XMP data.
_WEBP_PROFILE, _WEBP_EXIF, _WEBP_XMP = 0x20, 0x08, 0x04
_WEBP_PIXELS = frozenset((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"))
_PNG_CHUNK = struct.Struct(">L4s")


class BareFile(NamedTuple):
    """An image file that shows the same picture as the one it was made of."""

    data: bytes
    suffix: str  # of its name, with the dot


def without_metadata(data: bytes) -> BareFile:
    """The same picture without metadata; of an animation its first frame.

    Raises:
        RefusedImageError: expected; it is no file that is decoded.
    """
    header = formats.read(data)
    try:
        bare = _OF_FORMAT[header.form](header)
    except (IndexError, struct.error):
        raise refusals.truncated(f"within a {header.form}") from None
    return BareFile(bare, _SUFFIXES[header.form])


def png_of(pixels: bytes, height: int, width: int, channels: int) -> bytes:
    """A PNG file of raw pixels (uint8, row by row from the top left); `channels` is 1 for grey, 3 for RGB."""
    row = width * channels
    rows = b"".join([b"\0" + pixels[at : at + row] for at in range(0, height * row, row)])
    colour = {1: 0, 3: 2}[channels]
    header = struct.pack(">LLBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")
    return png.MAGIC + b"".join([_png_chunk(kind, content) for kind, content in chunks])


def _exif(orientation: int) -> bytes:
    """EXIF data (a TIFF header and one directory) whose only field is the orientation, 1 to 8."""
    field = struct.pack(">HHLHH", 0x0112, 3, 1, orientation, 0)
    return b"MM\0*" + struct.pack(">LH", 8, 1) + field + bytes(4)


def _jpeg(header: Header) -> bytes:
    """The reader has left out all metadata in front of the first scan, but for what tells the colours."""
    data = header.data
    made = [data[:2]]
    if header.orientation != 1:
        content = b"Exif\0\0" + _exif(header.orientation)
        made.append(b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content)
    at, code = 2, 0
    while code != _START_OF_SCAN:
        code, start, end = jpeg.segment(data, at)
        if code == _JFIF:  # its last two numbers are the sides of a thumbnail, which follows
            made.append(b"\xff\xe0\x00\x10" + data[start + 4 : start + 16] + b"\0\0")
        elif code == _ADOBE:
            made.append(b"\xff\xee\x00\x0e" + data[start + 4 : start + 16])
        else:
            made.append(data[start:end])
        at = end
    while match := jpeg.SCAN_END.search(data, at):
        start = match.start()
        made.append(data[at:start])
        code = data[start + 1]
        if code == _END_OF_IMAGE:  # what follows may be a second picture, or a film
            return b"".join([*made, b"\xff\xd9"])
        at = start + 2 + max(int.from_bytes(data[start + 2 : start + 4]), 2)
        if code not in _JPEG_METADATA:
            made.append(data[start:at])
    return b"".join([*made, data[at:]])


def _png(header: Header) -> bytes:
    """The reader has left out all that the picture does not need, but for what follows its end."""
    data, at = header.data, len(png.MAGIC)
    while at + 8 <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        at += 12 + length
        if kind == b"IEND":
            break
    if header.orientation == 1:
        return data[:at]
    behind = len(png.MAGIC) + 25  # the first chunk
    return data[:behind] + _png_chunk(b"eXIf", _exif(header.orientation)) + data[behind:at]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return _PNG_CHUNK.pack(len(content), kind) + content + struct.pack(">L", zlib.crc32(kind + content))


def _webp(header: Header) -> bytes:
    data, at = header.data, 12
    made: list[bytes] = []
    frames = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sL", data, at)
        content = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
        frames += kind == b"ANMF"
        if kind not in _WEBP_PIXELS or (kind == b"ANMF" and frames > 1):
            continue
        if kind == b"VP8X" and content:
            flags = content[0] & ~(_WEBP_PROFILE | _WEBP_EXIF | _WEBP_XMP)
            flags |= _WEBP_EXIF if header.orientation != 1 else 0
            content = bytes((flags,)) + content[1:]
        made.append(_webp_chunk(kind, content))
    if header.orientation != 1:
        made.append(_webp_chunk(b"EXIF", _exif(header.orientation)))
    body = b"WEBP" + b"".join(made)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def _webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<L", len(content)) + content + b"\0" * (len(content) % 2)


def _gif(header: Header) -> bytes:
    """The reader has left out the extensions in front of the first frame; what follows that frame goes, too."""
    data = header.data
    at = 13 + gif.palette(data[10])
    if data[at] == gif.EXTENSION:  # that of the frame alone is left
        at = _behind_blocks(data, at + 2)
    at += 10 + gif.palette(data[at + 9])
    end = _behind_blocks(data, at + 1)
    return data[:end] + bytes((gif.END,))


def _behind_blocks(data: bytes, at: int) -> int:
    """Where the blocks of data end that begin at `at`; a file may end before they do."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _bmp(header: Header) -> bytes:
    """A profile may follow the pixels, whose number the header tells; there is nowhere else to put any metadata."""
    data = header.data
    (at,) = struct.unpack_from("<L", data, 10)
    (length,) = struct.unpack_from("<L", data, 14)
    (bits,) = struct.unpack_from("<H", data, 24 if length == 12 else 28)
    width, height = header.size
    return data[: at + (width * bits + 31) // 32 * 4 * height] if at else data


_OF_FORMAT = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "BMP": _bmp}
