"""What libpng and libwebp read in a file, asked through ctypes: the libraries that are bundled with Pillow."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LOSSY, _LOSSLESS = 1, 2
_FEATURES_ABI, _DEMUX_ABI = 0x0210, 0x0107
_WIDTH, _HEIGHT, _FRAMES = 1, 2, 5  # what a demultiplexer is asked for


@cache
def bundled(name: str) -> ctypes.CDLL | None:
    """The library of that name; None where Pillow is not bundled with it."""
    import PIL

    folder = Path(PIL.__file__).parents[1] / "pillow.libs"
    found = sorted(folder.glob(f"{name}-*.so*")) if sys.maxsize > 2**32 else []
    return ctypes.CDLL(str(found[0])) if found else None


class _PngImage(ctypes.Structure):
    """`png_image` of libpng's simplified interface, which returns from errors."""

    _fields_ = (
        ("opaque", ctypes.c_void_p),
        ("version", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("format", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("colormap_entries", ctypes.c_uint32),
        ("warning_or_error", ctypes.c_uint32),
        ("message", ctypes.c_char * 64),
    )


def png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by libpng; None where it reads no header."""
    png, image = bundled("libpng16"), _PngImage(version=1)
    assert png is not None
    if not png.png_image_begin_read_from_memory(ctypes.byref(image), data, ctypes.c_size_t(len(data))):
        return None
    size = int(image.width), int(image.height)
    png.png_image_free(ctypes.byref(image))
    return size


@dataclass(frozen=True, slots=True)
class WebP:
    """What libwebp reads of a file."""

    canvas: tuple[int, int]
    lossless: bool  # its first picture is


class _Features(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("has_alpha", ctypes.c_int),
        ("has_animation", ctypes.c_int),
        ("format", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Data(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_char_p), ("size", ctypes.c_size_t))


class _Frame(ctypes.Structure):
    """`WebPIterator`."""

    _fields_ = (
        ("numbers", ctypes.c_int * 8),
        ("complete", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("rest", ctypes.c_void_p * 16),
    )


def webp(data: bytes) -> WebP | None:
    """What libwebp reads; None where it reads no picture."""
    decoder, demuxer = bundled("libwebp"), bundled("libwebpdemux")
    assert decoder is not None
    assert demuxer is not None
    demuxer.WebPDemuxInternal.restype = ctypes.c_void_p
    whole = _Data(data, len(data))
    file = ctypes.c_void_p(demuxer.WebPDemuxInternal(ctypes.byref(whole), 0, None, _DEMUX_ABI))
    if not file.value:
        return None
    try:
        canvas = demuxer.WebPDemuxGetI(file, _WIDTH), demuxer.WebPDemuxGetI(file, _HEIGHT)
        frame, features = _Frame(), _Features()
        if not demuxer.WebPDemuxGetI(file, _FRAMES) or not demuxer.WebPDemuxGetFrame(file, 1, ctypes.byref(frame)):
            return None
        picture, size = ctypes.c_void_p(frame.data), ctypes.c_size_t(frame.size)
        if decoder.WebPGetFeaturesInternal(picture, size, ctypes.byref(features), _FEATURES_ABI):
            return None
        return WebP(canvas, features.format == _LOSSLESS)
    finally:
        demuxer.WebPDemuxDelete(file)
