"""The messages of a stream as they are read, each within the memory budget from its first byte on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.receiving import Receiving
from glimpse.server.grpc.decompression import Decompressor, is_compressed


class StreamMessages:
    """An asynchronous iterator over the messages of one stream."""

    def __init__(
        self,
        receiving: Receiving,
        decompressor: Decompressor,
        call: CallContext,
        *,
        read: Callable[[], Awaitable[Any]],
        parse: Callable[[bytes], Any],
    ) -> None:
        """Read what `call` sends: `read` gives a message's bytes, or the end of them."""
        self._receiving, self._decompressor = receiving, decompressor
        self._call, self._read, self._parse = call, read, parse

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> Any:
        """The next message, parsed.

        Raises:
            ServiceError: expected; see `Receiving.read`.
            DecodeError: expected; it is no message of this method.
            TooLargeError: expected; it is too large when it is decompressed.
        """
        message = await self._receiving.read(self._call.who, self._call.peer, self._read)
        if not isinstance(message, bytes):
            raise StopAsyncIteration
        self._call.take(len(message))
        if is_compressed(message):
            message = await self._decompressor.decompress(message)
        return self._parse(message)
