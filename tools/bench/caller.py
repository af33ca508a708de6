"""The load: a worker of its own (`python -m tools.bench.caller`), so that its CPU time is not taken for the service's.

Requests are made before the clock starts and go out as bytes; answers are kept and read after it has stopped. What is
measured begins and ends with the service idle, so that its CPU time belongs to exactly the images that were answered.

The closed loop, which shares the cores with a service at its limit, is one of asyncio: on uvloop a call costs it a
seventh less than futures of gRPC's threads, which contend for Python's lock.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from typing import Any

import grpc
import grpc.aio

from glimpse.server.grpc import wakeups
from glimpse.server.processes import event_loops
from glimpse.v1 import classifier_pb2 as pb
from tools.bench import driving, loads, machine, photos
from tools.bench.worker import serve

_CLASSIFY = "/glimpse.v1.ImageClassifier/Classify"
_STREAM = "/glimpse.v1.ImageClassifier/ClassifyStream"
# A channel is one connection, and its own lane in the service.
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
_RAMP = 0.1  # share of the time at its beginning that does not count for the rate
_PATIENCE = 120  # seconds; an answer that takes longer is an error


@dataclass
class Record:
    """What came of one load. Written from gRPC's threads: appending to a list is atomic."""

    finished: list[tuple[float, float, bytes]] = field(default_factory=list)  # when, latency, answer
    errors: Counter[str] = field(default_factory=Counter)
    late: list[float] = field(default_factory=list)  # how long after it was due a request went out


class Caller:
    """Requests at hand, and a service to send them to."""

    def __init__(self) -> None:
        """Neither requests nor a service yet."""
        self._requests: list[bytes] = []
        self._each = 1
        self._target, self._connections, self._pid = "", 0, 0
        self._opened: list[grpc.Channel] = []
        self._runner: asyncio.Runner | None = None  # of the loop that has the channels of the closed loop
        self._on_loop: list[grpc.aio.Channel] = []

    def prepare(self, kind: str, height: int, width: int, each: int = 1) -> dict[str, float]:
        """Make the requests: ``jpeg``, or ``raw`` of that size, with `each` images in one. Returns their mean bytes."""
        images = (
            [pb.Image(encoded=data) for data in photos.jpegs()]
            if kind == "jpeg"
            else [
                pb.Image(raw=pb.RawPixels(height=height, width=width, data=data))
                for data in photos.pixels(height, width)
            ]
        )
        endless = cycle(images)
        requests = max(1, len(images) // each)
        self._each = each
        self._requests = [pb.ClassifyRequest(images=islice(endless, each)).SerializeToString() for _ in range(requests)]
        return {"bytes": sum(map(len, self._requests)) / requests}

    def connect(self, target: str, pid: int, connections: int = 4) -> None:
        """Talk to this service from now on, on so many connections."""
        for channel in self._opened:
            channel.close()
        self._opened = []
        if self._runner is not None:
            self._runner.run(_close(self._on_loop))
        self._on_loop = []
        self._target, self._connections, self._pid = target, connections, pid

    @property
    def _channels(self) -> list[grpc.Channel]:
        """The connections, made when they are needed."""
        if not self._opened:
            self._opened = [grpc.insecure_channel(self._target, options=_OPTIONS) for _ in range(self._connections)]
            for channel in self._opened:
                grpc.channel_ready_future(channel).result(timeout=_PATIENCE)
        return self._opened

    def _loop_channels(self) -> tuple[asyncio.Runner, list[grpc.aio.Channel]]:
        """The same for calls on an event loop, which they belong to."""
        if self._runner is None:
            wakeups.wake_once()
            self._runner = asyncio.Runner(loop_factory=event_loops.factory())
        if not self._on_loop:
            self._on_loop = self._runner.run(_open(self._target, self._connections))
        return self._runner, self._on_loop

    def answer(self) -> str:
        """One answer of the service, in hexadecimal."""
        answer: bytes = _unary(self._channels[0])(self._requests[0], timeout=_PATIENCE)
        return answer.hex()

    def lone(self, requests: int) -> dict[str, Any]:
        """One caller: the next request when the answer to the last has come."""
        call = _unary(self._channels[0])

        def load(record: Record) -> float:
            for request in islice(cycle(self._requests), requests):
                begun = time.monotonic()
                answer = call(request, timeout=_PATIENCE)
                now = time.monotonic()
                record.finished.append((now, now - begun, answer))
            return time.monotonic()

        return self._measured(load)

    def closed(self, callers: int, seconds: float) -> dict[str, Any]:
        """`callers` of whom each sends its next request when it has its answer, for `seconds`."""
        runner, channels = self._loop_channels()
        calls = [_unary(channel) for channel in channels]
        requests = cycle(self._requests)

        async def call(record: Record, send: Any, end: float) -> None:
            now = time.monotonic()
            while now < end:
                begun = now
                try:
                    answer = await send(next(requests), timeout=_PATIENCE)
                except grpc.aio.AioRpcError as error:
                    now = time.monotonic()
                    record.errors[error.code().name] += 1
                else:
                    now = time.monotonic()
                    record.finished.append((now, now - begun, answer))

        async def all_calls(record: Record) -> float:
            end = time.monotonic() + seconds
            await asyncio.gather(*[call(record, calls[caller % len(calls)], end) for caller in range(callers)])
            return end

        def load(record: Record) -> float:
            return runner.run(all_calls(record))

        return self._measured(load)

    def opened(self, rate: float, seconds: float, seed: int) -> dict[str, Any]:
        """Independent callers, `rate` requests a second on average; latency counts from when a request was due."""
        calls = cycle([_unary(channel) for channel in self._channels])
        requests = cycle(self._requests)
        due = loads.poisson(rate, seconds, seed)

        def load(record: Record) -> float:
            def send(planned: float, ended: Callable[[], None]) -> None:
                def done(future: Any) -> None:
                    _note(record, future, planned)
                    ended()

                future = next(calls).future(next(requests), timeout=_PATIENCE)
                record.late.append(time.monotonic() - planned)
                future.add_done_callback(done)

            start, _ = driving.open_loop(send, due)
            return start + seconds

        return self._measured(load)

    def stream(self, streams: int, seconds: float) -> dict[str, Any]:
        """`streams` that send as fast as the service reads, for `seconds`, and then read to the end."""

        def load(record: Record) -> float:
            end = time.monotonic() + seconds

            def run(channel: grpc.Channel) -> None:
                sent: dict[str, float] = {}
                call: Any = channel.stream_stream(_STREAM)  # bytes in, bytes out
                for answer in call(self._pieces(end, sent)):
                    now = time.monotonic()
                    record.finished.append((now, now - sent.pop(_piece_id(answer)), answer))

            threads = [
                threading.Thread(target=run, args=(channel,)) for channel in islice(cycle(self._channels), streams)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return end

        return self._measured(load, pieces=True)

    def _pieces(self, end: float, sent: dict[str, float]) -> Iterator[bytes]:
        """Pieces of a stream, joined from serialised fields: an id, and a request that was made before."""
        head = pb.ClassifyStreamRequest(request=pb.ClassifyRequest()).SerializeToString()[:1]
        requests = cycle([head + _varint(len(request)) + request for request in self._requests])
        for number in count():
            if time.monotonic() >= end:
                return
            sent[str(number)] = time.monotonic()
            yield pb.ClassifyStreamRequest(id=str(number)).SerializeToString() + next(requests)

    def _measured(self, load: Callable[[Record], float], *, pieces: bool = False) -> dict[str, Any]:
        """Run a load from idle to idle; it returns when it ceased to send. `pieces`: its answers are a stream's."""
        record = Record()
        server, own = machine.cpu_seconds(self._pid), time.process_time()
        begun = time.monotonic()
        ceased = load(record)
        seconds = time.monotonic() - begun
        own = time.process_time() - own
        server = machine.cpu_seconds(self._pid) - server

        images = _images(record, pieces=pieces)
        steady = loads.steady_rate(
            [(when, self._each) for when, _, _ in record.finished], begun + _RAMP * (ceased - begun), ceased
        )
        return {
            "requests": len(record.finished),
            "images": images,
            "seconds": seconds,
            "rate": steady or images / seconds,
            "server_cpu": server,
            "generator_cpu": own,
            "latency": loads.percentiles([latency for _, latency, _ in record.finished]),
            "late": loads.percentiles(record.late),
            "errors": dict(record.errors),
        }


async def _open(target: str, connections: int) -> list[grpc.aio.Channel]:
    channels = [grpc.aio.insecure_channel(target, options=_OPTIONS) for _ in range(connections)]
    await asyncio.wait_for(asyncio.gather(*[channel.channel_ready() for channel in channels]), _PATIENCE)
    return channels


async def _close(channels: list[grpc.aio.Channel]) -> None:
    await asyncio.gather(*[channel.close() for channel in channels])


def _unary(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """The method, bytes in, bytes out."""
    return channel.unary_unary(_CLASSIFY)


def _note(record: Record, future: Any, begun: float) -> None:
    now = time.monotonic()
    code = future.code()
    if code is grpc.StatusCode.OK:
        record.finished.append((now, now - begun, future.result()))
    else:
        record.errors[code.name] += 1


def _images(record: Record, *, pieces: bool) -> int:
    """Images that were classified; one that got an error of its own is an error here."""
    images = 0
    for _, _, answer in record.finished:
        if pieces:
            piece = pb.ClassifyStreamResponse.FromString(answer)
            record.errors.update([piece.error.reason] if piece.HasField("error") else [])
            response = piece.response
        else:
            response = pb.ClassifyResponse.FromString(answer)
        for result in response.results:
            if result.HasField("error"):
                record.errors[result.error.reason] += 1
            else:
                images += 1
    return images


def _piece_id(answer: bytes) -> str:
    """The id of a stream's answer: its first field, a byte of tag and a byte of length before it."""
    return answer[2 : 2 + answer[1]].decode()


def _varint(value: int) -> bytes:
    """A length as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _jobs() -> dict[str, Callable[..., Any]]:
    caller = Caller()
    jobs = (caller.prepare, caller.connect, caller.answer, caller.lone, caller.closed, caller.opened, caller.stream)
    return {job.__name__: job for job in jobs}


if __name__ == "__main__":
    serve(_jobs)
