"""`python -m tools.bench.protocols`: what a photo costs the service by each protocol that it can be asked by.

One service answers the same photo by one protocol after the other, in turns of a fraction of a second, so that their
ratios are of the same moment of the machine. CPU time is the kernel's count for the processes of the service; callers
are threads of this process, and are not counted. By default the device is simulated and takes no core: what is left is
the way of a photo around it, on which protocols can differ. With `--model default` the default network computes.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import struct
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from glimpse.server.open_inference import open_inference_pb2
from glimpse.v1 import classifier_pb2
from tools.bench import machine, photos
from tools.bench.networks import FOLDER
from tools.bench.path import make_bundle
from tools.bench.service import Service

CLASSIFY, OPEN_INFERENCE = "Classify", "Open Inference Protocol"
_SIZE = 224
_CALLERS = 4
_TIMEOUT = 60.0
HTTP_FILE, HTTP_BINARY, HTTP_JSON = "HTTP, /classify", "HTTP, /v2, binary", "HTTP, /v2, JSON"
_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Connection:
    """A caller's connections to the service, one for each port."""

    channel: grpc.Channel
    web: http.client.HTTPConnection

    def close(self) -> None:
        """Close both."""
        self.channel.close()
        self.web.close()


Send = Callable[[Connection, int], object]  # photo of this number


def ways(kind: str, model: str) -> dict[str, Send]:
    """How to send a photo by each protocol; `kind` is that of the images, jpeg or raw."""
    raw = kind == "raw"
    files = photos.pixels(_SIZE, _SIZE) if raw else photos.jpegs()
    own, open_inference = [], []
    for data in files:
        image = classifier_pb2.Image(encoded=data)
        if raw:
            image = classifier_pb2.Image(raw=classifier_pb2.RawPixels(height=_SIZE, width=_SIZE, data=data))
        own.append(classifier_pb2.ClassifyRequest(images=[image]).SerializeToString())
        request = open_inference_pb2.ModelInferRequest(model_name=model + ".pixels" * raw)
        if raw:
            request.inputs.add(name="pixels", datatype="UINT8", shape=(1, _SIZE, _SIZE, 3))
            request.raw_input_contents.append(data)
        else:
            request.inputs.add(name="image", datatype="BYTES", shape=(1, 1))
            request.raw_input_contents.append(struct.pack("<I", len(data)) + data)
        open_inference.append(request.SerializeToString())
    return {
        CLASSIFY: _sender("/glimpse.v1.ImageClassifier/Classify", own),
        OPEN_INFERENCE: _sender("/inference.GRPCInferenceService/ModelInfer", open_inference),
        **({} if raw else {HTTP_FILE: _poster("/classify", [(data, {}) for data in files])}),
        HTTP_BINARY: _poster(f"/v2/models/{model}{'.pixels' * raw}/infer", [_binary(data, raw=raw) for data in files]),
        HTTP_JSON: _poster(f"/v2/models/{model}{'.pixels' * raw}/infer", [_json(data, raw=raw) for data in files]),
    }


def _tensor(*, raw: bool) -> dict[str, Any]:
    if raw:
        return {"name": "pixels", "datatype": "UINT8", "shape": [1, _SIZE, _SIZE, 3]}
    return {"name": "image", "datatype": "BYTES", "shape": [1, 1]}


def _binary(data: bytes, *, raw: bool) -> tuple[bytes, dict[str, str]]:
    """A request with its tensor behind the JSON, and its headers; the answer is wanted in the same form."""
    content = data if raw else struct.pack("<I", len(data)) + data
    tensor = {**_tensor(raw=raw), "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + content, {_HEADER: str(len(head))}


def _json(data: bytes, *, raw: bool) -> tuple[bytes, dict[str, str]]:
    """A request in JSON alone: a photo in base64, pixels as numbers."""
    values: list[Any] = list(data) if raw else [base64.b64encode(data).decode()]
    return json.dumps({"inputs": [{**_tensor(raw=raw), "data": values}]}).encode(), {}


def _poster(path: str, requests: Sequence[tuple[bytes, dict[str, str]]]) -> Send:
    """Sends bodies as they are."""

    def send(connection: Connection, number: int) -> object:
        body, headers = requests[number % len(requests)]
        connection.web.request("POST", path, body, headers)
        answer = connection.web.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content

    return send


def _sender(method: str, requests: Sequence[bytes]) -> Send:
    """Calls a method with messages as they are, so that callers cost the same."""

    def send(connection: Connection, number: int) -> object:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = connection.channel.unary_unary(method)
        return call(requests[number % len(requests)], timeout=_TIMEOUT)

    return send


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.protocols",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=["simulated", "default"], default="simulated")
    parser.add_argument("--kinds", nargs="+", choices=["jpeg", "raw"], default=["jpeg", "raw"], help="of images")
    parser.add_argument("--calls", type=int, default=200, help="photos of one turn")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each protocol")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what was measured here")
    chosen = parser.parse_args(arguments)
    result = measure(chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return 0


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of a photo, for each kind of images and each protocol, round by round."""
    environment = {"GLIMPSE_WORKERS": str(chosen.workers), "GLIMPSE_HTTP_PORT": "0"}
    if chosen.model == "simulated":
        environment |= {"GLIMPSE_RUNTIME": "simulated", "GLIMPSE_WEIGHTS": str(make_bundle(FOLDER / "simulated"))}
    found: dict[str, dict[str, list[float]]] = {}
    with Service(environment) as service, ThreadPoolExecutor(_CALLERS) as callers:
        # Whoever calls a worker is served by it alone: a connection for each, as by chance.
        options = [("grpc.use_local_subchannel_pool", 1)]
        connections = [
            Connection(
                grpc.insecure_channel(service.target, options),
                http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=_TIMEOUT),
            )
            for _ in range(_CALLERS)
        ]
        for kind in chosen.kinds:
            sides = ways(kind, service.loaded["model"])
            found[kind] = {name: [] for name in sides}
            for turn in range(chosen.rounds + 1):
                order = list(sides) if turn % 2 else list(reversed(sides))
                for name in order:
                    seconds = _turn(service, callers, connections, sides[name], chosen.calls)
                    if turn:  # the first is only to warm up
                        found[kind][name].append(seconds)
        for connection in connections:
            connection.close()
    return {"machine": machine.description(), "date": time.strftime("%Y-%m-%d"), "cpu": found, "model": chosen.model}


def _turn(
    service: Service, callers: ThreadPoolExecutor, connections: Sequence[Connection], send: Send, calls: int
) -> float:
    """CPU seconds of the service for each of so many photos."""

    def call(connection: Connection) -> None:
        for number in range(calls // len(connections)):
            send(connection, number)

    before = _spent(service)
    for done in [callers.submit(call, connection) for connection in connections]:
        done.result()
    return (_spent(service) - before) / (calls // len(connections) * len(connections))


def _spent(service: Service) -> float:
    """CPU seconds of all threads of the service, as the scheduler counts them, in nanoseconds."""
    total = 0
    for pid in machine.tree(service.pid):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
            except OSError:  # it has ended meanwhile
                continue
    return total / 1e9


def table(result: dict[str, Any]) -> str:
    """What was measured, in Markdown: medians; ratios are of the same round."""
    lines = [f"- {name}: {value}" for name, value in result["machine"].items()]
    lines += [f"- network: {result['model']}", ""]
    lines += ["| images | protocol | CPU us/image | against Classify | quartiles |", "|---|---|---:|---:|---:|"]
    for kind, sides in result["cpu"].items():
        for name, seconds in sides.items():
            ratios = np.divide(seconds, sides[CLASSIFY])
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            told = "1" if name == CLASSIFY else f"{middle:.3f}"
            spread = "" if name == CLASSIFY else f"{low:.3f} to {high:.3f}"
            lines.append(f"| {kind} | {name} | {1e6 * np.median(seconds):.0f} | {told} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
