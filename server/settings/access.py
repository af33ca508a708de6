"""Settings of access control and of connections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, model_validator
from pydantic_settings import BaseSettings, NoDecode

from glimpse.server.settings.kinds import MIB, Positive, PositiveSeconds, Seconds, split

# As a browser writes it (RFC 6454, section 6.1): any other spelling would never match, without a word.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[^/\s?#@:\[\]A-Z*]+)(?::\d{1,5})?")
_USUAL_PORTS = (("http://", ":80"), ("https://", ":443"))


def _origin(value: str) -> str:
    """An origin of pages.

    Raises:
        ValueError: it is none.
    """
    usual = any(value.startswith(scheme) and value.endswith(port) for scheme, port in _USUAL_PORTS)
    if value == "*" or (_ORIGIN.fullmatch(value) and not usual):
        return value
    raise ValueError(
        "must be * or a scheme and a host in small letters, with a port where it is not the usual one, and nothing "
        f"behind it, such as https://example.org or http://localhost:3000. Received: {value!r}"
    )


Origin = Annotated[str, AfterValidator(_origin)]


class AccessSettings(BaseSettings):
    """Part of `server.settings.Settings`."""

    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the server's certificate chain. With it, the gRPC port and the HTTP port accept TLS "
        "alone; the metrics port and the health port remain without. It needs --tls-key.",
    )
    tls_key: Path | None = Field(None, description="PEM file with the private key of --tls-certificate.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with certificate authorities. With it, callers must present a certificate that "
        "one of them has signed (mutual TLS).",
    )
    tokens: Path | None = Field(
        None,
        description="TOML file with the hashes of callers' tokens. With it, classification needs a bearer "
        "token. `python -m glimpse.server.access.tokens new NAME` makes an entry.",
    )
    admin: Annotated[frozenset[str], NoDecode, BeforeValidator(split)] = Field(
        frozenset(),
        description="Identities of the callers who may manage models, with commas between, as their tokens or client "
        "certificates name them. * means everybody who may call, which is safe only where nobody else reaches the "
        "port. Empty means nobody.",
    )
    feedback: Annotated[frozenset[str], NoDecode, BeforeValidator(split)] = Field(
        frozenset(),
        description="Identities of the callers who may tell the true class of images that were answered, with commas "
        "between, as their tokens or client certificates name them. * means everybody who may call. Empty means "
        "nobody: then no answer is remembered.",
    )
    reload_seconds: PositiveSeconds = Field(
        5.0, description="Interval at which the certificate and token files are checked for changes, in seconds."
    )
    rate_limit: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Maximum number of images per second of each caller. 0 means no limit. The token file "
        "can give a caller another limit. It holds for all workers together: they tell each other every 0.1 seconds.",
    )
    rate_burst: Positive = Field(
        64,
        description="Number of images that a caller may send at once before the rate limit applies. Each of several "
        "workers may accept so many at the same moment; the caller then waits until it is within its rate again.",
    )
    audit_log: Path | None = Field(
        None,
        description="File to which one line is appended for each call, without its images. Without it, there "
        "is no audit log.",
    )
    http_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Origins of web pages that may call the HTTP port from a browser, with commas between, such as "
        "https://example.org; * means any. Empty means only the server's own page.",
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Addresses or networks of proxies whose x-forwarded-for header names the caller, with "
        "commas between. Empty means that the header is ignored.",
    )
    max_connections: Positive = Field(
        1000,
        description="Maximum number of connections open at the same time. Connections above that are closed. "
        "Each of several workers may have an equal part plus three times its square root, because the kernel "
        "distributes connections at random.",
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        description="Maximum number of connections of one address, where an IPv6 /64 counts as one address. "
        "Connections above that are closed. 0 means three quarters of --max-connections. "
        "Several workers divide it in the same way.",
    )
    flood_guard: bool = Field(
        default=True,
        description="While the server is overloaded, close connections that flood it with useless calls, and "
        "accept no new ones from their address for 2 to 60 seconds. Linux only.",
    )
    max_calls_per_connection: Positive = Field(
        1000,
        description="Maximum number of calls on one connection at the same time. Further calls wait in the client.",
    )
    max_metadata_bytes: Positive = Field(
        16 * 1024, description="Maximum size of the headers of one call or HTTP request, in bytes."
    )
    max_uploads: Positive = Field(
        64,
        description="Maximum number of messages that are received at the same time. Further messages wait "
        "for their turn, except the first few of a caller. Several workers have equal parts, each at least 8.",
    )
    max_message_bytes: Positive = Field(
        16 * MIB, description="Maximum size of one gRPC message, or of the body of one HTTP request, in bytes."
    )
    max_receiving_bytes: Positive = Field(
        256 * MIB,
        description="Maximum of the bytes of all messages that are being received. Above that, callers wait "
        "before they can send their next message, and the largest messages are refused with "
        "RESOURCE_EXHAUSTED, reason QUEUE_FULL. Several workers have equal parts, each at least --max-message-bytes.",
    )
    upload_seconds: PositiveSeconds = Field(
        30.0,
        description="Maximum time that one message may take to arrive, in seconds. In a stream, it starts "
        "with the first bytes of the message.",
    )
    handshake_seconds: PositiveSeconds = Field(
        10.0, description="Maximum time that a new connection may take to establish TLS and HTTP/2, in seconds."
    )
    keepalive_seconds: PositiveSeconds = Field(
        120.0, description="Time without traffic after which the server pings a connection, in seconds."
    )
    keepalive_timeout_seconds: PositiveSeconds = Field(
        20.0,
        description="Time to wait for the answer to a ping of the server, in seconds; then the connection is closed.",
    )
    min_ping_seconds: PositiveSeconds = Field(
        30.0,
        description="Shortest interval at which a client without calls in flight may ping, in seconds. The "
        "connection of a client that pings more often is closed.",
    )
    max_connection_idle_seconds: Seconds = Field(
        0.0, description="Time without calls after which a connection is closed, in seconds. 0 means never."
    )
    max_connection_age_seconds: Seconds = Field(
        0.0,
        description="Time after which clients are asked to reconnect, in seconds, so that load spreads over "
        "new servers. 0 means never.",
    )

    @property
    def connections_per_address(self) -> int:
        """Connections that one address may hold."""
        return self.max_connections_per_address or max(1, self.max_connections * 3 // 4)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be set together. Received one without the other.")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError(
                "tls_client_ca needs tls_certificate and tls_key: callers present certificates over TLS only."
            )
        if self.max_message_bytes > self.max_receiving_bytes:
            raise ValueError(
                "max_receiving_bytes must be at least max_message_bytes, so that any message can be received. "
                f"Received: {self.max_receiving_bytes} and {self.max_message_bytes}"
            )
        return self
