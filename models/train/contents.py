"""A digest of the images of a run, by which a run that is resumed knows whether they are still the same."""

from __future__ import annotations

import hashlib

_DIGEST = 16  # bytes


class Contents:
    """The bytes of image files and what each shows, in the order in which they are read.

    The order is that of the files' names, and decides which images are held out. Of the names themselves nothing else
    depends, nor of times: a copy of a folder, or a zip file of it with the same order, has the same contents.
    """

    def __init__(self) -> None:
        """Begin without an image."""
        self._whole = hashlib.blake2b(digest_size=_DIGEST)

    def add(self, data: bytes, target: bytes) -> None:
        """Add an image.

        Args:
            data: of its file, before it is decoded, so that another version of a decoder changes nothing.
            target: its class, or all of its labels.
        """
        for part in (data, target):
            self._whole.update(hashlib.blake2b(part, digest_size=_DIGEST).digest())

    @property
    def digest(self) -> str:
        """``blake2b:`` and the hexadecimal digest of all images that were added."""
        return f"blake2b:{self._whole.hexdigest()}"
