"""A server inside the test's process, put together as a real one, but with no model: starts at once.

A call that access control lets in is told NOT_READY, by the pipeline behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.server.app import Server
from glimpse.server.ports import Bound
from glimpse.server.settings import Settings
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.conftest import TIMEOUT, rich_status

T = TypeVar("T")
IN = "NOT_READY"  # what a caller is told who was let in
Metadata = tuple[tuple[str, str], ...]


class Loop:
    """An event loop in a thread of its own, for all servers of a test run: gRPC likes to have one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there and wait for what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT)

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()


class Inside:
    """A server that listens."""

    def __init__(self, loop: Loop, **settings: object) -> None:
        self._loop = loop
        chosen = {"port": 0, "metrics_port": 0, "host": "127.0.0.1", **settings}
        self.server, self.bound = loop.run(_opened(Settings(**chosen)))  # type: ignore[arg-type]
        self.target = f"127.0.0.1:{self.bound.grpc}"

    def close(self) -> None:
        """End it."""
        self._loop.run(self._end())

    async def _end(self) -> None:
        await self.server._ports.drain(0)
        self.server._ports.close()
        self.server._decoders.close()


async def _opened(settings: Settings) -> tuple[Server, Bound]:
    server = Server(settings)
    bound = await server._ports.open()
    await server._health.tell(alive=True, ready=True)
    return server, bound


@contextlib.contextmanager
def channel(target: str, credentials: grpc.ChannelCredentials | None = None) -> Iterator[grpc.Channel]:
    """A connection of its own: gRPC would share one among channels to the same target."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    made = (
        grpc.insecure_channel(target, options)
        if credentials is None
        else grpc.secure_channel(target, credentials, options)
    )
    with made:
        yield made


def classify(through: grpc.Channel, metadata: Metadata = (), *, images: int = 1, size: int = 10) -> str:
    """What a caller is told: a reason, or a code where there is none."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=bytes(size))] * images)
    try:
        ImageClassifierStub(through).Classify(request, timeout=TIMEOUT, metadata=metadata)
    except grpc.RpcError as error:
        return told(error)
    raise AssertionError("there is no model that could have answered")


def told(error: grpc.RpcError) -> str:
    """The reason of a refusal, or its code."""
    assert isinstance(error, grpc.Call)
    if "grpc-status-details-bin" in {key for key, _ in error.trailing_metadata() or ()}:
        return str(rich_status(error)[1].reason)
    return str(error.code().name)


def healthy(through: grpc.Channel) -> bool:
    """Whether the server answers that it serves."""
    answer = HealthStub(through).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def bearer(token: str) -> Metadata:
    """The metadata that shows a token."""
    return (("authorization", f"Bearer {token}"),)


def entry(identity: str, token: str, *more: str) -> str:
    """A token in the file of tokens, and `more` lines of it."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return "\n".join(["[[token]]", f'identity = "{identity}"', f'sha256 = "{digest}"', *more, ""])


def until(condition: Callable[[], bool]) -> None:
    """Ask again and again; a server looks at its files now and then."""
    pause = threading.Event()
    for _ in itertools.repeat(None, int(TIMEOUT / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it never came to pass")


def replace(file: Path, content: str) -> None:
    """Put another file in its place, at once."""
    beside = file.with_suffix(".new")
    beside.write_text(content)
    beside.rename(file)
