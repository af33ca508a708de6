"""Decompressing gRPC messages (gzip, deflate) here, few at once, instead of in gRPC.

gRPC decompresses every message as soon as it is complete, so that 64 calls of 16 kB become 64 messages of 16 MiB before
the server has a say. It can be told to hand them on as they came, but then does not say which are compressed. That can
be told from how they begin: no message of protobuf begins as gzip does (its first byte would be a field of an unknown
wire type), and no message of this contract has the field with which deflate would begin.
"""

from __future__ import annotations

import asyncio
import zlib

from google.protobuf.message import DecodeError

_GZIP = b"\x1f\x8b"
_DEFLATE = 0x78  # the largest window, which every client takes; with the next byte it is a multiple of 31 (RFC 1950)
_AT_ONCE = 64 << 10  # bytes that are decompressed without a thread
_THREADS = 2


class TooLargeError(Exception):
    """Expected: a compressed message is too large. It is refused as gRPC refuses others, without a reason."""


class Decompressor:
    """Decompresses messages of up to so many bytes. Lives on the event loop."""

    def __init__(self, largest: int) -> None:
        """Refuse what would be larger than `largest` bytes, as gRPC refuses what is not compressed."""
        self._largest = largest
        self._turns = asyncio.Semaphore(_THREADS)

    async def decompress(self, message: bytes) -> bytes:
        """The message, decompressed; only to be awaited for one of which `is_compressed` says that it is.

        Raises:
            DecodeError: expected; it cannot be decompressed.
            TooLargeError: expected.
        """
        decompressor = _decompressor(message)
        try:
            first = decompressor.decompress(message, _AT_ONCE)
            if decompressor.eof:
                return first
            async with self._turns:
                rest = await asyncio.to_thread(
                    decompressor.decompress, decompressor.unconsumed_tail, max(1, self._largest + 1 - len(first))
                )
        except zlib.error as error:
            raise DecodeError(f"The compressed message is corrupt: {error}") from error
        if len(first) + len(rest) > self._largest:
            raise TooLargeError(
                f"The decompressed message exceeds GLIMPSE_MAX_MESSAGE_BYTES ({self._largest}). Send smaller messages."
            )
        if not decompressor.eof:
            raise DecodeError("The compressed message is truncated.")
        return first + rest


def decompress_short(message: bytes, largest: int) -> bytes:
    """A short message, decompressed if it is compressed; of one that is longer, one byte more than `largest`.

    Raises:
        DecodeError: expected; it cannot be decompressed.
    """
    if not is_compressed(message):
        return message
    try:
        return _decompressor(message).decompress(message, largest + 1)
    except zlib.error as error:
        raise DecodeError(f"The compressed message is corrupt: {error}") from error


def is_compressed(message: bytes) -> bool:
    """Whether a message is compressed."""
    if message.startswith(_GZIP):
        return True
    return len(message) > 1 and message[0] == _DEFLATE and int.from_bytes(message[:2], "big") % 31 == 0


def _decompressor(message: bytes) -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | (16 if message.startswith(_GZIP) else 0))
