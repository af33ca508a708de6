"""Published checkpoints: a catalogue, and finding a checkpoint in a package or downloading it into the cache.

Neither Keras nor any other framework is imported here.
"""

from __future__ import annotations

from pathlib import Path

from glimpse.models.published.cache import abandon, cache_folder, fetch
from glimpse.models.published.catalogue import (
    DEFAULT_TAG,
    UnknownCheckpointError,
    elsewhere,
    find,
    listing,
    tags,
)
from glimpse.models.published.checkpoint import Checkpoint, Checksum, labels
from glimpse.models.published.transfer_limits import DownloadPolicy, FetchError

GOLDEN = Path(__file__).parent / "golden"  # recorded answers of published weights, see `models.golden`

__all__ = [
    "DEFAULT_TAG",
    "GOLDEN",
    "Checkpoint",
    "Checksum",
    "DownloadPolicy",
    "FetchError",
    "UnknownCheckpointError",
    "abandon",
    "cache_folder",
    "elsewhere",
    "fetch",
    "find",
    "labels",
    "listing",
    "tags",
]
