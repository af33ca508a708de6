"""Decoding as a server's settings have it."""

from __future__ import annotations

from glimpse.models.decoding.limits import ImageLimits
from glimpse.server.decoding.isolated import memory_for
from glimpse.server.decoding.where import Decoding
from glimpse.server.settings import Settings


def decoding_of(settings: Settings) -> Decoding:
    """How and where images are decoded, as the settings have it."""
    limits = image_limits(settings)
    return Decoding(
        limits,
        in_processes=settings.decode_in == "processes",
        workers=settings.decoders,
        memory_bytes=settings.decode_memory_bytes or memory_for(limits),
        seconds=settings.decode_seconds,
    )


def image_limits(settings: Settings) -> ImageLimits:
    """What one image may be, as the settings have it."""
    return ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_jpeg_pixels=settings.max_jpeg_pixels,
        reducing_gap=settings.jpeg_reducing_gap,
    )
