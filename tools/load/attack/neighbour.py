"""The neighbour of an attack: somebody who sends one ordinary picture every tenth of a second, from another address.

A process of its own (`python -m tools.load.attack.neighbour`), so that what is measured is the server and not the
interpreter that the attack runs in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import grpc

from glimpse.client.status import from_rpc_error
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tools.bench import photos
from tools.bench.worker import serve

ANSWERED = "answered"
UNANSWERED = "no answer"
_STREAM = "/glimpse.v1.ImageClassifier/ClassifyStream"
_DEADLINE = 60.0  # seconds: as callers have one, and long enough for the server not to take it for a reason to refuse
_IN_A_ROW = 3  # answers, before anything begins
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

Record = tuple[float, float, str]  # when it was sent (time.monotonic), seconds, what came of it


class Neighbour:
    """One caller. What it sends and when does not depend on what it gets."""

    def __init__(self) -> None:
        """Nobody calls yet."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._records: list[Record] = []

    def begin(
        self,
        target: str,
        metadata: list[list[str]],
        *,
        every: float = 0.1,
        patience: float = 10.0,
        fresh: bool = False,
        streamed: bool = False,
        authority: str = "",
        pair: list[str] | None = None,
    ) -> None:
        """Call until the server answers, and go on from there.

        Args:
            target: the server.
            metadata: of each call.
            every: seconds from one call to the next.
            patience: seconds after which no answer is expected any more.
            fresh: make a connection of its own for each call.
            streamed: send each picture over a stream of its own.
            authority: a file of certificates to trust; empty: no TLS.
            pair: files of a certificate and its key to show.

        Raises:
            TimeoutError: it does not answer, though nobody attacks.
        """
        self._stop.clear()
        self._records = []
        request = _request()
        pairs: tuple[tuple[str, str | bytes], ...] = tuple((key, value) for key, value in metadata)

        def channel() -> grpc.Channel:
            if not authority:
                return grpc.insecure_channel(target, options=_OPTIONS)
            own = [Path(file).read_bytes() for file in pair or []]
            trusted = grpc.ssl_channel_credentials(Path(authority).read_bytes(), *own[::-1])
            named = ("grpc.ssl_target_name_override", "localhost")  # whatever the address
            return grpc.secure_channel(target, trusted, options=[*_OPTIONS, named])

        def send(used: grpc.Channel) -> Any:
            if not streamed:
                return ImageClassifierStub(used).Classify.future(request, timeout=_DEADLINE, metadata=pairs)
            # One message each way: on the wire that is a stream, too.
            method = used.unary_unary(
                _STREAM,
                request_serializer=pb.ClassifyStreamRequest.SerializeToString,
                response_deserializer=pb.ClassifyStreamResponse.FromString,
            )
            return method.future(pb.ClassifyStreamRequest(request=request), timeout=_DEADLINE, metadata=pairs)

        self._settle(channel, send)
        self._thread = threading.Thread(
            target=self._call, args=(channel, send, every, patience), kwargs={"fresh": fresh}, daemon=True
        )
        self._thread.start()

    def end(self) -> list[Record]:
        """Send no more, wait for what is on its way, and tell what came of all."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self._records

    def _settle(self, channel: Callable[[], grpc.Channel], send: Callable[[grpc.Channel], Any]) -> None:
        """Wait until several answers in a row have come: what another attack has left behind is not this one's."""
        answered, end = 0, time.monotonic() + _DEADLINE
        with channel() as used:
            while answered < _IN_A_ROW:
                if time.monotonic() > end:
                    raise TimeoutError(f"No answer within {_DEADLINE:.0f} s, though nobody attacks.")
                try:
                    answered = answered + 1 if _outcome(send(used).result()) == ANSWERED else 0
                except grpc.RpcError:
                    answered = 0
                    time.sleep(0.1)

    def _call(
        self,
        channel: Callable[[], grpc.Channel],
        send: Callable[[grpc.Channel], Any],
        every: float,
        patience: float,
        *,
        fresh: bool,
    ) -> None:
        pending: dict[Any, tuple[float, grpc.Channel]] = {}
        shared = channel()
        due = time.monotonic()
        while not self._stop.is_set():
            begun, used = time.monotonic(), channel() if fresh else shared
            call = send(used)
            pending[call] = begun, used
            call.add_done_callback(lambda done, begun=begun: self._note(done, begun))
            self._look(pending, patience, shared)
            due += every
            self._stop.wait(max(0.0, due - time.monotonic()))
        while pending:
            self._look(pending, patience, shared)
            time.sleep(0.01)
        shared.close()

    def _look(self, pending: dict[Any, tuple[float, grpc.Channel]], patience: float, shared: grpc.Channel) -> None:
        """Forget calls that have ended, and give those up that have taken too long."""
        for call, (begun, used) in list(pending.items()):
            if not call.done():
                if time.monotonic() - begun < patience:
                    continue
                self._records.append((begun, time.monotonic() - begun, UNANSWERED))
                call.cancel()
            if used is not shared:
                used.close()
            del pending[call]

    def _note(self, call: Any, begun: float) -> None:
        seconds = time.monotonic() - begun
        if call.cancelled():  # by us; what the server cancels is not
            return
        if call.code() is grpc.StatusCode.OK:
            self._records.append((begun, seconds, _outcome(call.result())))
            return
        cause = from_rpc_error(call, "")
        self._records.append((begun, seconds, f"{cause.code.name} {cause.reason}".strip()))


@cache
def _request() -> pb.ClassifyRequest:
    """An ordinary photo of 500 x 375 pixels."""
    return pb.ClassifyRequest(images=[pb.Image(encoded=photos.jpegs(1)[0])])


def _outcome(answer: pb.ClassifyResponse | pb.ClassifyStreamResponse) -> str:
    """`ANSWERED`, or why the request or its image was refused."""
    if isinstance(answer, pb.ClassifyStreamResponse):
        if answer.HasField("error"):
            return answer.error.reason
        answer = answer.response
    return answer.results[0].error.reason or ANSWERED


def _jobs() -> dict[str, Callable[..., Any]]:
    neighbour = Neighbour()
    _request()
    return {"begin": neighbour.begin, "end": neighbour.end}


if __name__ == "__main__":
    serve(_jobs)
