"""`python -m tools.bench.protocols`: what the same photo costs over gRPC and over HTTP, in JSON and in binary.

One server answers one caller who sends a photo again and again, over each protocol in turn, so that their ratios are of
the same minutes of the machine. CPU time is the kernel's count for the server's process; the caller's is not in it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import grpc

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tools.bench import machine
from tools.bench.service import Service
from tools.bench.worker import ROOT

PHOTO = ROOT / "docs" / "chelsea.jpg"
FIRST = "gRPC, Classify"  # what the others are compared with
Send = Callable[[], object]


class Web:
    """One connection to the HTTP port."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def sender(self, path: str, body: bytes, headers: Mapping[str, str]) -> Send:
        """Sends a request and reads its answer."""

        def send() -> None:
            self._connection.request("POST", path, body, dict(headers))
            answer = self._connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content

        return send

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def senders(stub: ImageClassifierStub, web: Web, model: str, photo: bytes) -> dict[str, Send]:
    """What sends the photo over each protocol."""
    request = pb.ClassifyRequest(images=[pb.Image(encoded=photo)])
    text = base64.b64encode(photo).decode()
    raw = len(photo).to_bytes(4, "little") + photo
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    best = [{"name": "probabilities", "parameters": {"classification": 5}}]
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}], "outputs": best}).encode()
    infer = f"/v2/models/{model}/infer"
    return {
        FIRST: lambda: stub.Classify(request, timeout=60),
        "HTTP, /classify": web.sender("/classify", photo, {}),
        "HTTP, /v2, binary": web.sender(infer, head + raw, {"Inference-Header-Content-Length": str(len(head))}),
        "HTTP, /v1, base64": web.sender(
            f"/v1/models/{model}:predict", json.dumps({"instances": [{"b64": text}]}).encode(), {}
        ),
        "HTTP, /v2, base64": web.sender(
            infer, json.dumps({"inputs": [{**tensor, "data": [text]}], "outputs": best}).encode(), {}
        ),
    }


def measured(pid: int, send: Send, seconds: float) -> tuple[float, float]:
    """CPU seconds of the server, and seconds of the clock, for each photo of so many seconds."""
    images, begun, used = 0, time.monotonic(), machine.cpu_seconds(pid)
    while time.monotonic() - begun < seconds:
        send()
        images += 1
    return (machine.cpu_seconds(pid) - used) / images, (time.monotonic() - begun) / images


def run(
    photo: bytes, *, turns: int, seconds: float, environment: Mapping[str, str]
) -> dict[str, list[tuple[float, float]]]:
    """What was measured in each turn, by protocol."""
    found: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        service = stack.enter_context(Service({"GLIMPSE_HTTP_PORT": "0", **environment}))
        channel = stack.enter_context(grpc.insecure_channel(service.target))
        stub = ImageClassifierStub(channel)
        web = Web(service.http_port)
        stack.callback(web.close)
        model = stub.DescribeModel(pb.DescribeModelRequest(), timeout=60).model.name
        ways = senders(stub, web, model, photo)
        for send in ways.values():
            measured(service.pid, send, min(1.0, seconds))
        for turn in range(turns):
            order = list(ways) if turn % 2 == 0 else list(reversed(ways))
            for name in order:
                found.setdefault(name, []).append(measured(service.pid, ways[name], seconds))
    return found


def table(found: Mapping[str, list[tuple[float, float]]]) -> str:
    """The medians, as a table of Markdown; the ratio is the median of those within each turn."""
    lines = ["| protocol | CPU us a photo | latency ms | CPU, ratio within a turn |", "|---|---:|---:|---:|"]
    for name, turns in found.items():
        used = statistics.median(cpu for cpu, _ in turns)
        waited = statistics.median(clock for _, clock in turns)
        ratio = statistics.median(cpu / first for (cpu, _), (first, _) in zip(turns, found[FIRST], strict=True))
        lines.append(f"| {name} | {used * 1e6:.0f} | {waited * 1e3:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.protocols", description=__doc__)
    parser.add_argument("--photo", type=Path, default=PHOTO, help="the photo that is sent")
    parser.add_argument("--turns", type=int, default=8, help="turns of each protocol")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--weights", default="cifar10", help="the model, as GLIMPSE_WEIGHTS names it")
    chosen = parser.parse_args()
    photo = chosen.photo.read_bytes()
    found = run(photo, turns=chosen.turns, seconds=chosen.seconds, environment={"GLIMPSE_WEIGHTS": chosen.weights})
    print(f"{chosen.photo.name}, {len(photo)} bytes; {machine.description()['CPU']}\n\n{table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
