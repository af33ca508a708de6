"""The ways from a JPEG file to a network's input: a worker in the environment of one decoding library.

`python -m tools.bench.decoders.ways LIBRARY`. All of them read the header as the service does, decode at the scale
that it would, and end with its recipe. A way decodes with the library and resizes with Pillow, or does both with it.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glimpse.models.decoding import decode as files
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem import host
from glimpse.models.prestem.picture import Picture
from glimpse.models.prestem.recipe import Filter, Recipe
from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage
from tools.bench.worker import serve

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # width, height
Decoder = Callable[[bytes, int], Pixels]  # a file and one over its scale -> uint8 [H, W, 3], RGB
Whole = Callable[
    [bytes, Size, int, Filter], Pixels
]  # a file, the size that it is resized to, one over its scale, the filter
Way = Callable[[bytes, Recipe], Pixels]

SERVICE = "as the service does it"
PLANES = "YCbCr, converted after resizing"
OWN = ", resized by the library"
_LARGEST = 64 << 20  # bytes and pixels: no limit is met here
_LIMITS = ImageLimits(_LARGEST, _LARGEST, _LARGEST, reducing_gap=2.0)
_TURBO = "TURBOJPEG"  # an environment variable: where the shared library is, if it is not installed


def _service(data: bytes, recipe: Recipe) -> Pixels:
    return prepare(EncodedImage(data), recipe, _LIMITS).pixels


def _scaled(data: bytes, recipe: Recipe) -> tuple[Size, Size, int]:
    """The picture's size, the size that it is resized to, and one over the scale that it is decoded at."""
    header = files._header(data)
    target = partial(host.resized, recipe=recipe)
    return header.size, target(header.size), files._scale(header, _LIMITS, target)


def _decoded(data: bytes, recipe: Recipe, decoder: Decoder) -> Pixels:
    """Decoded by `decoder`, resized by Pillow."""
    size, _, scale = _scaled(data, recipe)
    image = Image.fromarray(decoder(data, scale))
    # libjpeg rounds the size of a reduced picture up, some libraries cut it off.
    box = (0.0, 0.0, min(size[0] / scale, image.width), min(size[1] / scale, image.height))
    return host.fit(Picture(image, size, box), recipe)


def _resized(data: bytes, recipe: Recipe, whole: Whole) -> Pixels:
    """Decoded and resized by the library; only for recipes that resize and then take the centre."""
    _, size, scale = _scaled(data, recipe)
    pixels = whole(data, size, scale, recipe.filter)
    left, top = -host.offset(size[0], recipe.width), -host.offset(size[1], recipe.height)
    return np.ascontiguousarray(pixels[top : top + recipe.height, left : left + recipe.width])


def _planes(data: bytes, size: Size, scale: int, by: Filter) -> Pixels:
    """Pillow leaves out the conversion of colours until the picture is small."""
    with Image.open(io.BytesIO(data)) as image:
        wide, high = image.size
        image.draft("YCbCr", (wide // scale, high // scale))
        small = image.resize(size, host._FILTERS[by], (0, 0, wide / scale, high / scale))
    return np.asarray(small.convert("RGB"))


def _pillow() -> Mapping[str, Way]:
    return {SERVICE: _service, PLANES: partial(_resized, whole=_planes)}


def _simple(data: bytes, scale: int) -> Pixels:
    import simplejpeg

    if scale == 1:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
    high, wide, *_ = simplejpeg.decode_jpeg_header(data)
    # It takes the smallest scale that leaves as many pixels.
    least = {"min_height": math.ceil(high / scale), "min_width": math.ceil(wide / scale)}
    return np.asarray(simplejpeg.decode_jpeg(data, "RGB", **least))


def _simplejpeg() -> Mapping[str, Way]:
    return {"decoded": partial(_decoded, decoder=_simple)}


def _cykooz() -> Mapping[str, Way]:
    """The crate fast_image_resize, which works on Pillow's own memory: all but the resizing is the service's."""
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer

    resizer = Resizer()
    filters = {"bilinear": FilterType.bilinear, "bicubic": FilterType.catmull_rom, "lanczos": FilterType.lanczos3}

    def way(data: bytes, recipe: Recipe) -> Pixels:
        picture = files.decode(data, _LIMITS, partial(host.resized, recipe=recipe))
        (left, top, right, bottom), size = host.kept(picture, host.resized(picture.size, recipe), recipe)
        small = Image.new("RGB", size)
        options = ResizeOptions(
            resize_alg=ResizeAlg.convolution(filters[recipe.filter]),
            crop_box=CropBox(left, top, right - left, bottom - top),
            use_alpha=False,
        )
        resizer.resize_pil(picture.image, small, options)
        return np.array(host._centred(small, recipe), np.uint8)

    return {"resized, decoded by Pillow": way}


def _torch() -> Mapping[str, Way]:
    """PyTorch resizes bytes with AVX2, and rounds nearly as Pillow does; simplejpeg decodes for it."""
    import torch

    torch.set_num_threads(1)

    def whole(data: bytes, size: Size, scale: int, by: Filter) -> Pixels:
        large = torch.from_numpy(_simple(data, scale)).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(large, size[::-1], mode=by, antialias=True, align_corners=False)
        return np.asarray(small[0].permute(1, 2, 0).numpy())

    return {"resized, decoded by simplejpeg": partial(_resized, whole=whole)}


def _turbojpeg() -> Mapping[str, Way]:
    from turbojpeg import TJPF_RGB, TurboJPEG

    turbo = TurboJPEG(os.environ.get(_TURBO))

    def decoder(data: bytes, scale: int) -> Pixels:
        return np.asarray(turbo.decode(data, pixel_format=TJPF_RGB, scaling_factor=(1, scale) if scale > 1 else None))

    def planes(data: bytes, size: Size, scale: int, by: Filter) -> Pixels:
        """Each plane is resized as it is in the file, colours from half the pixels of each side."""
        found = turbo.decode_to_yuv_planes(data, scaling_factor=(1, scale) if scale > 1 else None)
        high, wide = found[0].shape
        bands = []
        for plane in found:
            # Of an odd side, the last pixel of a plane of colours stands for half of what the others do.
            share = round(wide / plane.shape[1]), round(high / plane.shape[0])
            image = Image.fromarray(np.ascontiguousarray(plane))
            bands.append(image.resize(size, host._FILTERS[by], (0, 0, wide / share[0], high / share[1])))
        return np.asarray(Image.merge("YCbCr", bands).convert("RGB"))

    return {"decoded": partial(_decoded, decoder=decoder), "planes resized one by one": partial(_resized, whole=planes)}


def _opencv() -> Mapping[str, Way]:
    import cv2

    cv2.setNumThreads(1)
    scales = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}

    def bgr(data: bytes, scale: int) -> Any:
        return cv2.imdecode(np.frombuffer(data, np.uint8), scales.get(scale, cv2.IMREAD_COLOR))

    def decoder(data: bytes, scale: int) -> Pixels:
        return np.asarray(cv2.cvtColor(bgr(data, scale), cv2.COLOR_BGR2RGB))

    def whole(data: bytes, size: Size, scale: int, by: Filter) -> Pixels:
        # Its bicubic filter does not antialias; the one that does is the mean of areas.
        return np.asarray(
            cv2.cvtColor(cv2.resize(bgr(data, scale), size, None, 0, 0, cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        )

    return {"decoded": partial(_decoded, decoder=decoder), f"decoded{OWN}": partial(_resized, whole=whole)}


def _imagecodecs() -> Mapping[str, Way]:
    import imagecodecs

    def decoder(data: bytes, scale: int) -> Pixels:
        pixels = Image.fromarray(imagecodecs.jpeg8_decode(data))  # it knows no reduced scale
        return np.asarray(pixels.reduce(scale) if scale > 1 else pixels)

    return {"decoded": partial(_decoded, decoder=decoder)}


def _vips() -> Mapping[str, Way]:
    import pyvips

    def decoder(data: bytes, scale: int) -> Pixels:
        return np.asarray(pyvips.Image.jpegload_buffer(data, shrink=scale).numpy())

    def whole(data: bytes, size: Size, scale: int, by: Filter) -> Pixels:
        image = pyvips.Image.jpegload_buffer(data, shrink=scale, access="sequential")
        small = image.resize(
            size[0] / image.width, vscale=size[1] / image.height, kernel={"bilinear": "linear", "bicubic": "cubic"}[by]
        )
        return np.asarray(small.numpy())

    return {"decoded": partial(_decoded, decoder=decoder), f"decoded{OWN}": partial(_resized, whole=whole)}


def _torchvision() -> Mapping[str, Way]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)

    def tensor(data: bytes) -> Any:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)

    def decoder(data: bytes, scale: int) -> Pixels:
        pixels = np.ascontiguousarray(tensor(data).permute(1, 2, 0).numpy())  # it knows no reduced scale
        return np.asarray(Image.fromarray(pixels).reduce(scale)) if scale > 1 else pixels

    def whole(data: bytes, size: Size, scale: int, by: Filter) -> Pixels:
        small = torch.nn.functional.interpolate(
            tensor(data)[None], (size[1], size[0]), mode=by, antialias=True, align_corners=False
        )
        return np.asarray(small[0].permute(1, 2, 0).numpy())

    return {"decoded": partial(_decoded, decoder=decoder), f"decoded{OWN}": partial(_resized, whole=whole)}


def _nvimgcodec() -> Mapping[str, Way]:
    from nvidia import nvimgcodec

    device, backends = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY, [nvimgcodec.Backend(nvimgcodec.CPU_ONLY)]
    library = nvimgcodec.Decoder(device_id=device, max_num_cpu_threads=1, backends=backends)

    def decoder(data: bytes, scale: int) -> Pixels:
        pixels = np.asarray(library.decode(data).cpu())  # it knows no reduced scale
        return np.asarray(Image.fromarray(pixels).reduce(scale)) if scale > 1 else pixels

    return {"decoded": partial(_decoded, decoder=decoder)}


LIBRARIES: dict[str, Callable[[], Mapping[str, Way]]] = {
    "pillow": _pillow,
    "pillow-simd": lambda: {SERVICE: _service},
    "simplejpeg": _simplejpeg,
    "turbojpeg": _turbojpeg,
    "opencv": _opencv,
    "imagecodecs": _imagecodecs,
    "pyvips": _vips,
    "cykooz-resizer": _cykooz,
    "torch": _torch,
    "torchvision": _torchvision,
    "nvimgcodec": _nvimgcodec,
}


def jobs(library: str) -> Mapping[str, Callable[..., Any]]:
    """What the worker of a library does when it is told.

    Raises:
        ImportError: expected; the library, or what it is made on, is not there.
    """
    # Ours, from the same process, is what each is compared with.
    ways = {SERVICE: _service, **LIBRARIES[library]()}
    read: dict[str, bytes] = {}

    def _read(path: str) -> bytes:
        if path not in read:
            read[path] = Path(path).read_bytes()
        return read[path]

    def turn(way: str, recipe: dict[str, Any], paths: list[str]) -> float:
        """CPU seconds of this process, all threads of it, for an image of these files."""
        made, data = Recipe(**recipe), [_read(path) for path in paths]
        begun = time.process_time()
        for each in data:
            ways[way](each, made)
        return (time.process_time() - begun) / len(data)

    def pixels(way: str, recipe: dict[str, Any], paths: list[str], to: str) -> bool:
        """Write what comes of the files, uint8 ``[N, H, W, 3]``, as a NumPy file."""
        made = Recipe(**recipe)
        np.save(to, np.stack([ways[way](_read(path), made) for path in paths]))
        return True

    return {"ways": lambda: list(ways), "turn": turn, "pixels": pixels}


if __name__ == "__main__":
    serve(partial(jobs, sys.argv[1]))
