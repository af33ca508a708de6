"""Settings of how much work there may be at once, of how much of it one image may be, and of decoding."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from glimpse.server.machine import cores
from glimpse.server.settings.kinds import MIB, Positive

# A photo as cameras write it has 2 to 4 pixels a byte, so that the bytes bound how many of them are in flight.
_PIXELS_A_BYTE = 4


class WorkSettings(BaseSettings):
    """Part of `server.settings.Settings`."""

    max_images_in_flight: Positive = Field(
        256,
        description="Maximum number of images in the server at the same time, from arrival to answer. Above "
        "that, requests are refused with RESOURCE_EXHAUSTED, reason QUEUE_FULL. Several workers have equal parts, "
        "each at least four thirds of --max-images-per-request.",
    )
    max_bytes_in_flight: Positive = Field(
        256 * MIB,
        description="Maximum of the encoded bytes of all images in flight. Above that, requests are refused "
        "with RESOURCE_EXHAUSTED, reason QUEUE_FULL. Several workers have equal parts, each at least four thirds of "
        "--max-message-bytes.",
    )
    max_pixels_in_flight: int = Field(
        0,
        ge=0,
        description="Maximum of the estimated work of decoding all images in flight, in pixels of an "
        "ordinary JPEG photo. Above that, requests are refused with RESOURCE_EXHAUSTED, reason "
        "QUEUE_FULL. 0 means four pixels for each byte of --max-bytes-in-flight. Several workers have equal parts.",
    )
    max_images_per_request: Positive = Field(64, description="Maximum number of images in one request.")
    max_image_bytes: Positive = Field(12 * MIB, description="Maximum size of one encoded image, in bytes.")
    max_image_pixels: Positive = Field(
        25_000_000, description="Maximum width x height of an image that is decoded at full size."
    )
    max_jpeg_pixels: Positive = Field(
        100_000_000,
        description="Maximum width x height of a sequential (not progressive) JPEG that is decoded at a reduced scale.",
    )
    jpeg_reducing_gap: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as it remains this many "
        "times larger than the size that it is resized to. 0 decodes every JPEG at full size.",
    )
    max_streams: Positive = Field(
        64,
        description="Maximum number of streams open at the same time. Above that, new streams are refused "
        "with RESOURCE_EXHAUSTED, reason QUEUE_FULL. Several workers have equal parts, each at least 8.",
    )
    stream_window: Positive = Field(
        64, description="Maximum number of requests of one stream that are processed at the same time."
    )
    decode_threads: int = Field(
        0,
        ge=0,
        description="Number of threads that decode images, in all workers together. 0 means one for each CPU core.",
    )
    decode_in: Literal["threads", "processes"] = Field(
        "threads",
        description="Where ordinary images are decoded: in threads of the server, or in separate processes, "
        "so that a crash in a codec fails one image only. Images that are expensive to decode "
        "always go to processes, except on Windows.",
    )
    decode_memory_bytes: int = Field(
        0,
        ge=0,
        description="Maximum memory that one image may use in a decoder process, in bytes. 0 means what the "
        "largest permitted image needs.",
    )
    decode_seconds: float = Field(
        10.0, gt=0, le=3600, description="Maximum time that one image may take in a decoder process, in seconds."
    )

    @property
    def work_in_flight(self) -> int:
        """Predicted work of decoding that may be in flight, in pixels of an ordinary JPEG photo."""
        return self.max_pixels_in_flight or _PIXELS_A_BYTE * self.max_bytes_in_flight

    @property
    def decoders(self) -> int:
        """Number of decoder threads."""
        return self.decode_threads or cores.available()
