"""/metrics over HTTP, with bounds: who scrapes slowly, or only connects, takes no threads without end."""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import threading
import time
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from glimpse.server.sockets.addresses import counted_address
from glimpse.server.sockets.port_reservation import in_use, port_taken

_log = structlog.get_logger(__name__)

_AT_ONCE = 16  # connections; more are closed as they come
_SHARE = 8  # of them for one address, so that another one comes in
_POLL = 0.1  # seconds between two looks whether to end; a server that is to stop waits for one
_PAUSE = 1.0  # seconds until it is begun again where it failed
_SECONDS = 10.0  # that one may last, from its beginning to the last byte of the answer


class _Handler(WSGIRequestHandler):
    def handle(self) -> None:
        # Those who leave in the middle are no news, and a traceback on stderr is no log line.
        with contextlib.suppress(TimeoutError, ConnectionError, ValueError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Not a line for every scrape."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = _AT_ONCE

    def __init__(self, host: str, port: int) -> None:
        (self.address_family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        self._lock = threading.Lock()
        # Of each connection: when it is to be over, on the monotonic clock, and whom it counts for.
        self._open: dict[Any, tuple[float, str]] = {}
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without a question to the resolver for the machine's name, which may take seconds to be answered."""
        socketserver.TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        address = counted_address(client_address[0])
        with self._lock:
            held = [each for _, each in self._open.values()]
            if len(held) >= _AT_ONCE or held.count(address) >= _SHARE:
                return False
            self._open[request] = time.monotonic() + _SECONDS, address
        return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Every now and then: end what has lasted too long, whatever it waits for."""
        now = time.monotonic()
        with self._lock:
            for request in [request for request, (end, _) in self._open.items() if end <= now]:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is the scraper's business."""


class Exposition:
    """Answers scrapes from a thread of its own."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._server = _Server(host, port)
        self._server.set_app(make_wsgi_app(registry))
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                self._server.serve_forever(poll_interval=_POLL)
            except Exception:  # noqa: BLE001 - whatever it is, it is to be seen
                _log.exception("a background task failed", task="metrics", again_in_seconds=_PAUSE)
                time.sleep(_PAUSE)
            else:
                return

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def exposed(host: str, port: int, registry: CollectorRegistry) -> Exposition:
    """Answer scrapes there.

    Raises:
        PortTakenError: expected; the message says what to do.
    """
    try:
        return Exposition(host, port, registry)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise in_use(host, port, "GLIMPSE_METRICS_PORT") from error
        raise port_taken(host, port, str(error.strerror or error), "GLIMPSE_METRICS_PORT") from error
