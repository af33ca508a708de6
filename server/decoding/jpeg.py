"""What a JPEG file holds and would cost, from its markers alone (ITU-T T.81, annex B), before a decoder believes it.

A progressive JPEG refines the whole picture with every scan, and a scan that says nothing is 50 bytes long: a file of
150 kB with a thousand of them keeps a decoder busy for half a minute, within any limit on bytes and pixels.
"""

from __future__ import annotations

import re

from server.decoding import exif, refusals
from server.decoding.header import Header

MAGIC = b"\xff\xd8\xff"
MAX_SCANS = 32  # of one picture; encoders write about 10
MAX_SEGMENTS = 4096  # headers, tables and metadata; ICC and EXIF need a few hundred at most
MAX_FILL = 1024  # bytes of padding or junk in front of a marker

# A marker is FF and a code, and any number of FFs may go in front.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# Within a scan FF00 is data, and FFD0 to FFD7 are restarts.
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_END = bytes((0xFF, _END_OF_IMAGE))
_FILL = b"\xff" * (MAX_FILL + 1)
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # TEM, restarts, SOI: no length follows
_SEQUENTIAL = (0xC0, 0xC1)
_PROGRESSIVE = 0xC2
_ARITHMETIC = (0xC9, 0xCA)
# Frames that next to no decoder reads.
_REFUSED = {
    **dict.fromkeys(_ARITHMETIC, "JPEG with arithmetic coding"),
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "Lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE, 0xDE), "Hierarchical JPEG"),
    0xF7: "JPEG-LS",
}
_INSTEAD = "a baseline or progressive JPEG"
_EXIF, _COMMENT = 0xE1, 0xFE
# JFIF (APP0) and Adobe (APP14) say what the colours are; the rest is metadata. Pillow parses much of it, field by field
# and in Python, and takes a file with a list of further pictures (APP2, MPF) for another format.
_METADATA = frozenset((*range(0xE0, 0xF0), _COMMENT)) - {0xE0, 0xEE}


def read(data: bytes) -> Header:
    """The header of a file that starts as a JPEG does.

    Raises:
        InvalidImageError: expected; the file ends in its header, is of a kind that is refused, or would cost more than
            what it shows.
    """
    frame: tuple[int, bytes] | None = None
    orientation = None
    kept, since = [], 0
    at = 2
    for _ in range(MAX_SEGMENTS):
        code, start, end = _segment(data, at)
        if code in _REFUSED:
            raise refusals.unsupported(_REFUSED[code], _INSTEAD)
        if code == _EXIF and orientation is None and data.startswith(b"Exif\x00\x00", start + 4):
            orientation = exif.orientation(data[start + 4 : end])
        if code in _METADATA:
            kept.append(data[since:start])
            since = end
        elif code in {*_SEQUENTIAL, _PROGRESSIVE}:
            if frame is not None:
                raise refusals.damaged("a JPEG with two frames")
            frame = code, data[start + 4 : end]
        elif code == _END_OF_IMAGE:
            raise refusals.damaged("a JPEG without a picture")
        at = end
        if code == _START_OF_SCAN:
            break
    else:
        raise refusals.costly("JPEG", f"more than {MAX_SEGMENTS} segments")
    size, components = _frame(frame)
    # A picture in one scan is decoded row by row; any other is gathered in memory first, and every scan touches it all.
    streamed = frame is not None and frame[0] in _SEQUENTIAL and data[start + 4 : start + 5] == bytes((components,))
    _check_fill(data, at)
    if not streamed:
        _count_scans(data, at)
    bare = b"".join((*kept, data[since:])) if kept else data
    return Header("JPEG", size, bare, orientation or 1, reducible=True, streamed=streamed)


def _segment(data: bytes, at: int) -> tuple[int, int, int]:
    """The next marker's code, and where its segment starts and ends."""
    match = _MARKER.search(data, at)
    if match is None:
        raise refusals.truncated("within the header of a JPEG")
    start = match.start()
    if start - at > MAX_FILL:
        raise refusals.costly("JPEG", f"more than {MAX_FILL} bytes of padding between its segments")
    code = data[start + 1]
    if code in _ALONE or code == _END_OF_IMAGE:
        return code, start, start + 2
    end = start + 2 + max(int.from_bytes(data[start + 2 : start + 4]), 2)
    if end > len(data):
        raise refusals.truncated("within the header of a JPEG")
    return code, start, end


def _frame(frame: tuple[int, bytes] | None) -> tuple[tuple[int, int], int]:
    """Width and height, and the number of components, from a frame's header."""
    if frame is None:
        raise refusals.damaged("a JPEG without a frame")
    content = frame[1]
    if len(content) < 6:
        raise refusals.damaged("a JPEG whose frame header is too short")
    if content[0] != 8:
        raise refusals.unsupported(f"JPEG of {content[0]} bits", "one of 8 bits")
    return (int.from_bytes(content[3:5]), int.from_bytes(content[1:3])), content[5]


def _check_fill(data: bytes, at: int) -> None:
    """Pillow takes a run of FFs, which may come to its end at any moment, up again with each 64 kB that it reads."""
    fill = data.find(_FILL, at)
    if fill >= 0 and data.find(_END, at, fill) < 0:
        raise refusals.costly("JPEG", f"more than {MAX_FILL} bytes of padding within its picture")


def _count_scans(data: bytes, at: int) -> None:
    """Look at what follows the header of the first scan, up to the end of the picture."""
    scans, segments = 1, 0
    while match := _SCAN_END.search(data, at):
        code = data[match.start() + 1]
        if code == _END_OF_IMAGE:
            return
        segments += 1
        scans += code == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise refusals.costly("JPEG", f"more than {MAX_SCANS} scans")
        if segments > MAX_SEGMENTS:
            raise refusals.costly("JPEG", f"more than {MAX_SEGMENTS} segments")
        at = match.end()
        if code not in _ALONE:
            at += max(int.from_bytes(data[at : at + 2]), 2)
