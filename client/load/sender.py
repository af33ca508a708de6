"""Sends the phases of a load from one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from glimpse.client.load.calls import Call, Streams, Unary, open_channels
from glimpse.client.load.driver import MOST_IN_FLIGHT, Driver, PhaseRun
from glimpse.client.load.images import Pictures, Requests
from glimpse.client.load.plan import Plan
from glimpse.client.load.tally import Tally

if TYPE_CHECKING:
    from glimpse.client.connection import Connection

_MOST_BYTES = 512 * 1024 * 1024  # in flight: gRPC copies what it sends


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What all phases share."""

    connection: Connection
    pictures: Pictures
    connections: int = 1
    retries: bool = False  # the shipped policy; otherwise each request is sent once
    model: str = ""
    version: str = ""
    seed: int = 0
    share: int = 1  # processes that send together, and share the memory of what is in flight
    watch: Callable[[Plan, Tally], None] = field(default=lambda *_: None)

    async def run(self, plan: Plan, stop: asyncio.Event) -> PhaseRun:
        """One phase, over connections of its own.

        Args:
            plan: what to send.
            stop: ends it early.
        """
        channels = open_channels(self.connection, self.connections, retries=self.retries)
        requests = Requests(
            self.pictures,
            images=plan.images_per_call,
            bad=plan.bad,
            stream=plan.stream,
            seed=self.seed,
            model=self.model,
            version=self.version,
        )
        call: Call
        async with contextlib.AsyncExitStack() as stack:
            for channel in channels:
                stack.push_async_callback(channel.close)
            if plan.stream:
                streams = plan.callers if not plan.rate else self.connections
                call = sent = Streams(channels, self.connection.metadata, streams=streams, window=plan.window)
                stack.push_async_callback(sent.close)
            else:
                call = Unary(channels, self.connection.metadata)
            each = max(1.0, self.pictures.mean_bytes * plan.images_per_call * self.share)
            driver = Driver(
                plan,
                requests.make,
                call,
                stop=stop,
                watch=lambda tally: self.watch(plan, tally),
                seed=self.seed,
                most_in_flight=max(64, min(MOST_IN_FLIGHT // self.share, int(_MOST_BYTES / each))),
            )
            return await driver.run()
