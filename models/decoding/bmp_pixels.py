"""The pixels of a BMP file whose layout Pillow does not know: other colour masks, two bits a pixel, headers of OS/2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.models.decoding import refusals


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pixels lie, and what they mean."""

    size: tuple[int, int]  # width and height
    bits: int  # of a pixel: 1, 2, 4, 8, 16, 24 or 32
    from_top: bool  # the first row in the file is the top one
    at: int  # where the first row begins
    masks: tuple[int, ...]  # of red, green, blue and alpha in a pixel of 16 bits or more; none: the usual ones
    palette: bytes  # of up to 8 bits a pixel: blue, green, red
    entry: int  # bytes of a colour in the palette


_USUAL = {16: (0x7C00, 0x3E0, 0x1F), 24: (0xFF0000, 0xFF00, 0xFF), 32: (0xFF0000, 0xFF00, 0xFF)}


def is_mask(mask: int, bits: int) -> bool:
    """Whether `mask` is one run of bits within a pixel, or none at all."""
    lowest = mask & -mask
    return mask < 1 << bits and (mask + lowest) & mask == 0


def picture(data: bytes, layout: Layout) -> Image.Image:
    """The picture, in RGB, with a palette, or in RGBA where there is a mask for alpha.

    Raises:
        RefusedImageError: expected; the file ends before its last row does.
    """
    width, height = layout.size
    stride = (width * layout.bits + 31) // 32 * 4
    # The padding of the last row may be missing.
    needed = stride * (height - 1) + (width * layout.bits + 7) // 8
    if len(data) - layout.at < needed:
        raise refusals.truncated(f"{max(len(data) - layout.at, 0)} of {needed} bytes of pixels")
    packed = np.frombuffer(data, np.uint8, min(stride * height, len(data) - layout.at), layout.at)
    if len(packed) < stride * height:
        packed = np.pad(packed, (0, stride * height - len(packed)))
    rows = packed.reshape(height, stride)
    if not layout.from_top:
        rows = rows[::-1]
    if layout.bits <= 8:
        return _numbered(rows, layout)
    return _masked(rows, layout)


def _numbered(rows: NDArray[np.uint8], layout: Layout) -> Image.Image:
    """Pixels that are numbers in a palette; a number beyond it is black."""
    per_byte = 8 // layout.bits
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * layout.bits
    numbers = rows[..., None] >> shifts & (1 << layout.bits) - 1
    numbers = numbers.reshape(len(rows), -1)[:, : layout.size[0]]
    colours = np.zeros((256, 3), np.uint8)
    listed = np.frombuffer(layout.palette, np.uint8).reshape(-1, layout.entry)[:, 2::-1]
    colours[: len(listed)] = listed
    image = Image.fromarray(numbers)
    image.putpalette(colours.tobytes())
    return image


def _masked(rows: NDArray[np.uint8], layout: Layout) -> Image.Image:
    """Pixels in which every channel has bits of its own."""
    width, each = layout.size[0], layout.bits // 8
    used = rows[:, : width * each]
    if each == 3:
        wider = np.zeros((len(rows), width, 4), np.uint8)
        wider[..., :3] = used.reshape(len(rows), width, 3)
        used = wider.reshape(len(rows), -1)
    values: NDArray[np.uint16 | np.uint32] = used.view("<u2" if each == 2 else "<u4")
    masks = layout.masks or _USUAL[layout.bits]
    channels = [_channel(values, mask) for mask in masks]
    if len(channels) == 4 and (masks[3] == 0 or not channels[3].any()):
        del channels[3]  # no mask, or one that the program that wrote the file did not fill in
    return Image.fromarray(np.dstack(channels))


def _channel(values: NDArray[np.uint16 | np.uint32], mask: int) -> NDArray[np.uint8]:
    """uint8 ``[H, W]`` of the bits under `mask`, stretched or cut to 8; all zero without a mask."""
    if mask == 0:
        return np.zeros(values.shape, np.uint8)
    lowest = (mask & -mask).bit_length() - 1
    width = mask.bit_length() - lowest
    if width > 8:
        lowest, width = lowest + width - 8, 8
    largest = (1 << width) - 1
    part = (values >> lowest).astype(np.uint8)
    if largest == 0xFF:
        return part
    stretched = np.arange(256, dtype=np.uint16) % (largest + 1) * 255 // largest  # of bits above the mask as well
    return stretched.astype(np.uint8)[part]
