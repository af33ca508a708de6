"""Small valid files of every allowed format, in as many of its forms as there are to break."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by PNG's colour type


@cache
def seeds() -> dict[str, bytes]:
    """Name -> file; the name begins with the format's. About 100 files of at most a few kB."""
    return {**_jpegs(), **_pngs(), **_gifs(), **_webps(), **_bmps()}


def picture(width: int, height: int, mode: str = "RGB", *, noise: float = 0.1) -> Image.Image:
    """A gradient with a little noise: something for every predictor and every code length."""
    rng = np.random.default_rng(width * 1000 + height)
    ramp = np.linspace(0, 255, width)[None, :, None] * [1, 0.5, 0] + np.linspace(0, 255, height)[:, None, None] * [
        0,
        0.5,
        1,
    ]
    pixels = np.clip(ramp + rng.normal(0, 255 * noise, (height, width, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode in {"RGBA", "LA"}:
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
    return image.convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its right length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, *, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of noise in any depth and colour type, Adam7 too: Pillow writes only some of them."""
    samples = SAMPLES[colour]
    rng = np.random.default_rng(depth * 10 + colour)
    passes = (
        ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        if interlaced
        else ((0, 0, 1, 1),)
    )
    rows = []
    for left, top, across, down in passes:
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and lines > 0:
            length = (columns * samples * depth + 7) // 8
            rows += [bytes([i % 5]) + rng.bytes(length) for i in range(lines)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    palette = chunk(b"PLTE", rng.bytes(3 << depth)) if colour == 3 else b""
    body = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return PNG_MAGIC + header + palette + extra + body + chunk(b"IEND", b"")


def bmp(
    width: int, height: int, bits: int, body: bytes, *, compression: int = 0, palette: bytes = b"", masks: bytes = b""
) -> bytes:
    """A Windows bitmap with the header of version 3."""
    offset = 14 + 40 + len(masks) + len(palette)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 2835, 2835, len(palette) // 4, 0
    )
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + info + masks + palette + body


def exif(orientation: int) -> Image.Exif:
    """Metadata as a camera writes it, thumbnail directory and all."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "A camera maker"
    tags[0x0132] = "2024:01:02 03:04:05"
    tags[0x011A] = 72.0
    tags.get_ifd(0x8769)[0x829A] = 0.005  # exposure
    tags.get_ifd(0x8769)[0x927C] = b"\x00\x01\x02\x03" * 8  # the maker's own
    tags.get_ifd(0x8825)[2] = (52.0, 30.0, 1.5)  # latitude
    return tags


def _frames(mode: str, size: tuple[int, int] = (20, 14), count: int = 3) -> list[Image.Image]:
    return [picture(*size, mode).rotate(90 * i) for i in range(count)]


def _jpegs() -> dict[str, bytes]:
    small, odd = picture(24, 16), picture(37, 29)
    files = {
        "tiny": saved(picture(1, 1), "JPEG"),
        "plain": saved(small, "JPEG"),
        "odd": saved(odd, "JPEG", quality=90),
        "444": saved(odd, "JPEG", subsampling=0),
        "422": saved(odd, "JPEG", subsampling=1),
        "rgb": saved(small, "JPEG", keep_rgb=True),
        "grey": saved(picture(24, 16, "L"), "JPEG"),
        "cmyk": saved(picture(24, 16, "CMYK"), "JPEG"),
        "progressive": saved(odd, "JPEG", progressive=True),
        "progressive grey": saved(picture(24, 16, "L"), "JPEG", progressive=True),
        "progressive cmyk": saved(picture(24, 16, "CMYK"), "JPEG", progressive=True),
        "restarts": saved(odd, "JPEG", restart_marker_blocks=1),
        "optimized": saved(odd, "JPEG", optimize=True),
        "comment": saved(small, "JPEG", comment=b"a comment"),
        "profile": saved(small, "JPEG", icc_profile=bytes(range(200))),
        "long": saved(picture(300, 8), "JPEG"),
        "reducible": saved(picture(320, 320, noise=0), "JPEG", quality=30),
        "reducible progressive": saved(picture(320, 320, noise=0), "JPEG", quality=30, progressive=True),
        "several": saved(small, "MPO", save_all=True, append_images=_frames("RGB", (24, 16))),
    }
    files |= {f"turned {n}": saved(small, "JPEG", exif=exif(n)) for n in (3, 6, 7)}
    return {f"JPEG {name}": data for name, data in files.items()}


def _pngs() -> dict[str, bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "plain")
    text.add_text("Comment", "compressed " * 30, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>" * 20, zip=True)
    small, indexed = picture(17, 13), picture(17, 13).quantize(16)
    files = {
        "tiny": saved(picture(1, 1), "PNG"),
        "rgb": saved(small, "PNG"),
        "long": saved(picture(700, 1), "PNG"),
        "palette transparent": saved(indexed, "PNG", transparency=3),
        "palette alpha": saved(indexed, "PNG", transparency=bytes(range(16))),
        "rgb transparent": saved(small, "PNG", transparency=(0, 0, 0)),
        "grey transparent": saved(picture(17, 13, "L"), "PNG", transparency=0),
        "text": saved(small, "PNG", pnginfo=text),
        "profile": saved(small, "PNG", icc_profile=bytes(range(200)), dpi=(72, 72)),
        "turned": saved(small, "PNG", exif=exif(5)),
        "animated": saved(_frames("RGBA")[0], "PNG", save_all=True, append_images=_frames("RGBA")[1:], duration=40),
        "stored": saved(small, "PNG", compress_level=0),
    }
    kinds = ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16)))
    for colour, depths in kinds:
        for depth in depths:
            files[f"colour {colour} depth {depth}"] = png(13, 9, depth, colour)
            files[f"colour {colour} depth {depth} interlaced"] = png(13, 9, depth, colour, interlaced=True)
            if colour in {0, 2}:
                named = chunk(b"tRNS", bytes(2 * SAMPLES[colour]))
                files[f"colour {colour} depth {depth} transparent"] = png(13, 9, depth, colour, extra=named)
    return {f"PNG {name}": data for name, data in files.items()}


def _gifs() -> dict[str, bytes]:
    frames = [frame.quantize(16) for frame in _frames("RGB")]
    files = {
        "tiny": saved(picture(1, 1, "L"), "GIF"),
        "palette": saved(picture(20, 14).quantize(8), "GIF"),
        "interlaced": saved(picture(33, 21).quantize(32), "GIF", interlace=1),
        "straight": saved(picture(33, 21).quantize(32), "GIF", interlace=0),
        "grey": saved(picture(20, 14, "L"), "GIF", comment=b"a comment"),
        "bilevel": saved(picture(20, 14, "1"), "GIF"),
        "transparent": saved(picture(20, 14).quantize(8), "GIF", transparency=2, background=1),
        "animated": saved(
            frames[0], "GIF", save_all=True, append_images=frames[1:], duration=30, loop=0, disposal=2, transparency=1
        ),
    }
    return {f"GIF {name}": data for name, data in files.items()}


def _webps() -> dict[str, bytes]:
    small, clear = picture(24, 16), picture(24, 16, "RGBA")
    files = {
        "tiny": saved(picture(1, 1), "WEBP"),
        "lossy": saved(small, "WEBP", method=0),
        "lossless": saved(small, "WEBP", lossless=True, method=0),
        "alpha": saved(clear, "WEBP", method=0),
        "lossless alpha": saved(clear, "WEBP", lossless=True, method=0),
        "turned": saved(small, "WEBP", exif=exif(8), method=0),
        "profile": saved(small, "WEBP", icc_profile=bytes(range(200)), xmp=b"<x/>", method=0),
        "animated": saved(
            _frames("RGBA")[0], "WEBP", save_all=True, append_images=_frames("RGBA")[1:], duration=30, method=0
        ),
    }
    return {f"WEBP {name}": data for name, data in files.items()}


def _bmps() -> dict[str, bytes]:
    palette = bytes(range(256)) * 4
    runs = (b"\x05\x03\x00\x04\x01\x02\x03\x04\x02\x07\x00\x00" * 9) + b"\x00\x01"  # 5, 4 as they are, 2, end of line
    jumps = b"\x03\x01\x00\x02\x02\x01\x06\x02" + b"\x00\x00" * 8 + b"\x00\x01"  # to the right and up
    rows = np.random.default_rng(5)
    files = {
        "bilevel": saved(picture(19, 11, "1"), "BMP"),
        "grey": saved(picture(19, 11, "L"), "BMP"),
        "palette": saved(picture(19, 11).quantize(16), "BMP"),
        "rgb": saved(picture(19, 11), "BMP"),
        "rgba": saved(picture(19, 11, "RGBA"), "BMP"),
        "upside down": bmp(9, -7, 24, rows.bytes(28 * 7)),
        "4 bits": bmp(11, 9, 4, rows.bytes(8 * 9), palette=palette[:64]),
        "555": bmp(9, 7, 16, rows.bytes(20 * 7)),
        "565": bmp(9, 7, 16, rows.bytes(20 * 7), compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
        "masks": bmp(9, 7, 32, rows.bytes(36 * 7), compression=3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)),
        "444": bmp(9, 7, 16, rows.bytes(20 * 7), compression=3, masks=struct.pack("<III", 0xF00, 0xF0, 0xF)),
        "ten bits": bmp(
            9, 7, 32, rows.bytes(36 * 7), compression=3, masks=struct.pack("<III", 0x3FF, 0xFFC00, 1023 << 20)
        ),
        "alpha": bmp(9, 7, 16, rows.bytes(20 * 7), compression=6, masks=struct.pack("<IIII", 0xF00, 0xF0, 0xF, 0xF000)),
        "2 bits": bmp(11, 9, 2, rows.bytes(4 * 9), palette=palette[:16]),
        "runs": bmp(11, 9, 8, runs, compression=1, palette=palette),
        "runs and jumps": bmp(11, 9, 8, jumps, compression=1, palette=palette),
        "runs of 4 bits": bmp(11, 9, 4, runs, compression=2, palette=palette[:64]),
        "old": b"BM" + struct.pack("<IHHIIHHHH", 26 + 28 * 7, 0, 0, 26, 12, 9, 7, 1, 24) + rows.bytes(28 * 7),
        "short": b"BM" + struct.pack("<IHHIIIIHH", 30 + 28 * 7, 0, 0, 30, 16, 9, 7, 1, 24) + rows.bytes(28 * 7),
    }
    return {f"BMP {name}": data for name, data in files.items()}
