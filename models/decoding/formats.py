"""Which kind of file some bytes are, and which kinds are decoded."""

from __future__ import annotations

import re

from glimpse.models.decoding import bmp, gif, jpeg, png, refusals, webp
from glimpse.models.decoding.header import Header
from glimpse.models.decoding.refusals import RefusedImageError

# Pillow's names. The list is short on purpose: most file-parser vulnerabilities sit in the formats left out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# What the names of such files end in. JPEG has had many: of Windows, of browsers, of cameras that add more pictures.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
        *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    )
)
_ALLOWED = f"one of {', '.join(FORMATS)}"

# Magic numbers of formats that people do send, to refuse them by name. (offset, bytes, name)
_REFUSED = (
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"II+\x00", "BigTIFF"),
    (0, b"MM\x00+", "BigTIFF"),
    (0, b"8BPS", "PSD"),
    (0, b"gimp xcf", "XCF"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"\x00\x00\x02\x00", "CUR"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"farbfeld", "Farbfeld"),
)
# Of others there is more than the first bytes to look at.
_PATTERNS = (
    (re.compile(rb"P[1-7fF][\s#]"), "PNM"),
    (re.compile(rb"BA.{12}(?:BM|IC|CI|PT|CP)", re.DOTALL), "OS/2 bitmap array"),
)
# Blanks in front are few: to look through megabytes of them holds the interpreter's lock all the while.
_SVG = re.compile(rb"(?:\xef\xbb\xbf)?\s{0,1000}(?:<\?xml\b|<!--|<!doctype svg|<(?:\w+:)?svg\b)", re.IGNORECASE)
# ISO base media files (ISO/IEC 14496-12, section 4.3) tell their kinds by four letters each.
_BRANDS = {
    "AVIF": (b"avif", b"avis"),
    "HEIC": (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"),
    "HEIF": (b"mif1", b"mif2", b"msf1", b"miaf"),
    "Canon raw": (b"crx ",),
}
_BOX = 64  # bytes in which the brands of a picture are
# What is no image and yet sent as one. (offset, bytes, what it is)
_OTHERS = (
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (4, b"ftyp", "a video (MP4, QuickTime or a relative)"),
    (0, b"/9j/", "a JPEG in Base64: decode it first"),
    (0, b"iVBORw0KGgo", "a PNG in Base64: decode it first"),
    (0, b"UklGR", "a WebP in Base64: decode it first"),
    (0, b"R0lGOD", "a GIF in Base64: decode it first"),
    (0, b"data:image/", "a data URL: decode what follows its comma first"),
    (0, b"http://", "an address: fetch the image first"),
    (0, b"https://", "an address: fetch the image first"),
)
_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s{0,1000}<(?:!doctype html|html|head|body)\b", re.IGNORECASE)


def read(data: bytes) -> Header:
    """The header of a file of any of `FORMATS`.

    Raises:
        RefusedImageError: expected; the file is of none of them, or its header is not one that is decoded.
    """
    if jpeg.is_jpeg(data):
        return jpeg.read(data)
    if data.startswith(png.MAGIC):
        return png.read(data)
    if webp.is_webp(data):
        return webp.read(data)
    if data.startswith(gif.MAGIC):
        return gif.read(data)
    if data.startswith(bmp.MAGIC):
        return bmp.read(data)
    if bmp.is_bare(data):
        return bmp.read_bare(data)
    raise _refusal(data)


def _refusal(data: bytes) -> RefusedImageError:
    if (name := _named(data)) is not None:
        return refusals.unsupported(name, _ALLOWED)
    for offset, magic, what in _OTHERS:
        if data.startswith(magic, offset):
            return refusals.no_image(f"These {len(data)} bytes are {what}", _ALLOWED)
    if _HTML.match(data):
        return refusals.no_image(f"These {len(data)} bytes are a web page", _ALLOWED)
    return refusals.no_image(f"These {len(data)} bytes are not an image; they start with {data[:8]!r}", _ALLOWED)


def _named(data: bytes) -> str | None:
    """The name of an image format that is refused."""
    for offset, magic, name in _REFUSED:
        if data.startswith(magic, offset):
            return name
    if data[4:8] == b"ftyp":
        # The main brand and, after a number, those that it is compatible with; a HEIF file of AV1 pictures is an AVIF.
        length = min(int.from_bytes(data[:4]), _BOX)
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, length, 4))]
        for name, known in _BRANDS.items():
            if brands[0] in known or (name == "AVIF" and brands[0] in _BRANDS["HEIF"] and {*known} & {*brands}):
                return name
    for pattern, name in _PATTERNS:
        if pattern.match(data):
            return name
    if match := _SVG.match(data):
        return "SVG" if b"svg" in data[: match.end() + 1024].lower() else "XML"
    return None
