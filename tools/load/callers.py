"""Callers who go on while replicas are ended under them: with the shipped client, or with a bare channel."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc

from glimpse.client import Client, GlimpseError
from glimpse.client.results import ImageResult
from glimpse.client.status import from_rpc_error
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1 import classifier_pb2_grpc
from tools.load.ledger import Failure, Ledger, Slow
from tools.load.pictures import Picture, Pictures, source
from tools.load.wire import SERVICE

_TIMEOUT = 60.0  # seconds
_STREAMS = 0.02  # share of the turns that are a stream
_STREAMED = 25  # images of each
_AFTER_FAILURE = 0.05  # seconds; where nobody answers, failures should not come by the million
# Balances by health as gRPC does it by itself, and takes every failure to its caller.
_BARE = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": SERVICE},
}
_BARE_OPTIONS = [
    ("grpc.service_config", json.dumps(_BARE)),
    ("grpc.enable_retries", 0),
    # A replica that is back should be noticed before the other one goes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


class Caller(Protocol):
    """Somebody with one channel."""

    def one(self, picture: Picture) -> str:
        """The label of an image. Raises GlimpseError."""
        ...

    def close(self) -> None:
        """Go."""
        ...


class ClientCaller:
    """The shipped client, as anybody would use it."""

    def __init__(self, target: str) -> None:
        """A client of its own."""
        self._client = Client(target, timeout=_TIMEOUT)

    def one(self, picture: Picture) -> str:
        """The label of an image."""
        return _label(self._client.classify(source(picture.image), top_k=1))

    def many(self, pictures: list[Picture], answered: Callable[[Picture, str], None]) -> None:
        """The labels of several over one stream."""
        images = ((picture, source(picture.image)) for picture in pictures)
        for picture, result in self._client.classify_many(images, top_k=1):
            if result.error is not None:
                raise GlimpseError(result.error.code, result.error.reason, result.error.message)
            answered(picture, _label(result))

    def close(self) -> None:
        """Close it."""
        self._client.close()


class BareCaller:
    """A channel that balances by health and does not retry."""

    def __init__(self, target: str) -> None:
        """A channel of its own."""
        self._target = target
        self._channel = grpc.insecure_channel(target, options=_BARE_OPTIONS)
        grpc.channel_ready_future(self._channel).result(timeout=_TIMEOUT)
        self._stub = classifier_pb2_grpc.ImageClassifierStub(self._channel)

    def one(self, picture: Picture) -> str:
        """The label of an image."""
        request = pb.ClassifyRequest(images=[picture.image], options=pb.ClassifyOptions(top_k=1))
        try:
            result = self._stub.Classify(request, timeout=_TIMEOUT).results[0]
        except grpc.RpcError as error:
            cause = from_rpc_error(error, self._target)
            told = str(getattr(error, "debug_error_string", lambda: "")())
            raise GlimpseError(cause.code, cause.reason, f"{cause.message} {told}") from error
        return f"!{result.error.reason}" if result.HasField("error") else result.predictions[0].label

    def close(self) -> None:
        """Close it."""
        self._channel.close()


def _label(result: ImageResult) -> str:
    return result.predictions[0].label if result.predictions else "nothing"


class Callers:
    """Threads, each with a channel of its own, that call until they are told to stop."""

    def __init__(
        self,
        make: Callable[[], Caller],
        *,
        count: int,
        sent: Pictures,
        ledger: Ledger,
        begun: float,
        seed: int,
    ) -> None:
        """Nobody calls yet. `begun`: time.monotonic at the start of the run."""
        self._make, self._sent, self._ledger, self._begun = make, sent, ledger, begun
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i, seed + i), daemon=True) for i in range(count)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def going(self) -> bool:
        """Whether anybody still calls."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> bool:
        """Let each end what it has begun; False where one hangs."""
        self._stop.set()
        end = time.monotonic() + 2 * _TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not self.going()

    def _run(self, number: int, seed: int) -> None:
        generator = random.Random(seed)
        try:
            caller = self._make()
        except Exception as error:  # noqa: BLE001 - the same as for a call
            self._fail(_Call(number, "connect", time.monotonic()), error, 0)
            return
        try:
            while not self._stop.is_set():
                # Without retries a stream that outlasts the announcement may be cut; only the client takes it up again.
                if isinstance(caller, ClientCaller) and generator.random() < _STREAMS:
                    self._many(caller, number, [self._sent.good(generator) for _ in range(_STREAMED)])
                else:
                    self._one(caller, number, self._sent.good(generator))
        finally:
            caller.close()

    def _one(self, caller: Caller, number: int, picture: Picture) -> None:
        begun = time.monotonic()
        try:
            label = caller.one(picture)
        except Exception as error:  # noqa: BLE001 - whatever a caller may see is what this is about
            self._fail(_Call(number, "classify", begun), error, 1)
        else:
            call = Slow(time.monotonic() - begun, begun - self._begun, number)
            self._ledger.answer(label, picture.expected, call)

    def _many(self, caller: ClientCaller, number: int, pictures: list[Picture]) -> None:
        call = _Call(number, "classify_many", time.monotonic())
        left = len(pictures)

        def answered(picture: Picture, label: str) -> None:
            nonlocal left
            left -= 1
            self._ledger.answer(label, picture.expected)

        try:
            caller.many(pictures, answered)
        except Exception as error:  # noqa: BLE001 - the same
            self._fail(call, error, left)
        else:
            if left:
                self._fail(call, None, left)

    def _fail(self, call: _Call, error: Exception | None, images: int) -> None:
        if error is None:
            code, reason, message = "OK", "", "The stream ended without an answer for each image."
        elif isinstance(error, GlimpseError):
            code, reason, message = error.code.name, error.reason, error.message
        else:
            code, reason, message = type(error).__name__, "", str(error)
        ended = time.monotonic() - self._begun
        self._ledger.fail(
            Failure(call.begun - self._begun, ended, call.caller, call.name, code, reason, message, images)
        )
        time.sleep(_AFTER_FAILURE)


@dataclass(frozen=True, slots=True)
class _Call:
    caller: int
    name: str
    begun: float  # time.monotonic
