"""The load on a peer: a closed loop of callers, in a process and an environment of its own.

`python caller.py PROTOCOL PORT PATH PHOTOS EXPECTED CALLERS WARM SECONDS` prints one JSON object. Requests are made
before the clock starts, so that the generator, which shares the cores with what it measures, does as little as it can.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

Call = Callable[[bytes], Awaitable[bytes]]
_PATIENCE = 60.0  # seconds for one call
_STUBS = Path(__file__).parents[3] / "src"
_START = 240.0  # for a peer to answer at all; Ray starts half a dozen processes first
_BOUNDARY = "photo-boundary"  # of a form; no JPEG holds it
_CLOSE = 0.01  # largest difference of a probability between a peer's answer and TensorFlow's


@asynccontextmanager
async def http(port: int, path: str, content: str = "application/octet-stream") -> AsyncIterator[Call]:
    """Bodies of that content type as HTTP requests, on connections that stay open."""
    import aiohttp

    url = f"http://127.0.0.1:{port}{path}"
    headers = {"Content-Type": content}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_PATIENCE), headers=headers
    ) as session:

        async def call(request: bytes) -> bytes:
            async with session.post(url, data=request) as answer:
                body: bytes = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"HTTP {answer.status}: {body[:200]!r}")
                return body

        yield call


@asynccontextmanager
async def _grpc(port: int, method: str) -> AsyncIterator[Call]:
    """A unary method of gRPC; requests are serialised before."""
    import grpc.aio

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = channel.unary_unary(method)

        async def call(request: bytes) -> bytes:
            answer: bytes = await ask(request, timeout=_PATIENCE)
            return answer

        yield call


def v2_grpc(port: int, _path: str) -> AbstractAsyncContextManager[Call]:
    """The Open Inference Protocol."""
    return _grpc(port, "/inference.GRPCInferenceService/ModelInfer")


def glimpse(port: int, _path: str) -> AbstractAsyncContextManager[Call]:
    """The service's own protocol."""
    sys.path.append(str(_STUBS))
    return _grpc(port, "/glimpse.v1.ImageClassifier/Classify")


def _form(port: int, path: str) -> AbstractAsyncContextManager[Call]:
    return http(port, path, f"multipart/form-data; boundary={_BOUNDARY}")


def _form_request(photo: bytes) -> bytes:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + photo + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _v2_request(photo: bytes) -> bytes:
    from tritonclient.grpc import service_pb2

    # A batch of one; its element is written with its length in front, four bytes, the lowest first.
    request = service_pb2.ModelInferRequest(model_name="photos")
    request.inputs.add(name="photo", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(photo).to_bytes(4, "little") + photo)
    message: bytes = request.SerializeToString()
    return message


def _v2_answer(message: bytes) -> bytes:
    from tritonclient.grpc import service_pb2

    answer = service_pb2.ModelInferResponse.FromString(message)
    if answer.raw_output_contents:
        return bytes(answer.raw_output_contents[0][4:])
    return bytes(answer.outputs[0].contents.bytes_contents[0])


def _glimpse_request(photo: bytes) -> bytes:
    from glimpse.v1 import classifier_pb2 as pb

    return pb.ClassifyRequest(images=[pb.Image(encoded=photo)]).SerializeToString()


def _glimpse_answer(message: bytes) -> bytes:
    from glimpse.v1 import classifier_pb2 as pb

    (result,) = pb.ClassifyResponse.FromString(message).results
    best = [(each.index, each.probability) for each in result.predictions]
    classes, probabilities = zip(*best, strict=True)
    return json.dumps({"classes": classes, "probabilities": probabilities}).encode()


def _as_it_is(data: bytes) -> bytes:
    return data


# Protocol -> how it is spoken, a request from a photo, an answer's JSON from a reply.
PROTOCOLS: dict[str, tuple[Any, Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "http": (http, _as_it_is, _as_it_is),
    "http-form": (_form, _form_request, _as_it_is),
    "v2-grpc": (v2_grpc, _v2_request, _v2_answer),
    "glimpse": (glimpse, _glimpse_request, _glimpse_answer),
}


class Load:
    """The callers and what they have seen."""

    def __init__(self, call: Call, requests: list[bytes]) -> None:
        """Callers take the requests in turn."""
        self._call = call
        self._requests = requests
        self._next = 0
        self.latencies: list[float] = []
        self.errors: list[str] = []

    async def run(self, callers: int, seconds: float) -> float:
        """Call for so long, each caller as soon as it has its answer; returns the seconds until the last answer."""
        begun = time.perf_counter()
        await asyncio.gather(*(self._caller(begun + seconds) for _ in range(callers)))
        return time.perf_counter() - begun

    async def _caller(self, end: float) -> None:
        while (before := time.perf_counter()) < end:
            request = self._requests[self._next % len(self._requests)]
            self._next += 1
            try:
                await self._call(request)
            except Exception as error:  # noqa: BLE001 - counted and told, whatever it is
                self.errors.append(f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(0.1)
            else:
                self.latencies.append(time.perf_counter() - before)


async def ready(call: Call, request: bytes) -> None:
    """Ask until there is an answer.

    Raises:
        Exception: expected; what the last call failed with.
    """
    end = time.monotonic() + _START
    while True:
        try:
            await call(request)
        except Exception:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.5)
        else:
            return


async def check(
    call: Call, requests: dict[str, bytes], read: Callable[[bytes], bytes], expected: dict[str, tuple[int, float]]
) -> int:
    """Ask for every photo once; how many answers differ from TensorFlow's."""
    wrong = 0
    for name, request in requests.items():
        answer = json.loads(read(await call(request)))
        if isinstance(answer, list):  # as many answers as the request had photos
            (answer,) = answer
        best, probability = expected[name]
        wrong += answer["classes"][0] != best or not math.isclose(
            answer["probabilities"][0], probability, abs_tol=_CLOSE
        )
    return wrong


def prepare(
    photos: Path, answers: Path, make: Callable[[bytes], bytes]
) -> tuple[dict[str, bytes], dict[str, tuple[int, float]]]:
    """By the photo's name: its request, and the best class with its probability."""
    requests = {file.name: make(file.read_bytes()) for file in sorted(photos.glob("*.jpg"))}
    return requests, json.loads(answers.read_text())


def percentile(ordered: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of all do not exceed; None where there is none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def cpu_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main(arguments: list[str]) -> None:
    """Check, warm, measure, print. The line ``measuring`` on standard error says when the clock starts.

    With ``turns`` behind the other arguments it is measured again for each line of standard input, and not before.
    """
    protocol, port, path, photos, answers, callers, warm, seconds, *turns = arguments
    connect, make, read = PROTOCOLS[protocol]
    connection = connect(int(port), path)
    requests, expected = prepare(Path(photos), Path(answers), make)
    async with connection as call:
        await ready(call, next(iter(requests.values())))
        wrong = await check(call, requests, read, expected)
        await Load(call, list(requests.values())).run(int(callers), float(warm))
        print("measuring", file=sys.stderr, flush=True)
        while not turns or await asyncio.to_thread(_is_told_to):
            load = Load(call, list(requests.values()))
            before = cpu_seconds()
            took = await load.run(int(callers), float(seconds))
            print(json.dumps(_told(load, took, cpu_seconds() - before, wrong)), flush=True)
            if not turns:
                return


def _is_told_to() -> bool:
    """Wait for a line of standard input; false at its end."""
    return bool(sys.stdin.readline())


def _told(load: Load, took: float, used: float, wrong: int) -> dict[str, Any]:
    """What is printed of a measurement of so many seconds, which used so many CPU seconds of ours."""
    ordered = sorted(round(1000 * latency, 1) for latency in load.latencies)
    return {
        "images": len(ordered),
        "seconds": round(took, 3),
        "images_per_second": round(len(ordered) / took, 2),
        "p50_ms": percentile(ordered, 0.50),
        "p95_ms": percentile(ordered, 0.95),
        "p99_ms": percentile(ordered, 0.99),
        "errors": len(load.errors),
        "first_error": load.errors[0] if load.errors else "",
        "wrong_answers": wrong,
        "generator_cpu_seconds": round(used, 2),
    }


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1:]))
