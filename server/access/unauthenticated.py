"""Calls that need no identity and reach no model: health checks, reflection, descriptions of models.

They have a small budget of their own, apart from that of classification, so that whoever exhausts it cannot hold up
classification: calls open at once, messages received at once, the bytes and the time of a message, calls a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from glimpse.server.access.call_context import CallContext
from glimpse.server.access.places import Places
from glimpse.server.access.rates import Allowance, Rates
from glimpse.server.access.short_messages import ShortMessages
from glimpse.server.errors import InvalidRequestError, OverloadedError, Reason

# A message of these methods names a service, a symbol or a model.
MOST_BYTES = 4096
_AT_ONCE = 4  # messages received: 64 MiB where each is as long as gRPC lets it be
_SECONDS = 3.0  # for a message to come, which clients send with the call itself
_SECONDS_IF_OTHERS_WAIT = 0.05  # both come in one packet
# Callers whose calls a second are counted, the last ones that came: 2 MB. Strangers can have any number of addresses.
REMEMBERED = 10_000
# Who asks too often waits for so long, and is refused if there is still no room then: so a caller who repeats a call
# as soon as it is refused is slowed down.
_PATIENCE = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Budget:
    """What such calls may take."""

    what: str  # what they are, to people
    calls: int  # open at once, from the first byte to the last; each takes some 25 KB
    streams: int  # open at once, of those that stay open
    streams_each: int  # of one party
    allowance: Allowance  # calls a second of one party, and messages of those that send several


class UnauthenticatedCalls:
    """One kind of such calls. Lives on the event loop; not for other threads."""

    def __init__(self, budget: Budget) -> None:
        """Hold them to a budget."""
        self.calls = Places(budget.what, budget.calls, budget.calls)
        self.streams = Places(f"streams of {budget.what}", budget.streams, budget.streams_each)
        self._messages = ShortMessages(_AT_ONCE, _SECONDS, _SECONDS_IF_OTHERS_WAIT)
        self.rates = Rates(budget.allowance, what=budget.what, remembered=REMEMBERED)

    def place(self, call: CallContext, *, streams: bool) -> AbstractContextManager[None]:
        """Hold a place while the block runs: one of those for calls that stay open, or of the others.

        Raises:
            OverloadedError: expected; see `Places.hold`.
        """
        return (self.streams if streams else self.calls).hold(call)

    async def receive(
        self, call: CallContext, read: Callable[[], Awaitable[Any]], decompress: Callable[[bytes, int], bytes]
    ) -> Any:
        """Receive a message of a call that has a place.

        Args:
            call: the call.
            read: awaited for the bytes of the message, or for what stands for its absence, which is returned.
            decompress: returns the message as it was before compression, if it is compressed; of a longer one than is
                given, no more than one byte more.

        Raises:
            OverloadedError: expected; RATE_LIMITED.
            InvalidRequestError: expected; the message is longer than one of these can be.
            Exception: expected; what `decompress` raises of a message that it cannot decompress.
        """
        try:
            seconds = self.rates.take(call.who, 1, patience=_PATIENCE)
        except OverloadedError:
            await asyncio.sleep(_PATIENCE)
            raise
        if seconds:
            await asyncio.sleep(seconds)
        message = await self._messages.receive(call, read)
        if not isinstance(message, bytes):
            return message
        call.take(len(message))
        message = decompress(message, MOST_BYTES)
        if len(message) > MOST_BYTES:
            raise InvalidRequestError(
                Reason.MALFORMED_MESSAGE,
                f"A message of this method may have at most {MOST_BYTES} bytes. Received: {len(message)}.",
            )
        return message
