"""What a JPEG file holds and would cost, from its markers alone (ITU-T T.81, annex B), before a decoder believes it.

A progressive JPEG refines the whole picture with every scan, and a scan that says nothing is 50 bytes long: a file of
150 kB with a thousand of them keeps a decoder busy for half a minute, within any limit on bytes and pixels.
"""

from __future__ import annotations

import re
from itertools import pairwise

from glimpse.models.decoding import exif, refusals
from glimpse.models.decoding.header import Header

# The start of the image and a marker; between them may be what is left of one that a program has taken out.
_MAGIC = re.compile(rb"\xff\xd8(?:\xff|[^\xff]{1,64}\xff+[\xc0-\xc2\xc4\xdb\xdd\xe0-\xef\xfe])")
MAX_SCANS = 32  # of one picture; encoders write about 10
MAX_SEGMENTS = 4096  # headers, tables and metadata; ICC and EXIF need a few hundred at most
MAX_FILL = 1024  # bytes of padding within the pixels

# A marker is FF and a code, and any number of FFs may go in front. In front of those may be anything: libjpeg passes
# over it, and so do the viewers that are made with it.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# Within a scan FF00 is data, and FFD0 to FFD7 are restarts.
SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_START = bytes((0xFF, _START_OF_IMAGE))
_FILL = b"\xff" * (MAX_FILL + 1)
_ALONE = frozenset((0x01, *range(0xD0, 0xDA)))  # TEM, restarts, start and end of the image: no length follows
_SEQUENTIAL = frozenset((0xC0, 0xC1))
_FRAMES = _SEQUENTIAL | {0xC2}  # and progressive
_ARITHMETIC = (0xC9, 0xCA)
# Frames that next to no decoder reads.
_REFUSED = {
    **dict.fromkeys(_ARITHMETIC, "JPEG with arithmetic coding"),
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "Lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE, 0xDE), "Hierarchical JPEG"),
    0xF7: "JPEG-LS",
}
_INSTEAD = "a baseline or progressive JPEG"
_TABLES = frozenset((0xC4, 0xCC, 0xDB, 0xDD))  # Huffman, arithmetic, quantisation, restart interval
_LINES = 0xDC  # how many there are, behind the first scan
_EXIF, _COMMENT = 0xE1, 0xFE
_METADATA = frozenset((*range(0xE0, 0xF0), _COMMENT, _LINES))
# JFIF and Adobe say what the colours are, if they are as long as libjpeg wants them to be; the rest is metadata. Pillow
# parses much of it, field by field and in Python, fails on a short JFIF, and takes a file with a list of further
# pictures (APP2, MPF) for another format.
_COLOURS = {0xE0: (b"JFIF\x00", 14), 0xEE: (b"Adobe", 12)}
_NEEDED = _FRAMES | _TABLES | {_START_OF_SCAN}
# Segments that libjpeg passes over as a whole wherever they stand.
_SKIPPED = _METADATA | _TABLES | {_START_OF_SCAN}
# Behind the frame there is nothing else, but for restarts and the end. Of any other marker libjpeg may leave out the
# two bytes alone, where it looks for a restart, and read on behind them: whoever takes it for a segment misses what is
# in there.
_BEHIND_FRAME = _SKIPPED - {0xCC}
_RESTARTS = frozenset(range(0xD0, 0xD8))


def is_jpeg(data: bytes) -> bool:
    """Whether a file starts as a JPEG file does."""
    return _MAGIC.match(data) is not None


def read(data: bytes) -> Header:
    """The header of a file that starts as a JPEG does.

    The segments are told apart as libjpeg does it. What stands between them, and what the picture does not need, is
    left out: so Pillow's own reading of them, which differs, has no choice.

    Raises:
        RefusedImageError: expected; the file ends in its header, is of a kind that is refused, or would cost more than
            what it shows.
    """
    frame: tuple[int, bytes] | None = None
    orientation = None
    kept, at = [(0, len(_START))], len(_START)
    for _ in range(MAX_SEGMENTS):
        code, start, end = segment(data, at)
        _check(code, framed=frame is not None)
        if code == _EXIF and orientation is None and data.startswith(b"Exif\x00\x00", start + 4):
            orientation = exif.orientation(data[start + 4 : end])
        if code in _FRAMES:
            if frame is not None:
                raise refusals.damaged("a JPEG with two frames")
            frame = code, data[start + 4 : end]
        if code in _NEEDED or _tells_colours(data, code, start, end):
            kept.append((start, end))
        at = end
        if code == _START_OF_SCAN:
            break
    else:
        raise refusals.too_expensive("JPEG", f"more than {MAX_SEGMENTS} segments")
    size, components = _frame(frame)
    # A picture in one scan is decoded row by row; any other is gathered in memory first, and every scan touches it all.
    streamed = frame is not None and frame[0] in _SEQUENTIAL and data[start + 4 : start + 5] == bytes((components,))
    end, scans = _end(data, at)
    if data.find(_FILL, at, end) >= 0:
        # Pillow takes a run of FFs, which may come to its end at any moment, up again with each 64 kB that it reads.
        raise refusals.too_expensive("JPEG", f"more than {MAX_FILL} bytes of padding within its picture")
    bare = _joined(data, [*kept, (at, len(data))])
    return Header("JPEG", size, bare, orientation or 1, reducible=True, streamed=streamed, scans=scans)


def segment(data: bytes, at: int) -> tuple[int, int, int]:
    """The next marker's code, and where its segment starts and ends."""
    match = _MARKER.search(data, at)
    if match is None:
        raise refusals.truncated("within the header of a JPEG")
    start = match.start()
    code = data[start + 1]
    if code in _ALONE:
        return code, start, start + 2
    end = start + 2 + max(int.from_bytes(data[start + 2 : start + 4]), 2)
    if end > len(data):
        raise refusals.truncated("within the header of a JPEG")
    return code, start, end


def _check(code: int, *, framed: bool) -> None:
    """Refuse a file with such a marker in its header: where libjpeg refuses it, or behind the frame."""
    if code in _REFUSED:
        raise refusals.unsupported(_REFUSED[code], _INSTEAD)
    if code == _END_OF_IMAGE:
        raise refusals.damaged("a JPEG without a picture")
    allowed = _BEHIND_FRAME | _FRAMES | _RESTARTS if framed else _FRAMES | _SKIPPED | _ALONE
    if code == _START_OF_IMAGE or code not in allowed:
        raise refusals.damaged(f"a JPEG with a marker {code:02X} in its header")


def _tells_colours(data: bytes, code: int, start: int, end: int) -> bool:
    if code not in _COLOURS:
        return False
    name, length = _COLOURS[code]
    return data.startswith(name, start + 4) and end - start - 4 >= length


def _joined(data: bytes, spans: list[tuple[int, int]]) -> bytes:
    """The bytes of all `spans`; `data` itself, not a copy, where that is the same."""
    if all(before == after for (_, before), (after, _) in pairwise(spans)):
        return data
    return b"".join([data[start:end] for start, end in spans])


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


def _end(data: bytes, at: int) -> tuple[int, int]:
    """Look at what follows the header of the first scan: where the picture ends, and how many scans it has.

    Raises:
        RefusedImageError: expected; it has too many scans or segments, or such as no picture has.
    """
    scans, segments = 1, 0
    while match := SCAN_END.search(data, at):
        code = data[match.start() + 1]
        if code == _END_OF_IMAGE:
            return match.start(), scans
        if code not in _BEHIND_FRAME:
            raise refusals.damaged(f"a JPEG with a marker {code:02X} behind its frame")
        segments += 1
        scans += code == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise refusals.too_expensive("JPEG", f"more than {MAX_SCANS} scans")
        if segments > MAX_SEGMENTS:
            raise refusals.too_expensive("JPEG", f"more than {MAX_SEGMENTS} segments")
        at = match.end()
        at += max(int.from_bytes(data[at : at + 2]), 2)
    return len(data), scans
