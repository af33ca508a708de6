"""What is sent: photos, or small pictures made here, and now and then one that is broken on purpose."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from glimpse.client.channel import MAX_MESSAGE_BYTES
from glimpse.client.image_input import load
from glimpse.client.load.tally import Request
from glimpse.v1 import classifier_pb2 as pb

_MOST_BYTES = 256 * 1024 * 1024  # of photos that are kept in memory
_MADE = 16  # pictures, so that no cache on the way is all that is measured
_TEXT = b"bad on purpose: this is a text and no picture"


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images at hand."""

    good: tuple[pb.Image, ...]
    broken: tuple[pb.Image, ...]
    left_out: int = 0  # photos that there was no room for

    @property
    def mean_bytes(self) -> float:
        """Of a good one on the wire."""
        return sum(image.ByteSize() for image in self.good) / len(self.good)

    def serialized(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Good and broken ones as bytes, for another process."""
        return tuple(each.SerializeToString() for each in self.good), tuple(
            each.SerializeToString() for each in self.broken
        )


def of_files(paths: Iterable[str], max_message_bytes: int = MAX_MESSAGE_BYTES) -> Pictures:
    """The photos, up to 256 MiB of them; half a photo and a text are the broken ones.

    Args:
        paths: of the photos.
        max_message_bytes: of a request.

    Raises:
        OSError: a file cannot be read.
        ImageRefusedError: it does not fit into a message.
        ValueError: there is none.
    """
    good: list[pb.Image] = []
    size = left_out = 0
    for path in paths:
        if size >= _MOST_BYTES:
            left_out += 1
            continue
        good.append(load(path, max_message_bytes))
        size += len(good[-1].encoded)
    if not good:
        raise ValueError("There are no photos.")
    half = good[0].encoded[: len(good[0].encoded) // 2]
    return Pictures(tuple(good), (pb.Image(encoded=half), pb.Image(encoded=_TEXT)), left_out)


def made(height: int, width: int, seed: int, channels: int = 3) -> Pictures:
    """Raw pixels of that size, RGB or grey; raw pixels that are too few and a text are the broken ones."""
    generator = random.Random(seed)
    good = tuple(_raw(height, width, generator.randbytes(height * width * channels), channels) for _ in range(_MADE))
    return Pictures(good, (_raw(height, width, b"\0", channels), pb.Image(encoded=_TEXT)))


def _raw(height: int, width: int, data: bytes, channels: int) -> pb.Image:
    return pb.Image(raw=pb.RawPixels(height=height, width=width, data=data, channels=channels))


class Requests:
    """Requests as bytes. Messages that follow one another are one message, in which repeated fields add up."""

    def __init__(
        self, pictures: Pictures, *, images: int, bad: float, stream: bool, seed: int, model: str, version: str
    ) -> None:
        """Make what can be made before the clock starts.

        Args:
            pictures: to choose from, each as likely as the other.
            images: in a request.
            bad: share of them that are broken on purpose, by chance.
            stream: whether they are pieces of a stream, to which the caller adds an id.
            seed: equal seeds give equal requests.
            model: name of a loaded model; the server's default when empty.
            version: of that model; its newest when empty.
        """
        self._stream = stream
        self._images = images
        self._bad = bad
        self._random = random.Random(seed)
        self._good = [self._part(pb.ClassifyRequest(images=[image])) for image in pictures.good]
        self._broken = [self._part(pb.ClassifyRequest(images=[image])) for image in pictures.broken]
        selector = pb.ModelSelector(name=model, version=version)
        self._head = self._part(pb.ClassifyRequest(model=selector)) if model or version else b""

    def make(self) -> Request:
        """The next one."""
        broken = tuple(self._random.random() < self._bad for _ in range(self._images))
        parts = [self._random.choice(self._broken if bad else self._good) for bad in broken]
        return Request(b"".join((self._head, *parts)), broken)

    def _part(self, request: pb.ClassifyRequest) -> bytes:
        return (pb.ClassifyStreamRequest(request=request) if self._stream else request).SerializeToString()
