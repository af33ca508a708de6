"""Pillow images as they are classified: by the same rules as a file that the server decodes."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from glimpse.client import AsyncClient, Client, ImageRefusedError, exif
from glimpse.client.image_input import MAX_IMAGE_BYTES, load
from glimpse.client.image_values import is_pillow
from glimpse.models.decoding import exif as servers
from glimpse.models.prestem.colour import to_rgb
from glimpse.v1 import classifier_pb2 as pb
from tests.client.scripted import ScriptedServer


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def with_orientation(number: int) -> Image.Image:
    """A photo as a camera held that way writes it, opened again."""
    metadata = Image.Exif()
    metadata[0x0112] = number
    file = io.BytesIO()
    Image.fromarray(noise(6, 9, 3)).save(file, "PNG", exif=metadata)
    return Image.open(file)


def palette_with_transparency() -> Image.Image:
    image = Image.fromarray(noise(5, 4, 3)).quantize(8)
    image.info["transparency"] = 3
    return image


IMAGES: dict[str, Callable[[], Image.Image]] = {
    "RGB": lambda: Image.fromarray(noise(5, 4, 3)),
    "grey": lambda: Image.fromarray(noise(5, 4)),
    "RGBA": lambda: Image.fromarray(noise(5, 4, 4)),
    "grey with alpha": lambda: Image.fromarray(noise(5, 4, 2)),
    "bilevel": lambda: Image.fromarray(noise(5, 4)).convert("1"),
    "palette": lambda: Image.fromarray(noise(5, 4, 3)).quantize(8),
    "palette with transparency": palette_with_transparency,
    "CMYK": lambda: Image.fromarray(noise(5, 4, 3)).convert("CMYK"),
    "YCbCr": lambda: Image.fromarray(noise(5, 4, 3)).convert("YCbCr"),
    "16 bits": lambda: Image.fromarray(noise(5, 4).astype(np.uint16) * 257 + 128),
    **{f"orientation {number}": partial(with_orientation, number) for number in range(1, 9)},
}


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_a_pillow_image_is_sent_as_the_server_would_show_it(make: Callable[[], Image.Image]) -> None:
    expected = np.asarray(to_rgb(make()))
    raw = load(make()).raw
    assert (raw.height, raw.width) == expected.shape[:2]
    sent = np.frombuffer(raw.data, np.uint8).reshape(raw.height, raw.width, 3)
    np.testing.assert_array_equal(sent, expected)


@pytest.mark.parametrize("kind", ["grey", "bilevel", "16 bits"])
def test_a_grey_pillow_image_is_sent_as_every_server_reads_it(kind: str) -> None:
    """In red, green and blue, and without the field that says so: servers from before it refuse what has it."""
    raw = load(IMAGES[kind]()).raw
    assert not raw.channels
    assert len(raw.data) == 3 * raw.height * raw.width


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
def test_a_grey_array_is_sent_in_one_channel(shape: tuple[int, ...]) -> None:
    pixels = noise(5, 4).reshape(shape)
    assert load(pixels).raw == pb.RawPixels(height=5, width=4, channels=1, data=pixels.tobytes())


def test_the_image_itself_is_left_as_it_was() -> None:
    image = Image.fromarray(noise(5, 4, 4))
    before = image.tobytes()
    load(image)
    assert (image.mode, image.size, image.tobytes()) == ("RGBA", (4, 5), before)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_range_of_values_that_is_not_known_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"which value is white.*Received: mode {mode}"):
        load(Image.new(mode, (4, 4)))


def test_more_pixels_than_a_message_holds_are_refused_with_advice() -> None:
    side = int((MAX_IMAGE_BYTES / 3) ** 0.5) + 1
    advice = r"path or the bytes of its file, make it smaller.*or raise max_message_bytes"
    with pytest.raises(ImageRefusedError, match=advice) as refused:
        load(Image.new("RGB", (side, side)))
    assert refused.value.reason == "MESSAGE_TOO_LARGE"
    assert len(load(Image.new("RGB", (side - 1, side - 1))).raw.data) <= MAX_IMAGE_BYTES


def test_only_pillows_own_classes_are_taken_for_an_image() -> None:
    class Image:
        """Somebody's own."""

    assert is_pillow(with_orientation(1))
    assert not any(map(is_pillow, (Image(), b"", "photo.jpg", noise(2, 2, 3))))


def test_both_clients_take_an_image_of_pillows(scripted: ScriptedServer) -> None:
    image = Image.fromarray(noise(2, 4, 3))

    async def ask() -> list[str]:
        async with AsyncClient(scripted.target) as client:
            lone = await client.classify(image)
            return [
                lone.predictions[0].label,
                *[r.predictions[0].label async for _, r in client.classify_many([(1, image)])],
            ]

    with Client(scripted.target) as client:
        labels = [client.classify(image).predictions[0].label]
        labels += [result.predictions[0].label for _, result in client.classify_many([(1, image)])]
    assert labels + asyncio.run(ask()) == ["2x4"] * 4


def test_asyncio_decodes_in_a_thread(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    image = with_orientation(1)
    threads = []
    decode = image.load

    def load() -> object:
        threads.append(threading.current_thread())
        return decode()

    monkeypatch.setattr(image, "load", load)

    async def ask() -> None:
        async with AsyncClient(scripted.target) as client:
            await client.classify(image)

    asyncio.run(ask())
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_as_the_server_reads_it(order: str) -> None:
    metadata = Image.Exif()
    metadata.endian = order
    for number in range(10):
        metadata[0x0112] = number
        whole = metadata.tobytes()
        for data in (whole, whole.removeprefix(b"Exif\0\0"), *(whole[:end] for end in range(len(whole)))):
            assert exif.orientation(data) == servers.orientation(data)
    assert exif.orientation(b"") == 1
