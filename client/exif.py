"""The one field of EXIF data that changes how a picture looks: its orientation.

The server has the same in `models.decoding.exif`: client and library import nothing of each other, and a test holds
the two equal.
"""

from __future__ import annotations

import struct

_PREFIX = b"Exif\x00\x00"
_ORDERS = {b"II*\x00": "<", b"MM\x00*": ">"}
_ORIENTATION = 0x0112  # CIPA DC-008 (EXIF 2.32), section 4.6.5.1
_SHORT, _LONG = 3, 4
_FIELD = "HHL4s"  # tag, type, count, value


def orientation(data: bytes) -> int:
    """The orientation in EXIF data, 1 to 8; 1, upright, where there is none or where it cannot be read.

    Args:
        data: a TIFF header and what follows it, with or without "Exif" and two zeros in front.
    """
    data = data.removeprefix(_PREFIX)
    order = _ORDERS.get(data[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "L", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
    except struct.error:
        return 1
    at += 2
    whole = min(count, (len(data) - at) // 12)
    for tag, kind, _, value in struct.iter_unpack(order + _FIELD, data[at : at + 12 * whole]):
        if tag == _ORIENTATION and kind in {_SHORT, _LONG}:
            (number,) = struct.unpack_from(order + ("H" if kind == _SHORT else "L"), value)
            return number if 1 <= number <= 8 else 1
    return 1
