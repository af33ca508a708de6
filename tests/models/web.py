"""An HTTP server on this machine that misbehaves on demand, and a checkpoint that it publishes."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from glimpse.models.prestem.recipe import Recipe
from glimpse.models.published import Checkpoint, Checksum, DownloadPolicy

BODY = bytes(range(256)) * 40  # 10,240 bytes
HALF = len(BODY) // 2
MD5 = hashlib.md5(BODY).hexdigest()  # noqa: S324 - what Keras publishes
QUICK = DownloadPolicy(timeout=0.3, attempts=3, backoff=0.0, rate=1.0)

Behaviour = Callable[["Handler"], None]


@dataclass
class Server:
    """What the server does with the requests to come, and what it was asked."""

    url: str = ""
    script: list[Behaviour] = field(default_factory=list)  # one a request; then `whole`
    requests: list[dict[str, str]] = field(default_factory=list)  # their headers
    etag: str = '"first"'
    body: bytes = BODY
    release: threading.Event = field(default_factory=threading.Event)  # ends what stalls

    def ranges(self) -> list[str | None]:
        return [headers.get("range") for headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    state: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        state = self.state
        state.requests.append({name.lower(): value for name, value in self.headers.items()} | {":path": self.path})
        self.close_connection = True
        (state.script.pop(0) if state.script else whole)(self)

    def start(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if self.state.etag:
            self.send_header("ETag", self.state.etag)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


def whole(handler: Handler) -> None:
    """A server as it should be: the rest if it is asked for the rest of this file, else all."""
    send(handler, upto=None)


def send(handler: Handler, *, upto: int | None, ranges: bool = True) -> None:
    state = handler.state
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    begin = int(asked[1]) if asked and ranges and handler.headers.get("If-Range") == state.etag else 0
    if begin >= len(state.body):
        handler.start(416, 0, Content_Range=f"bytes */{len(state.body)}")
        return
    span = f"bytes {begin}-{len(state.body) - 1}/{len(state.body)}"
    headers = {"Content_Range": span} if begin else {}
    handler.start(206 if begin else 200, len(state.body) - begin, **headers)
    handler.wfile.write(state.body[begin:upto])


def truncated(handler: Handler) -> None:
    send(handler, upto=HALF)


def reset(handler: Handler) -> None:
    send(handler, upto=HALF)
    handler.wfile.flush()
    # Closing without lingering sends RST: the other side's next read fails.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def stalled(handler: Handler) -> None:
    send(handler, upto=HALF)
    handler.wfile.flush()
    handler.state.release.wait(60)


def silent(handler: Handler) -> None:
    handler.state.release.wait(60)


def hung_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def without_ranges(handler: Handler) -> None:
    send(handler, upto=None, ranges=False)


def status(code: int, **headers: str) -> Behaviour:
    return lambda handler: handler.start(code, 0, **headers)


def answers(body: bytes, length: int | None = None, **headers: str) -> Behaviour:
    def behave(handler: Handler) -> None:
        handler.start(200, length, **headers)
        handler.wfile.write(body)

    return behave


@contextmanager
def serving() -> Iterator[Server]:
    """The server while it runs, on a port of its own."""
    state = Server()
    handler = type("Bound", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        state.url = f"http://127.0.0.1:{http_server.server_address[1]}/models/net.h5"
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.release.set()
            http_server.shutdown()
            thread.join()


def checkpoint(url: str, checksum: Checksum | None = Checksum("md5", MD5)) -> Checkpoint:  # noqa: B008 - frozen
    """A checkpoint whose file lies at `url`."""
    return Checkpoint(
        architecture="net",
        variant="keras",
        tag="imagenet",
        publisher="keras",
        upstream="Net",
        url=url,
        file="net.h5",
        checksum=checksum,
        recipe=Recipe(height=2, width=2),
        top1=1.0,
        top5=2.0,
        source="",
        licence="MIT",
    )


def leftovers(folder: Path) -> set[str]:
    """What lies in a cache folder but for the lock."""
    return {path.name for path in folder.iterdir()} - {"net.h5.lock"}
