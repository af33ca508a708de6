"""What a JPEG file would cost, from its markers alone (ITU-T T.81, annex B), before a decoder believes it.

A progressive JPEG refines the whole picture with every scan, and a scan that says nothing is 50 bytes long: a file of
150 kB with a thousand of them keeps a decoder busy for half a minute, within any limit on bytes and pixels.
"""

from __future__ import annotations

import re

MAX_SCANS = 32  # of one picture; encoders write about 10
MAX_SEGMENTS = 4096  # headers, tables and metadata; ICC and EXIF need a few hundred at most
MAX_FILL = 1024  # bytes of padding or junk in front of a marker

# A marker is FF and a code. FF00 is data, FFD0..D7 are restarts within a scan, and any number of FFs may go in front:
# possessive and looked behind, so that a long run of them is passed once and not once for every byte in it.
_MARKER = re.compile(rb"(?<!\xff)\xff++([^\x00\xd0-\xd7])")
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9


def objection(data: bytes) -> str | None:
    """What is wrong with a JPEG file that its size does not show; None where nothing is.

    Args:
        data: a file that starts as a JPEG does, FFD8.
    """
    at, scans, segments = 2, 0, 0
    while match := _MARKER.search(data, at):
        junk = match.end() - 2 - (match.start() if scans else at)
        if junk > MAX_FILL:
            return f"more than {MAX_FILL} bytes of padding between its segments"
        code = data[match.end() - 1]
        if code == _END_OF_IMAGE:
            return None
        segments += 1
        if segments > MAX_SEGMENTS:
            return f"more than {MAX_SEGMENTS} segments"
        if code == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                return f"more than {MAX_SCANS} scans"
        # All that follow FFC0 but the start of an image carry their length, themselves included.
        has_length = code >= 0xC0 and code != 0xD8
        at = match.end() + (max(int.from_bytes(data[match.end() : match.end() + 2]), 2) if has_length else 0)
    return None
