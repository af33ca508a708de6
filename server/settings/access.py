"""Settings of access control and connections: who may call, how, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, IPvAnyNetwork, model_validator
from pydantic_settings import BaseSettings, NoDecode

from glimpse.server.settings.kinds import MIB, Port, Positive, PositiveSeconds, Seconds, split


class AccessSettings(BaseSettings):
    """Part of `server.settings.Settings`."""

    tls_certificate: Path | None = Field(None, description="PEM chain of the server; with it, calls must use TLS.")
    tls_key: Path | None = Field(None, description="PEM key of that certificate.")
    tls_client_ca: Path | None = Field(None, description="PEM authorities; callers must show a certificate of one.")
    tokens: Path | None = Field(
        None, description="TOML file of callers' hashed tokens; see python -m glimpse.server.access.tokens."
    )
    reload_seconds: PositiveSeconds = Field(5.0, description="How often certificates and tokens are looked at anew.")
    rate_limit: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Images a second of one caller; 0: no limit. Tokens may say other."
    )
    rate_burst: Positive = Field(64, description="Images that a caller may send at once on top of the limit.")
    audit_log: Path | None = Field(None, description="File to which each call is written, without its images.")
    health_port: Port | None = Field(
        None, description="Port of a second, plain gRPC door that answers health checks alone, for probes without TLS."
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Proxies whose x-forwarded-for header names the caller: addresses or networks, with commas "
        "between. Empty: the header is ignored.",
    )
    serve_health: bool = Field(default=True, description="Answer grpc.health.v1 on the main port.")
    serve_reflection: bool = Field(default=True, description="Answer gRPC reflection.")
    serve_metrics: bool = Field(default=True, description="Answer /metrics on the metrics port.")
    max_connections: Positive = Field(1000, description="Connections at once; more are closed as they come.")
    max_connections_per_address: int = Field(
        0,
        ge=0,
        description="Connections of one address at once, an IPv6 /64 counting as one; more are closed as they come. "
        "0: three quarters of max_connections.",
    )
    flood_guard: bool = Field(
        default=True,
        description="While the server is overloaded, close connections that flood it with useless calls, and accept no "
        "new ones from their address for 2 to 60 seconds. Linux only.",
    )
    max_calls_per_connection: Positive = Field(1000, description="Calls at once on one connection; more wait there.")
    max_metadata_bytes: Positive = Field(16 * 1024, description="Headers of one call.")
    max_uploads: Positive = Field(
        64, description="Messages that are received at once; others wait for their turn, but for a caller's first few."
    )
    max_message_bytes: Positive = Field(16 * MIB, description="Bytes of one gRPC message.")
    max_receiving_bytes: Positive = Field(
        256 * MIB,
        description="Bytes that all messages being received may hold; above, callers wait before their next message, "
        "and the largest messages are refused with QUEUE_FULL.",
    )
    upload_seconds: PositiveSeconds = Field(
        30.0, description="Seconds that one message may take to arrive; in a stream, from its first bytes on."
    )
    handshake_seconds: PositiveSeconds = Field(10.0, description="That a new connection may take to speak HTTP/2.")
    keepalive_seconds: PositiveSeconds = Field(120.0, description="Ping a silent connection after so long.")
    keepalive_timeout_seconds: PositiveSeconds = Field(20.0, description="Close it when no answer comes within.")
    min_ping_seconds: PositiveSeconds = Field(
        30.0, description="Clients that ping more often without calls in flight are sent away."
    )
    max_connection_idle_seconds: Seconds = Field(0.0, description="Close a connection without calls; 0: never.")
    max_connection_age_seconds: Seconds = Field(
        0.0, description="Ask clients to connect anew after so long, so that load spreads again; 0: never."
    )

    @property
    def connections_per_address(self) -> int:
        """Connections that one address may hold."""
        return self.max_connections_per_address or max(1, self.max_connections * 3 // 4)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key come together. Received one without the other.")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key: only TLS shows a caller's certificate.")
        if self.max_message_bytes > self.max_receiving_bytes:
            raise ValueError(
                "max_receiving_bytes must be at least max_message_bytes, so that any message can be received. "
                f"Received: {self.max_receiving_bytes} and {self.max_message_bytes}"
            )
        return self
