"""What the loads send: good images with the label that a quiet server gives them, and images that must be refused."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from glimpse.client import Client
from glimpse.v1 import classifier_pb2 as pb
from tools.bench import photos

_MARGIN = 0.05  # between first and second; nearer ones could change places with the batch they ride in
_LARGE = (4000, 3000)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image and what must come of it."""

    image: pb.Image
    expected: str  # the first label, or "!" and the reason of its refusal


@dataclass(frozen=True, slots=True)
class Pictures:
    """Everything that is sent, by kind."""

    small: list[Picture]  # PNG and JPEG of a few kilobytes
    photo: list[Picture]  # JPEG, 500 x 375
    large: list[Picture]  # JPEG, 12 megapixels
    fitting: list[Picture]  # raw pixels of the network's size
    raw: list[Picture]  # raw pixels of other sizes
    bad: dict[str, list[Picture]]  # by reason

    def good(self, generator: random.Random) -> Picture:
        """One of the small ones."""
        return generator.choice(self.small)


def learn(client: Client, *, large: bool = True) -> Pictures:
    """Make the images and ask a quiet server for their labels; images that it is not sure of are left out.

    Raises:
        GlimpseError: the server does not answer.
        ValueError: it is sure of none of a kind.
    """
    shape = client.describe().input
    crops = [Image.open(io.BytesIO(file)) for file in photos.jpegs(24)]
    return Pictures(
        small=_sure(client, [_file(crop, 40 + 6 * i, "PNG" if i % 2 else "JPEG") for i, crop in enumerate(crops)]),
        photo=_sure(client, [pb.Image(encoded=file) for file in photos.jpegs(12)]),
        large=_sure(client, [_file(crop, _LARGE[0], "JPEG") for crop in crops[:4]]) if large else [],
        fitting=_sure(
            client,
            [_raw(shape.height, shape.width, data) for data in photos.pixels(shape.height, shape.width, 16)],
        ),
        raw=_sure(client, [_raw(75, 100, data) for data in photos.pixels(75, 100, 12)]),
        bad={reason: [Picture(image, f"!{reason}") for image in images] for reason, images in _bad().items()},
    )


def source(image: pb.Image) -> Any:
    """The image as the client takes it: an array ``[height, width, channels]``, or the bytes of a file."""
    raw = image.raw
    if image.WhichOneof("source") == "raw":
        return np.frombuffer(raw.data, np.uint8).reshape(raw.height, raw.width, raw.channels or 3)
    return image.encoded


def _sure(client: Client, images: list[pb.Image]) -> list[Picture]:
    found = []
    for image in images:
        result = client.classify(source(image), top_k=2)
        first, second = result.predictions
        if first.probability - second.probability >= _MARGIN:
            found.append(Picture(image, first.label))
    if not found:
        raise ValueError(f"The model is sure of none of {len(images)} images, so its answers cannot be told apart.")
    return found


def _file(picture: Image.Image, width: int, form: str) -> pb.Image:
    file = io.BytesIO()
    picture.resize((width, width * 3 // 4), Image.Resampling.BICUBIC).save(file, form)
    return pb.Image(encoded=file.getvalue())


def _raw(height: int, width: int, data: bytes) -> pb.Image:
    return pb.Image(raw=pb.RawPixels(height=height, width=width, data=data))


@cache
def _bad() -> dict[str, list[pb.Image]]:
    """Images that must be refused, by the reason."""
    photo = photos.jpegs(1)[0]
    png = _file(Image.open(io.BytesIO(photo)), 200, "PNG").encoded
    bomb, tiff = io.BytesIO(), io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")  # 400 megapixels in 49 kilobytes
    Image.new("RGB", (20, 20)).save(tiff, "TIFF")
    return {
        "TRUNCATED_IMAGE": [pb.Image(encoded=photo[: len(photo) // 2]), pb.Image(encoded=png[: len(png) * 2 // 3])],
        "NOT_AN_IMAGE": [pb.Image(encoded=b"This is a sentence."), pb.Image(encoded=bytes(5000))],
        "IMAGE_PIXELS_EXCEEDED": [pb.Image(encoded=bomb.getvalue())],
        "UNSUPPORTED_FORMAT": [pb.Image(encoded=tiff.getvalue())],
        "EMPTY_IMAGE": [pb.Image()],
        "RAW_PIXELS_MISMATCH": [_raw(10, 10, b"12")],
    }
