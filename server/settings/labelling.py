"""Settings of what helps to label images: samples that are kept, and feedback about answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode

from glimpse.server.settings.kinds import Positive, split

SampleReason = Literal["random", "near", "unknown", "disagreement"]
Share = Annotated[float, Field(ge=0, le=1)]


class LabellingSettings(BaseSettings):
    """Part of `server.settings.Settings`."""

    samples: Path | None = Field(
        None,
        description="Folder in which some of the images are kept, to be labelled and trained with, each with a JSON "
        "file of its answer. It is made if it does not exist. Without it, no image is kept.",
    )
    samples_reasons: Annotated[frozenset[SampleReason], NoDecode, BeforeValidator(split)] = Field(
        frozenset(("random", "near", "unknown", "disagreement")),
        description="Which images are kept, with commas between: random (a share of all), near (two classes are nearly "
        "as probable, or the novelty or a label's probability is near its threshold), unknown (they show none of the "
        "model's classes), disagreement (a canary or a shadow names another class).",
    )
    samples_share: Share = Field(0.01, description="Share of all images that is kept for the reason random, 0 to 1.")
    samples_margin: Share = Field(
        0.1,
        description="An image is kept for the reason near if its first class is more probable than its second by less "
        "than this, 0 to 1. Of a multi-label model: if a label's probability is nearer to its threshold than this "
        "share of what the threshold is away from 0 or 1.",
    )
    samples_per_minute: Positive = Field(
        60,
        description="Images that are kept per minute at most, so that no caller can fill the folder at once. Several "
        "workers have equal parts.",
    )
    samples_max_images: Positive = Field(
        10_000,
        description="Maximum number of images in the folder of samples. Above that, the oldest are deleted, those "
        "without a true class first.",
    )
    samples_max_bytes: Annotated[int, Field(ge=1)] = Field(
        1 << 30, description="Maximum size of all files in the folder of samples, in bytes. Above that, likewise."
    )
    samples_max_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        30.0, description="Time after which a sample is deleted, with or without a true class, in days."
    )
    feedback_images: Positive = Field(
        50_000,
        description="Maximum number of images whose answers are remembered for feedback: their first five classes, "
        "some 300 bytes for a request of one image. The oldest are forgotten first. Several workers have equal parts.",
    )
    feedback_hours: Annotated[float, Field(gt=0, le=24 * 365)] = Field(
        24.0, description="Time for which answers are remembered for feedback, in hours."
    )
