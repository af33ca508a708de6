"""Asks an HTTP port as a client does that does only what it is told."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.server.conftest import TIMEOUT
from tests.server.rig import SIZE, Rig

MODEL = "se_resnet20_cifar10"
V1, V2 = f"/v1/models/{MODEL}:predict", f"/v2/models/{MODEL}/infer"
V2_PIXELS = f"/v2/models/{MODEL}.pixels/infer"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]  # by name, in small letters
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """Why it was refused."""
        return str(self.json["reason"])


def port_of(rig: Rig) -> int:
    """The HTTP port of a server in the test's own process."""
    http_port = rig.server._ports.http
    assert http_port is not None
    return int(http_port._sockets[0].getsockname()[1])


def ask(
    port: int,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    verb: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own: GET, or POST where there is a body."""
    made = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        if tls is None
        else http.client.HTTPSConnection("localhost", port, timeout=TIMEOUT, context=tls)
    )
    with contextlib.closing(made) as connection:
        return asked(connection, path, body, headers, verb=verb)


def asked(
    connection: http.client.HTTPConnection,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    verb: str | None = None,
) -> Answer:
    """One request on a connection that may carry others, too."""
    connection.request(verb or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
    with connection.getresponse() as response:
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def post(port: int, path: str, content: object, headers: Mapping[str, str] | None = None) -> Answer:
    """Send JSON."""
    return ask(port, path, json.dumps(content).encode(), headers)


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A bare connection."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as made:
        yield made


def until_closed(connection: socket.socket) -> bytes:
    """What comes until the other end closes the connection."""
    came = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            came += piece
    return bytes(came)


def picture(seed: int = 0, size: tuple[int, int] = (40, 48)) -> bytes:
    """A small PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    """As JSON has it."""
    return base64.b64encode(data).decode()


def instances(*files: bytes, **more: object) -> dict[str, object]:
    """A request of version 1."""
    return {"instances": [{"b64": base64_of(each)} for each in files], **more}


def inference(*files: bytes, **more: object) -> dict[str, object]:
    """A request of version 2, in JSON."""
    data = [base64_of(each) for each in files]
    return {"inputs": [{"name": "image", "shape": [len(files)], "datatype": "BYTES", "data": data}], **more}


def binary(*files: bytes, **more: object) -> tuple[bytes, dict[str, str]]:
    """A request of version 2 with binary tensors: body and headers."""
    raw = b"".join(len(each).to_bytes(4, "little") + each for each in files)
    tensor = {
        "name": "image",
        "shape": [len(files), 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def pixels(number: int = 1) -> dict[str, object]:
    """An input of pixels, all grey, in JSON."""
    row = [[128] * 3] * SIZE
    return {"name": "pixels", "shape": [number, SIZE, SIZE, 3], "datatype": "UINT8", "data": [[row] * SIZE] * number}


def form(*fields: tuple[str, bytes, str], boundary: str = "xyz") -> tuple[bytes, dict[str, str]]:
    """A form of (name, content, file name or ""): body and headers."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        + (f'; filename="{file}"\r\nContent-Type: image/png'.encode() if file else b"")
        + b"\r\n\r\n"
        + content
        + b"\r\n"
        for name, content, file in fields
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
