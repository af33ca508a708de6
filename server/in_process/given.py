"""The settings of a classifier: those of the server that mean something without one, given as arguments alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import pydantic
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.suggestions import nearest
from glimpse.server.settings import Settings, problems


class MoreSettings(TypedDict, total=False):
    """Settings of the server that a classifier takes as well, by the same names and with the same defaults."""

    options: Mapping[str, Any]  # of the architecture
    golden: Literal["require", "auto", "off"]
    calibration: Path | None  # images with which a network is made int8
    conversion_seconds: float
    max_batch_size: int
    compute_streams: int
    max_image_bytes: int
    max_image_pixels: int
    max_jpeg_pixels: int
    jpeg_reducing_gap: float
    decode_threads: int
    decode_in: Literal["threads", "processes"]
    decode_memory_bytes: int
    decode_seconds: float
    stuck_seconds: float


# All that `Classifier.load` takes, but for the weights.
ARGUMENTS = ("model", "variant", "labels", "recipe", "runtime", "precision", *MoreSettings.__annotations__)


class _Given(Settings):
    """The variables and the file of a server that happens to run from the same shell are not this program's."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes them
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments alone."""
        return (init_settings,)


def settings_of(values: Mapping[str, Any], geometries: frozenset[str]) -> Settings:
    """The settings with these values; all limits of what is in flight leave room for the largest image.

    Args:
        values: those of `ARGUMENTS`, and `weights`.
        geometries: that may be asked for.

    Raises:
        TypeError: there is no such setting.
        ValueError: a value is invalid; the message says which.
    """
    for name in values.keys() - {"weights", *ARGUMENTS}:
        raise TypeError(
            f"Classifier.load() has no argument {name!r}.{nearest(name, ARGUMENTS)} It has: {', '.join(ARGUMENTS)}"
        )
    try:
        first = _Given(**(dict(values) | _raised(values)))
        image = max(first.max_image_bytes, 3 * first.max_image_pixels)
        return first.model_copy(
            update={
                "max_bytes_in_flight": max(first.max_bytes_in_flight, 2 * image),
                "allow_geometries": geometries,
            }
        )
    except pydantic.ValidationError as error:
        raise ValueError(" ".join(problems.explain(error))) from error


def limits_of(settings: Settings) -> ImageLimits:
    """What one image may cost."""
    return ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_jpeg_pixels=settings.max_jpeg_pixels,
        reducing_gap=settings.jpeg_reducing_gap,
    )


def _raised(values: Mapping[str, Any]) -> dict[str, int]:
    """Limits of messages, which there are none of here, where an image may be larger than a server's messages."""
    size, fields = values.get("max_image_bytes"), Settings.model_fields
    if not isinstance(size, int) or size <= fields["max_message_bytes"].default:
        return {}
    return {
        "max_message_bytes": size,
        "max_receiving_bytes": max(size, fields["max_receiving_bytes"].default),
        "max_bytes_in_flight": max(2 * size, fields["max_bytes_in_flight"].default),
    }
