"""A receiver of traces, as a collector is one: OTLP over gRPC or over HTTP, on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """What has come."""

    def __init__(self) -> None:
        self.endpoint = ""  # for OTEL_EXPORTER_OTLP_ENDPOINT
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.go_on = threading.Event()  # cleared: answers nobody
        self.go_on.set()

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep what a batch of spans says."""
        self.go_on.wait()
        for each in request.resource_spans:
            self.resources.append({pair.key: pair.value.string_value for pair in each.resource.attributes})
            self.spans += [span for scope in each.scope_spans for span in scope.spans]


@contextmanager
def over_grpc() -> Iterator[Receiver]:
    """A receiver at which OTEL_EXPORTER_OTLP_PROTOCOL=grpc arrives."""
    receiver = Receiver()

    class Service(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802 - the contract's name
            receiver.take(request)
            return ExportTraceServiceResponse()

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]  # generated
        receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield receiver
        finally:
            receiver.go_on.set()
            server.stop(0).wait()


@contextmanager
def over_http() -> Iterator[Receiver]:
    """A receiver at which OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf arrives."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") is None and self.path == "/v1/traces":
                receiver.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
            else:
                self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        receiver.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
