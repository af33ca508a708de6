"""What decoding a file is going to cost, told from the first bytes of it before anything is taken for it.

The unit is the pixel of an ordinary baseline JPEG photo (quality 85, chroma halved both ways), decoded whole and
resized to a network's input: 7.5 ns on one core of an x86-64 server of 2023. Measured there with
`models.decoding.decode` and `models.prestem.host.fit`, in nanoseconds of CPU time a pixel, the last column without
resizing:

====================================  ==============  ===========  ==========================================
form                                  a pixel         a byte       the dearest that was measured
====================================  ==============  ===========  ==========================================
JPEG, sequential, whole               1.4             9            31 (CMYK noise at quality 100, 4.7 B/px)
JPEG, sequential, at 1/2, 1/4, 1/8    0.3 + 1.1 / s²  9            22 (noise at quality 100, 4.1 B/px)
JPEG, several scans                   3               9            3 (no coefficients)
JPEG, progressive                     3 + 0.7 a scan  35           39 (CMYK at quality 90), 27 (32 scans of 23 B)
PNG                                   1.2 + 5 a byte  4            33 (16 bits with alpha, Paeth, flat)
                                      of its rows
... interlaced                        + 3                          21 (16 bits with alpha)
... transparency, 16 bits to 8        + 4                          12 (a transparent colour, flat)
GIF                                   8               6            10 (transparent, frame smaller than screen)
BMP                                   7               0            6.5 (16 bits with masks of its own)
WebP, lossy                           8               45           59 (noise at quality 100, 1.1 B/px)
... alpha                             + 8             8            27 (a photo with noise for alpha)
WebP, lossless                        12              8            26 (a photo with noise for alpha), 7.5 (flat)
resizing to a network's input         3.1             0
turning by EXIF's orientation         1.6             0
====================================  ==============  ===========  ==========================================

A prediction may be too high. It is too low by no more than `MULTIPLE`, and by what looking through the pieces of a file
takes, of which there may be 16,384: 20 ms there. Two kinds of file that no encoder writes are dearer, because nothing
in their first bytes tells them: a PNG whose pixels come between blocks of deflate that hold nothing, as long as its
rows without compression (8 times, 0.8 s at the most where it is not expensive), and a lossless WebP, or an alpha
channel, with thousands of tables of codes (25 times, 0.1 s where it is not expensive).
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from glimpse.models.decoding import bmp, gif, jpeg, png, webp
from glimpse.models.decoding.limits import ImageLimits

# A file's decoding takes no more than so many times what was predicted for it.
MULTIPLE = 3
# Work from which a file must not run beside others' small images: an eighth of a second where a pixel takes 7.5 ns.
EXPENSIVE_WORK = 16_000_000

_UNIT = 7.5  # nanoseconds
_LEAST = 10_000  # of work: whatever an image is, there is a header to read and a picture to hand over
_RESIZE, _TURN = 3.1, 1.6  # nanoseconds a pixel
_LONGEST = (1 << 16) - 1  # pixels of a side; longer ones are refused
_PIECES = 128  # of a file in front of its picture that are looked at; profiles and EXIF data need a few dozen
_APART = 1 << 13  # bytes between pieces that are looked through, all together: there are none in what encoders write
_COUNTED = 1 << 14  # bytes of a progressive JPEG in which scans are counted
_SCALES = (8, 4, 2)  # one over those that a JPEG can be decoded at
_SMALL = 1 << 18  # pixels
_SCANS = 10  # of a progressive JPEG, as encoders write them

# As in `models.decoding.decode`.
Target = Callable[[tuple[int, int]], tuple[int, int]]


class Cost(NamedTuple):
    """What decoding one image is going to cost."""

    pixels: int  # width x height that the header tells; 0 where it cannot be told
    work: int  # in pixels of an ordinary baseline JPEG
    memory: int  # bytes at the peak, all copies counted
    expensive: bool  # whether it must not run in an ordinary decoder thread beside others' small images


class _UnknownError(Exception):
    """The cost cannot be told in a moment."""


def predict(data: bytes, limits: ImageLimits, target: Target | None = None) -> Cost:
    """The cost of decoding a file and resizing its picture.

    Never raises. Reads the header alone: some microseconds, whatever the length of the file. What will be refused costs
    next to nothing; what cannot be told counts as the most that is allowed.

    Args:
        data: the file.
        limits: what it may cost.
        target: what the picture is resized to afterwards, as in `models.decoding.decode.decode`: without it, a JPEG
            counts as one that is decoded whole.
    """
    if len(data) > limits.max_bytes:
        return _refused(0, data)
    try:
        return _predicted(data, limits, target)
    except _UnknownError:
        most = limits.max_pixels
        return _cost(0, most * (_WEBP_LOSSLESS + _RESIZE + _TURN), 24 * most + len(data))._replace(expensive=True)
    except (IndexError, ValueError, struct.error):
        return _refused(0, data)  # it ends in its header, or holds no picture


@functools.lru_cache(256)
def pixels(width: int, height: int) -> Cost:
    """The cost of raw pixels, which are resized and no more."""
    area = max(0, width) * max(0, height)
    return _cost(area, _RESIZE * area, 4 * area)


def _predicted(data: bytes, limits: ImageLimits, target: Target | None) -> Cost:
    if jpeg.is_jpeg(data):
        return _jpeg(data, limits, target)
    if data.startswith(png.MAGIC):
        return _png(data, limits)
    if webp.is_webp(data):
        return _webp(data, limits)
    if data.startswith(gif.MAGIC):
        return _gif(data, limits)
    if (whole := data.startswith(bmp.MAGIC)) or bmp.is_bare(data):
        return _bmp(data, bmp.FRONT if whole else 0, limits)
    return _refused(0, data)


def _cost(area: int, nanoseconds: float, memory: float) -> Cost:
    work = max(_LEAST, int(nanoseconds / _UNIT))
    return Cost(area, work, int(memory), work > EXPENSIVE_WORK)


def _refused(area: int, data: bytes) -> Cost:
    """Of what is refused before it is decoded; at most a copy of it is made."""
    return Cost(area, _LEAST, len(data), expensive=False)


def _too_large(width: int, height: int, most: int) -> bool:
    return not 0 < width <= _LONGEST or not 0 < height <= _LONGEST or width * height > most


_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SEGMENT = struct.Struct(">BBH")
_SOF, _PROGRESSIVE, _SOS, _EXIF = frozenset((0xC0, 0xC1, 0xC2)), 0xC2, 0xDA, 0xE1
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xDA)))


def _first_scan(data: bytes) -> tuple[int, int, bool]:
    """Where a JPEG's frame and its first scan begin, and whether there may be EXIF data in front of them.

    Raises:
        _UnknownError: expected; they are too far away.
        ValueError, struct.error: expected; there are none.
    """
    at, frame, turned = 2, 0, False
    left = _APART
    for _ in range(_PIECES):
        mark, kind, length = _SEGMENT.unpack_from(data, at)
        if mark != 0xFF or kind in {0x00, 0xFF}:
            match = _MARKER.search(data, at, at + left)
            if match is None and at + left < len(data):
                raise _UnknownError
            if match is None:
                raise ValueError
            left -= match.start() - at
            at = match.start()
            _, kind, length = _SEGMENT.unpack_from(data, at)
        if kind in _SOF:
            frame = at
        elif kind == _SOS:
            if not frame:
                raise ValueError
            return frame, at, turned
        elif kind == _EXIF:
            turned = True
        elif kind in _WITHOUT_LENGTH:
            at += 2
            continue
        at += length + 2 if length > 2 else 4
    raise _UnknownError


def _jpeg(data: bytes, limits: ImageLimits, target: Target | None) -> Cost:
    frame, start, turned = _first_scan(data)
    height, width, components = struct.unpack_from(">HHB", data, frame + 5)
    area = width * height
    whole = -(-width // 8) * -(-height // 8) * 64  # pixels of all blocks: a line of 65,500 pixels is decoded as eight
    each = _RESIZE + _TURN * turned + 4 * (components == 4)
    kept = 4 * turned + (4.5 if components == 3 else 8.5)  # bytes of memory a pixel
    progressive = data[frame + 1] == _PROGRESSIVE
    if progressive or data[start + 4] != components:
        if _too_large(width, height, limits.max_pixels):
            return _refused(area, data)
        nanoseconds = whole * (3 + each) + 9 * len(data)
        if progressive:
            # Every scan has FFDA in front: a small file holds no more of them than are found.
            scans = max(_SCANS, data.count(b"\xff\xda", start, start + _COUNTED))
            nanoseconds += whole * 0.7 * min(scans, jpeg.MAX_SCANS) + 26 * len(data)
        return _cost(area, nanoseconds, area * (kept + 6) + len(data))
    # A small one counts as decoded whole, as it nearly always is: finding out takes as long as half of the rest here.
    small = area <= min(_SMALL, limits.max_pixels)
    scale = 1 if small else _scale(width, height, limits, target, turned=turned)
    most = limits.max_pixels
    if scale > 1:
        most = max(most, min(limits.max_jpeg_pixels, most * scale**2))
    if _too_large(width, height, most):
        return _refused(area, data)
    shown = area / scale**2
    nanoseconds = whole * (0.3 + (1.1 + each) / scale**2) + 9 * len(data)
    return _cost(area, nanoseconds, shown * kept + len(data))


def _scale(width: int, height: int, limits: ImageLimits, target: Target | None, *, turned: bool) -> int:
    """One over the scale at which a JPEG is decoded; the smaller one where nobody knows which way it is turned."""
    if target is None or limits.reducing_gap <= 0 or min(width, height) < 1:
        return 1
    least = _scale_of(width, height, target((width, height)), limits.reducing_gap)
    if turned and least > 1:
        least = min(least, _scale_of(height, width, target((height, width)), limits.reducing_gap))
    return least


def _scale_of(width: int, height: int, size: tuple[int, int], gap: float) -> int:
    across, down = size[0] * gap, size[1] * gap
    for scale in _SCALES:
        if width >= scale * across and height >= scale * down:
            return scale
    return 1


_METADATA = 1 << 16  # bytes of a PNG: profiles, texts and previews have a few dozen thousand

# Samples of a pixel, by a PNG's colour type.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _png(data: bytes, limits: ImageLimits) -> Cost:
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">LLBBBBB", data, 16)
    area = width * height
    if _too_large(width, height, limits.max_pixels):
        return _refused(area, data)
    row = _SAMPLES.get(colour, 4) * (depth if depth in {1, 2, 4, 8} else 16) / 8  # bytes a pixel
    # Transparency may be told anywhere in front of the pixels, so it is always counted.
    each = 1.2 + 5 * row + 3 * bool(interlaced) + 4 + _RESIZE + _TURN
    # What is longer than the rows as they are is metadata, or blocks of nothing, each with a table of codes of its own.
    unpacked = int(area * row) + 2 * height
    surplus = max(0, len(data) - unpacked - unpacked // 16 - _METADATA)
    return _cost(area, area * each + 4 * len(data) + 75 * surplus, area * 16 + len(data))


def _gif(data: bytes, limits: ImageLimits) -> Cost:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, within = 13 + gif.palette(flags), False
    for _ in range(_PIECES):
        code = data[at]
        if within:
            at += 1 + code
            within = code != 0
        elif code == gif.FRAME:
            break
        elif code == gif.END:
            raise ValueError
        else:
            within = code == gif.EXTENSION
            at += 1 + within
    else:
        raise _UnknownError
    # The frame may be larger than the screen.
    left, top, across, down = struct.unpack_from("<HHHH", data, at + 1)
    width, height = max(width, left + across), max(height, top + down)
    area = width * height
    if _too_large(width, height, limits.max_pixels):
        return _refused(area, data)
    return _cost(area, area * (8 + _RESIZE) + 6 * len(data), area * 14 + len(data))


def _bmp(data: bytes, front: int, limits: ImageLimits) -> Cost:
    (length,) = struct.unpack_from("<L", data, front)
    width, height = struct.unpack_from("<HH" if length == bmp.CORE else "<ll", data, front + 4)
    height = abs(height)
    if _too_large(width, height, limits.max_pixels):
        return _refused(max(width, 0) * height, data)
    return _cost(width * height, width * height * (7 + _RESIZE), width * height * 16 + len(data))


_WEBP_LOSSLESS = 12  # nanoseconds a pixel
_CHUNK = struct.Struct("<4sL")
# A lossless picture, or an alpha channel, may have tables of codes for each 4 x 4 pixels, 65,536 in all. Each takes 4.5
# bytes of the file or more, and 7.5 microseconds and 6 kB to make. How many there are stands behind what is packed;
# where there may be more than so many, 90 ms and 70 MB, the file is left to a process.
_TABLES, _TABLE_BYTES, _TABLE_PIXELS = 12_000, 4.5, 16
_FRAME = 16  # bytes in a chunk of an animation in front of the frame's own chunks


def _webp(data: bytes, limits: ImageLimits) -> Cost:
    width, height = webp.canvas(data) or (0, 0)
    area = width * height
    if _too_large(width, height, limits.max_pixels):
        return _refused(area, data)
    at, each, coded = 12, _RESIZE + _TURN, len(data)
    many = area > _TABLES * _TABLE_PIXELS
    for _ in range(_PIECES):
        if at + _CHUNK.size > len(data):
            break
        kind, length = _CHUNK.unpack_from(data, at)
        if kind == b"VP8L":
            found = _cost(area, area * (_WEBP_LOSSLESS + each) + 8 * len(data), area * 24 + len(data))
            return found._replace(expensive=True) if many and len(data) > _TABLES * _TABLE_BYTES else found
        if kind == b"VP8 ":
            coded = min(length, len(data))
            break
        at += 8 + (_FRAME if kind == b"ANMF" else length + length % 2)
    # A lossy one, or one that is not found. The rest of the file may be an alpha channel, whose bytes are cheaper.
    nanoseconds = area * (8 + 8 + each) + 45 * coded + 8 * (len(data) - coded)
    found = _cost(area, nanoseconds, area * 22 + len(data))
    return found._replace(expensive=True) if many and len(data) - coded > _TABLES * _TABLE_BYTES else found
