"""What a BMP file holds, from its header: OS/2's two and Windows' five (BITMAPCOREHEADER to BITMAPV5HEADER)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import partial

from glimpse.models.decoding import bmp_pixels, refusals
from glimpse.models.decoding.header import Header

MAGIC = b"BM"
# The length of a header, width and height, one plane, and so many bits a pixel: a picture as the clipboard has it, and
# as some programs write it into a file that is called .dib.
_BARE = re.compile(rb"[\x28\x34\x38\x6c\x7c]\0{3}.{8}\x01\0[\x01\x02\x04\x08\x10\x18\x20]\0", re.DOTALL)
FRONT = 14  # bytes of what stands in front of the header that is told by its length
CORE = 12  # bytes of the oldest header: sides of 16 bits, colours of three bytes, no compression
_INFO, _V2, _V3 = 40, 52, 56
_OS2 = 64  # bytes of the header of OS/2 2.x, of which anything from 16 bytes on may be written
# Windows' headers with their masks inside. The last two hold a colour space as well, which is left alone.
_WINDOWS = frozenset((_INFO, _V2, _V3, 108, 124))
_PILLOW = _WINDOWS | {CORE, _OS2}  # headers that Pillow reads
_RGB, _BITFIELDS, _ALPHA_BITFIELDS = 0, 3, 6
# Pillow unpacks runs in Python, pixel by pixel: seconds for a picture within the limits.
_COMPRESSIONS = {
    1: "run lengths",
    2: "run lengths",
    4: "JPEG",
    5: "PNG",
    11: "inks",
    12: "inks",
    13: "inks",
}
_OS2_COMPRESSIONS = {3: "Huffman codes", 4: "run lengths"}
_INSTEAD = "one without compression, or a PNG"
# Red, green, blue and alpha that Pillow tells apart, by the bits of a pixel; it leaves out the alpha of 16 bits. Of no
# masks at all it makes the usual ones.
_KNOWN = {
    16: {(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)},
    24: {(0xFF0000, 0xFF00, 0xFF, 0)},
    32: {
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0),
        (0xFF000000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
        (0, 0, 0, 0),
    },
}


@dataclass(frozen=True, slots=True)
class _Fields:
    """What any of the headers says."""

    length: int  # of the header itself
    width: int
    height: int  # negative: rows from the top
    bits: int  # of a pixel
    compression: int
    colours: int  # in the palette; 0: as many as the bits can number


def is_bare(data: bytes) -> bool:
    """Whether a file starts as a BMP does behind what stands in front of its header."""
    return _BARE.match(data) is not None


def read_bare(data: bytes) -> Header:
    """The header of a file that starts as a BMP does behind what stands in front of its header.

    Raises:
        RefusedImageError: expected; as of `read`.
    """
    try:
        fields = _fields(bytes(FRONT) + data[: max(_WINDOWS)])
        colours = fields.colours or (1 << fields.bits if fields.bits <= 8 else 0)
        at = FRONT + fields.length + _masks_behind(fields) + 4 * colours
        front = struct.pack("<2sLLL", MAGIC, FRONT + len(data), 0, at)
    except struct.error:
        raise refusals.truncated("within the header of a BMP") from None
    return read(front + data)


def read(data: bytes) -> Header:
    """The header of a file that starts as a BMP does.

    Raises:
        RefusedImageError: expected; the file ends in its header or is of a kind that is refused.
    """
    try:
        fields = _fields(data)
        masks = _masks(data, fields)
    except struct.error:
        raise refusals.truncated("within the header of a BMP") from None
    size = fields.width, abs(fields.height)
    if _pillow_reads(fields, masks):
        return Header("BMP", size, data)
    (at,) = struct.unpack_from("<L", data, 10)
    behind = FRONT + fields.length
    entry = 3 if fields.length == CORE else 4
    colours = 0
    if fields.bits <= 8:
        colours = min(fields.colours or 1 << fields.bits, 1 << fields.bits)
        colours = min(colours, max((at or len(data)) - behind, 0) // entry)
    layout = bmp_pixels.Layout(
        size=size,
        bits=fields.bits,
        from_top=fields.height < 0,
        at=at or behind + (colours * entry if colours else 12 * (fields.length == _INFO and bool(masks))),
        masks=masks,
        palette=data[behind : behind + colours * entry],
        entry=entry,
    )
    return Header("BMP", size, data, pixels=partial(bmp_pixels.picture, data, layout))


def _fields(data: bytes) -> _Fields:
    (length,) = struct.unpack_from("<L", data, FRONT)
    if length == CORE:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        fields = _Fields(length, width, height, bits, _RGB, 0)
    elif length in _WINDOWS or _is_os2(length):
        width, height, _, bits = struct.unpack_from("<llHH", data, 18)
        (compression,) = struct.unpack_from("<L", data, 30) if length >= 20 else (_RGB,)
        (colours,) = struct.unpack_from("<L", data, 46) if length >= 36 else (0,)
        fields = _Fields(length, width, height, bits, compression, colours)
    else:
        raise refusals.damaged(f"a BMP with a header of {length} bytes, which does not exist")
    _check(fields)
    return fields


def _is_os2(length: int) -> bool:
    return 16 <= length <= _OS2 and length not in _WINDOWS and (length % 4 == 0 or length in {42, 46})


def _check(fields: _Fields) -> None:
    """Refuse by name what is not decoded."""
    os2 = _is_os2(fields.length)
    plain = fields.compression == _RGB or (not os2 and fields.compression in {_BITFIELDS, _ALPHA_BITFIELDS})
    if not plain:
        names = _OS2_COMPRESSIONS if os2 and fields.compression in _OS2_COMPRESSIONS else _COMPRESSIONS
        name = names.get(fields.compression, f"compression {fields.compression}")
        raise refusals.unsupported(f"BMP with {name}", _INSTEAD)
    if fields.bits in {0, 64}:
        raise refusals.unsupported(f"BMP of {fields.bits} bits a pixel", "one of 1 to 32 bits, or a PNG")
    if fields.bits not in {1, 2, 4, 8, 16, 24, 32}:
        raise refusals.damaged(f"a BMP of {fields.bits} bits a pixel, which does not exist")


def _masks(data: bytes, fields: _Fields) -> tuple[int, ...]:
    """Of red, green, blue and alpha in a pixel; none where they follow from its bits."""
    if fields.compression == _RGB:
        return ()
    if fields.bits < 16:
        raise refusals.unsupported(f"BMP with colour masks for {fields.bits} bits a pixel", _INSTEAD)
    # They follow the plain header and are part of the later ones, at the same place; of alpha only where there is room.
    number = 4 if fields.length >= _V3 or fields.compression == _ALPHA_BITFIELDS else 3
    masks = struct.unpack_from(f"<{number}L", data, FRONT + _INFO)
    if number == 4 and not bmp_pixels.is_mask(masks[3], fields.bits):
        masks = masks[:3]  # an alpha that no pixel can have
    known = (*masks, 0)[:4] in _KNOWN[fields.bits]
    if not known and not (any(masks[:3]) and all(bmp_pixels.is_mask(mask, fields.bits) for mask in masks)):
        shown = ", ".join(f"{mask:X}" for mask in masks)
        raise refusals.unsupported(f"BMP of {fields.bits} bits a pixel with the colour masks {shown}", _INSTEAD)
    return masks


def _masks_behind(fields: _Fields) -> int:
    """Bytes of colour masks between the header and the pixels."""
    if fields.length != _INFO:
        return 0
    return {_BITFIELDS: 12, _ALPHA_BITFIELDS: 16}.get(fields.compression, 0)


def _pillow_reads(fields: _Fields, masks: tuple[int, ...]) -> bool:
    if fields.length not in _PILLOW or fields.bits == 2 or fields.compression == _ALPHA_BITFIELDS:
        return False
    if fields.bits <= 8 and fields.colours > 1 << fields.bits:
        return False
    return not masks or (*masks, 0)[:4] in _KNOWN[fields.bits]
