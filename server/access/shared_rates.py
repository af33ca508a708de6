"""Rates of callers that hold for all workers of a server together.

Each worker has buckets of its own. Every tenth of a second it tells the supervisor what callers have spent there, the
supervisor tells the other workers, and those take it from their buckets. So what a caller sends in the long run is
exactly its rate, whichever workers its connections lead to, and a caller with one connection has its whole rate.

A caller that has not sent for a while, and then sends to several workers within the same tenth of a second, may exceed
its burst by a factor of as many workers, once: it is in debt then. A worker that is replaced begins with full buckets.

In a worker, on its event loop:

    rates = SharedRates(access.all_rates(), channel.send)
    task = keep_running("shared rates", rates.run)
    rates.apply(message.body)                    # for each {"do": "spent", ...} that comes

In the supervisor, for each {"do": "spent", ...} of a worker: send `message.body` as it is to all other workers.
`relayed` does that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from glimpse.server.access.rates import Rates

EXCHANGE_SECONDS = 0.1
_LARGEST = 48 << 10  # bytes of a message, below what the control channel takes
_NUMBER = 32  # bytes of a number and of what is around a name, at most


class SharedRates:
    """The rates of one worker. Lives on its event loop."""

    def __init__(self, rates: Mapping[str, Rates], send: Callable[[dict[str, Any]], bool]) -> None:
        """Keep an account of what is spent from now on.

        Args:
            rates: those that are shared, by a name that is the same in all workers.
            send: sends a message to the supervisor, and returns whether it could. What could not be sent is sent later.
        """
        self._rates = dict(rates)
        self._send = send
        for each in self._rates.values():
            each.share()

    async def run(self) -> None:
        """Tell what was spent, again and again, until cancelled."""
        while True:
            await asyncio.sleep(EXCHANGE_SECONDS)
            self.tell()

    def tell(self) -> None:
        """Tell what was spent since the last time; nothing is sent where that is nothing."""
        for name, rates in self._rates.items():
            for part in _parts(rates.spent()):
                if not self._send({"do": "spent", "of": {name: part}}):
                    rates.unsaid(part)

    def apply(self, body: Mapping[str, Any]) -> None:
        """Take what was spent elsewhere, as a message says, from the buckets here."""
        for name, callers in body["of"].items():
            rates = self._rates.get(name)
            if rates is not None:
                for who, seconds in callers.items():
                    rates.charge(who, seconds)


def relayed(body: dict[str, Any], sender: int, workers: Mapping[int, Callable[[dict[str, Any]], bool]]) -> list[int]:
    """Tell all other workers what one has told the supervisor.

    Args:
        body: the message.
        sender: the number of the worker that it came from.
        workers: by number, what sends a message to a worker and returns whether it could.

    Returns:
        The workers that could not be told: they do not read, and callers may send more there than their rate.
    """
    return [number for number, send in workers.items() if number != sender and not send(body)]


def _parts(spent: Mapping[str, float]) -> Iterator[dict[str, float]]:
    """So much at a time as fits into a message."""
    part: dict[str, float] = {}
    size = 0
    for who, seconds in spent.items():
        if not seconds:
            continue
        adds = len(json.dumps(who)) + _NUMBER
        if part and size + adds > _LARGEST:
            yield part
            part, size = {}, 0
        part[who] = seconds
        size += adds
    if part:
        yield part
