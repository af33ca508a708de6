"""Published checkpoints: a catalogue, and the download of a checkpoint into the cache.

Neither Keras nor any other framework is imported here.
"""

from __future__ import annotations

from glimpse.models.published.cache import abandon, cache_folder, fetch
from glimpse.models.published.catalogue import DEFAULT_TAG, UnknownCheckpointError, find, listing, tags
from glimpse.models.published.checkpoint import Checkpoint, Checksum, labels
from glimpse.models.published.transfer_limits import DownloadPolicy, FetchError

__all__ = [
    "DEFAULT_TAG",
    "Checkpoint",
    "Checksum",
    "DownloadPolicy",
    "FetchError",
    "UnknownCheckpointError",
    "abandon",
    "cache_folder",
    "fetch",
    "find",
    "labels",
    "listing",
    "tags",
]
