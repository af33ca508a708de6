"""The metrics of calls, by method: those that gRPC's own interceptors for Prometheus have in other languages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from glimpse.server.metrics.loop import Count, LoopCounter, LoopHistogram, Times

_METHOD = ("grpc_type", "grpc_service", "grpc_method")


class RpcMetrics:
    """The instruments of one method, each looked up once: finding a label's costs more than counting with it."""

    def __init__(self, started: Count, seconds: Times, handled: Callable[[str], Count]) -> None:
        """Take the method's own; `handled` is by status code."""
        self._started, self._seconds, self._handled = started, seconds, handled

    def began(self) -> None:
        """A call has begun."""
        self._started.inc()

    def ended(self, code: str, seconds: float, exemplar: dict[str, str] | None = None) -> None:
        """It has ended with that status code; the exemplar names its trace."""
        self._handled(code).inc()
        self._seconds.observe(seconds, exemplar)


class Rpcs:
    """The instruments of all methods."""

    def __init__(self, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        """Make them; `buckets`: of the times, in seconds. A method has series from its first call on."""
        self._started = LoopCounter(
            "grpc_server_started", "RPCs started on the server.", _METHOD, registry, at_zero=False
        )
        self._handled = LoopCounter(
            "grpc_server_handled",
            "RPCs completed on the server, by status code.",
            (*_METHOD, "grpc_code"),
            registry,
        )
        self._seconds = LoopHistogram(
            "grpc_server_handling_seconds",
            "Time from the start of an RPC to its end, in seconds.",
            _METHOD,
            buckets,
            registry,
            at_zero=False,
        )

    def of(self, kind: str, service: str, method: str) -> RpcMetrics:
        """The instruments of a method."""
        labels = kind, service, method

        @functools.cache
        def handled(code: str) -> Count:
            return self._handled.labels(*labels, code)

        return RpcMetrics(self._started.labels(*labels), self._seconds.labels(*labels), handled)
