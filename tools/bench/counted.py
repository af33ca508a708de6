"""`python -m tools.bench.counted`: the Python that one call runs on the event loop, counted in bytecodes.

A count is the same on a busy machine, where CPU time is not. Each checkout runs in a process of its own, without gRPC,
other threads and the network: a call's message goes through everything from its handler to the bytes of its reply, and
the batcher answers at once.

    python -m tools.bench.counted . ../before
    python -m tools.bench.counted . --images 32
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any

_CALLS = 20  # that are counted
_WARM = 100
_METHOD = "/glimpse.v1.ImageClassifier/Classify"
# Where a file of the server belongs, by the beginning of its path; the first that fits.
_PARTS = {
    "server/access": "call",
    "server/calls": "call",
    "server/floods": "call",
    "server/grpc/call": "call",
    "server/grpc/handlers": "call",
    "server/grpc/interceptors": "call",
    "server/grpc": "messages",
    "server/messages": "messages",
    "server/decoding": "pixels",
    "server/together": "hand over",
    "server/batching": "hand over",
    "server/fair_queue": "hand over",
    "server/answers": "answer",
    "server/metrics": "metrics",
    "server": "request",
    "models": "pixels",
}
_LIBRARIES = {
    "prometheus_client": "metrics",
    "concurrent": "hand over",
    "threading.py": "hand over",
    "structlog": "log",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.counted", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", nargs="*", default=["."], metavar="FOLDER", help="checkouts; the first is the measure"
    )
    parser.add_argument("--images", type=int, default=1, help="of the call, raw pixels of the embedded model's size")
    chosen = parser.parse_args(arguments)
    print(table({folder: counted(Path(folder).resolve(), chosen.images) for folder in chosen.folders}))
    return 0


def counted(root: Path, images: int) -> dict[str, float]:
    """Bytecodes of a call by part, and the least microseconds that the whole took, of the checkout at `root`."""
    path = os.pathsep.join(map(str, (root / "src", root / "proto", root)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GLIMPSE_")}
    environment |= {"PYTHONPATH": path, "GLIMPSE_WEIGHTS": "cifar10", "GLIMPSE_RUNTIME": "simulated"}
    command = [sys.executable, "-c", "import runpy, sys; runpy.run_path(sys.argv[1])['child'](int(sys.argv[2]))"]
    made = subprocess.run(
        [*command, __file__, str(images)], cwd=root, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """Bytecodes by part and checkout, in Markdown."""
    parts = sorted({part for counts in found.values() for part in counts} - {"us"})
    lines = [f"| checkout | all | {' | '.join(parts)} | ratio | us, the least |", "|---" * (len(parts) + 4) + "|"]
    totals = {folder: sum(counts[part] for part in counts if part != "us") for folder, counts in found.items()}
    first = next(iter(totals.values()))
    for folder, counts in found.items():
        shown = " | ".join(f"{counts.get(part, 0):.0f}" for part in parts)
        lines.append(
            f"| {folder} | {totals[folder]:.0f} | {shown} | {totals[folder] / first:.3f} | {counts['us']:.0f} |"
        )
    return "\n".join(lines)


def part(file: str) -> str:
    """What a function of this file does for a call."""
    if file == "<string>":
        return "values"  # methods that `dataclass` has made
    for library, name in _LIBRARIES.items():
        if f"{os.sep}{library}" in file:
            return name
    _, ours, path = file.rpartition(f"{os.sep}glimpse{os.sep}")
    path = path.replace(os.sep, "/")
    return next((name for begin, name in _PARTS.items() if ours and path.startswith(begin)), "other")


class _AtOnce:
    """In the batcher's place."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def submit(self, pixels: Any, *, future: Future[Any], **_: object) -> Future[Any]:
        future.set_running_or_notify_cancel()
        future.set_result(self._answer)
        return future

    def depth(self) -> int:
        return 0


class _Context:
    """In the place of gRPC's."""

    def __init__(self, message: bytes) -> None:
        self._message = message

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "grpc-python/1.80.0 grpc-c/50.0.0 (linux; chttp2)"),)

    def peer(self) -> str:
        return "ipv4:192.0.2.1:40000"

    def set_trailing_metadata(self, metadata: object) -> None:
        pass

    def details(self) -> str:
        return ""

    def time_remaining(self) -> float:
        return 100.0

    async def read(self) -> bytes:
        return self._message


class _Services:
    """In the place of gRPC's server: keeps the handlers that are added."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        pass

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


@dataclasses.dataclass
class _Details:
    method: str
    invocation_metadata: tuple[()] = ()


def child(images: int) -> None:
    """Count the checkout that is imported here, and print what `counted` returns."""
    import numpy as np

    from glimpse.server import app, logs, settings
    from glimpse.server.batching.waiting import Answer
    from glimpse.server.grpc import interceptors
    from glimpse.server.loading import loading
    from glimpse.v1 import classifier_pb2 as pb
    from glimpse.v1 import classifier_pb2_grpc

    made: list[Any] = []
    make = interceptors.CallInterceptor.__init__

    def noted(self: Any, *positional: Any, **named: Any) -> None:
        made.append(self)
        make(self, *positional, **named)

    interceptors.CallInterceptor.__init__ = noted  # type: ignore[method-assign]
    logs.configure("error", "json")
    server: Any = app.Server(configured := settings.load(["--port=0", "--metrics-port=0", "--golden=off"]))
    model = loading.load_configured(configured, server._metrics.of)
    model.batcher.close()
    probabilities = np.linspace(0.0, 0.2, 10, dtype=np.float32)
    at_once: Any = _AtOnce(Answer({"probabilities": probabilities}, 0.001, 0.002, 8, 1))
    server._registry.put(dataclasses.replace(model, batcher=at_once))
    services: Any = _Services()
    classifier_pb2_grpc.add_ImageClassifierServicer_to_server(server._ports._servicers.classifier, services)
    raw = pb.RawPixels(height=32, width=32, data=bytes(32 * 32 * 3))
    message = pb.ClassifyRequest(images=[pb.Image(raw=raw)] * images).SerializeToString()

    async def continuation(details: Any) -> Any:
        return services.handlers[details.method]

    async def call() -> bytes:
        handler = await made[0].intercept_service(continuation, _Details(_METHOD))
        reply: bytes = handler.response_serializer(await handler.stream_unary(None, _Context(message)))
        return reply

    async def run() -> dict[str, float]:
        loop, counts, times = asyncio.get_running_loop(), Counter[str](), list[float]()
        for _ in range(_WARM):
            begun = time.thread_time()
            answer = await loop.create_task(call())
            times.append(time.thread_time() - begun)
        assert len(pb.ClassifyResponse.FromString(answer).results) == images

        def trace(frame: FrameType, event: str, _: object) -> Any:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if event == "opcode":
                counts[part(frame.f_code.co_filename)] += 1
            return trace

        async def traced() -> None:
            sys.settrace(trace)
            for _ in range(_CALLS):
                await call()
            sys.settrace(None)

        await loop.create_task(traced())
        return {name: count / _CALLS for name, count in counts.items()} | {"us": 1e6 * min(times)}

    print(json.dumps(asyncio.run(run())))


if __name__ == "__main__":
    sys.exit(main())
