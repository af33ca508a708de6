"""The load of an overload: a worker of its own (`python -m tools.load.pressure`), whose CPU time can be told apart.

The benchmark's caller makes the requests and keeps the connections; here they may be refused, and count by reason.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import grpc
from PIL import Image

from glimpse.client import Client, GlimpseError
from glimpse.client.status import from_rpc_error
from glimpse.v1 import classifier_pb2 as pb
from tools.bench import driving, loads
from tools.bench.caller import Caller, _unary
from tools.bench.worker import serve

_RAMP = 0.3  # share of the time at its beginning that does not count for the rate: until all queues are as full as ever
_PATIENCE = 120.0  # seconds; an answer that takes longer is an error


class Record:
    """What came of one load. Written from many threads: appending to a list is atomic."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.answers: list[tuple[float, float, bytes]] = []  # when, latency, answer
        self.failed: list[Any] = []  # calls or errors, read after the clock has stopped
        self.late: list[float] = []  # how long after it was due a request went out

    def note(self, call: Any, begun: float) -> None:
        """A call has ended."""
        now = time.monotonic()
        if call.code() is grpc.StatusCode.OK:
            self.answers.append((now, now - begun, call.result()))
        else:
            self.failed.append(call)


class Pressure(Caller):
    """Requests at hand, and a service to send more of them to than it can answer."""

    def press(self, callers: int, seconds: float, low: float = 0.0, high: float = 0.0, seed: int = 0) -> dict[str, Any]:
        """`callers` of whom each sends its next request as soon as the last has ended, refused or not.

        Between `low` and `high` seconds each request has for a deadline; 0: none that matters.
        """
        calls = [_unary(channel) for channel in self._channels]
        requests = cycle(self._requests)
        generator = random.Random(seed)

        def load(record: Record) -> float:
            def send(caller: int, ended: Callable[[], None]) -> None:
                def done(call: Any) -> None:
                    record.note(call, begun)
                    ended()

                timeout = generator.uniform(low, high) if high else _PATIENCE
                begun = time.monotonic()
                calls[caller % len(calls)].future(next(requests), timeout=timeout).add_done_callback(done)

            return driving.closed_loop(send, callers, seconds)

        return self._made(load)

    def pour(self, rate: float, seconds: float, seed: int) -> dict[str, Any]:
        """Independent callers, `rate` requests a second on average, who do not come back when they are refused."""
        calls = cycle([_unary(channel) for channel in self._channels])
        requests = cycle(self._requests)
        due = loads.poisson(rate, seconds, seed)

        def load(record: Record) -> float:
            def send(planned: float, ended: Callable[[], None]) -> None:
                def done(call: Any) -> None:
                    record.note(call, begun)
                    ended()

                begun = time.monotonic()
                record.late.append(begun - planned)
                next(calls).future(next(requests), timeout=_PATIENCE).add_done_callback(done)

            _, ceased = driving.open_loop(send, due)
            return ceased

        return self._made(load)

    def insist(self, target: str, callers: int, seconds: float) -> dict[str, Any]:
        """`callers` with the shipped client, an image each, who come back when the service says."""
        images = [pb.ClassifyRequest.FromString(request).images[0] for request in self._requests]
        # What the client takes; pixels become files here, once.
        files = [image.encoded or _bitmap(image.raw) for image in images]
        record = Record()

        def work(client: Client, number: int) -> None:
            for file in islice(cycle(files), number, None):
                begun = time.monotonic()
                if begun >= end:
                    return
                try:
                    client.classify(file, timeout=_PATIENCE)
                except GlimpseError as error:
                    record.failed.append(error)
                else:
                    now = time.monotonic()
                    record.answers.append((now, now - begun, b""))

        with Client(target) as client:
            client.describe()
            own, start = time.process_time(), time.monotonic()
            end = start + seconds
            threads = [threading.Thread(target=work, args=(client, number)) for number in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took, own = time.monotonic() - start, time.process_time() - own
        refused = Counter(error.reason or error.code.name for error in record.failed)
        return _figures(record, 1, (start, end, took), own, refused)

    def _made(self, load: Callable[[Record], float]) -> dict[str, Any]:
        """Run a load from idle to idle; it returns when it ceased to send."""
        record = Record()
        own, start = time.process_time(), time.monotonic()
        ceased = load(record)
        took, own = time.monotonic() - start, time.process_time() - own
        refused = Counter(_reason(call) for call in record.failed)
        for _, _, answer in record.answers:
            for result in pb.ClassifyResponse.FromString(answer).results:
                refused.update([result.error.reason] if result.HasField("error") else [])
        return _figures(record, self._each, (start, ceased, took), own, refused)


def _figures(
    record: Record, each: int, times: tuple[float, float, float], own: float, refused: Counter[str]
) -> dict[str, Any]:
    """A load's figures; `times`: when it began and ceased to send, and how long it took to its last answer."""
    start, ceased, took = times
    images = len(record.answers) * each
    rate = loads.steady_rate([(when, each) for when, _, _ in record.answers], start + _RAMP * (ceased - start), ceased)
    return {
        "requests": len(record.answers) + len(record.failed)
        if record.failed
        else len(record.answers) + refused.total(),
        "answered": len(record.answers),
        "images": images,
        "seconds": took,
        "sending": ceased - start,
        "rate": rate or images / took,
        "generator_cpu": own,
        "latency": loads.percentiles([latency for _, latency, _ in record.answers]),
        "late": loads.percentiles(record.late),
        "refused": dict(refused),
    }


def _reason(call: Any) -> str:
    """Why a call ended without an answer: the service's reason, or gRPC's code."""
    cause = from_rpc_error(call, "")
    return cause.reason or cause.code.name


def _bitmap(raw: pb.RawPixels) -> bytes:
    """Pixels as a PNG file."""
    file = io.BytesIO()
    Image.frombytes("RGB", (raw.width, raw.height), raw.data).save(file, "PNG")
    return file.getvalue()


def _jobs() -> dict[str, Callable[..., Any]]:
    caller = Pressure()
    return {job.__name__: job for job in (caller.prepare, caller.connect, caller.press, caller.pour, caller.insist)}


if __name__ == "__main__":
    serve(_jobs)
