"""How a client connects to a server: its address, TLS, and a token. Nothing here loads gRPC before `open`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glimpse.client import bearer, channel, proxy
from glimpse.client.addresses import complete, is_loopback
from glimpse.client.bearer import Token

if TYPE_CHECKING:
    import grpc
    import grpc.aio

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TLS:
    """Encrypt the connection, and check the server's certificate.

    The files are in PEM format. They are read once, when the client is made.
    """

    ca: StrPath | None = None  # certificate authorities to trust; without it, the public ones that gRPC ships with
    certificate: StrPath | None = None  # the client's certificate chain, for servers that ask for one (mutual TLS)
    key: StrPath | None = None  # the private key of that certificate
    server_name: str = ""  # the name that the server's certificate must have, if it is not the target's


@dataclass(frozen=True, slots=True)
class Connection:
    """What is needed to call a server; `open` makes channels of it."""

    target: str
    tls: TLS | None = None  # None: a plain connection
    token: Token | None = None
    allow_plaintext_token: bool = False  # show the token on plain connections that leave this machine
    max_message_bytes: int = channel.MAX_MESSAGE_BYTES  # of a request or a response

    def __post_init__(self) -> None:
        if not channel.LEAST_MESSAGE_BYTES <= self.max_message_bytes <= channel.MOST_MESSAGE_BYTES:
            raise ValueError(
                f"max_message_bytes must be from {channel.LEAST_MESSAGE_BYTES:,} to {channel.MOST_MESSAGE_BYTES:,}. "
                f"Received: {self.max_message_bytes:,}."
            )
        if self.tls is not None and (self.tls.certificate is None) != (self.tls.key is None):
            raise ValueError(
                "A client certificate needs its key, and a key its certificate. Received one without the other."
            )
        if self.token and not self.tls and not self.allow_plaintext_token and not is_loopback(self.target):
            raise ValueError(
                f"The {self.token.name} would be sent to {self.target} without encryption. "
                "Use TLS (tls=True, --tls), or allow it where the network is safe by other means "
                "(allow_plaintext_token=True, --insecure-token)."
            )

    def open(self, *, all_servers: bool = False) -> grpc.Channel:
        """A channel; the first call connects.

        Args:
            all_servers: whether to call servers that are not serving, too.

        Raises:
            OSError: a file cannot be read.
            ValueError: it holds nothing of the kind.
        """
        import grpc

        credentials, options = self.credentials(), self.options(all_servers=all_servers)
        if credentials is None:
            return grpc.insecure_channel(self.target, options=options)
        return grpc.secure_channel(self.target, credentials, options=options)

    def open_async(self, credentials: grpc.ChannelCredentials | None, *, all_servers: bool = False) -> grpc.aio.Channel:
        """A channel of the event loop that runs; the first call connects.

        Args:
            credentials: what `credentials` gave.
            all_servers: whether to call servers that are not serving, too.
        """
        import grpc.aio

        options = self.options(all_servers=all_servers)
        if credentials is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        return grpc.aio.secure_channel(self.target, credentials, options=options)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """What the files hold; None for a plain connection.

        Raises:
            OSError: a file cannot be read.
            ValueError: it holds nothing of the kind.
        """
        import grpc

        if self.tls is None:
            return None
        credentials = grpc.ssl_channel_credentials(
            _pem(self.tls.ca, "CERTIFICATE"),
            _pem(self.tls.key, "PRIVATE KEY"),
            _pem(self.tls.certificate, "CERTIFICATE"),
        )
        if self.token is not None:
            # gRPC's own way, which also shows it where gRPC calls by itself: as it watches the server's health.
            credentials = grpc.composite_channel_credentials(credentials, _call_credentials(self.token))
        return credentials

    def options(self, *, all_servers: bool = False, repeat_all: bool = False) -> list[tuple[str, int | str]]:
        """Arguments of such a channel; those of `client.channel.options` that the connection does not know."""
        server_name = self.tls.server_name if self.tls is not None else ""
        through_proxy = proxy.for_target(self.target) is not None
        return channel.options(
            max_message_bytes=self.max_message_bytes,
            server_name=server_name,
            all_servers=all_servers,
            repeat_all=repeat_all,
            through_proxy=through_proxy,
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call has to carry; nothing over TLS, where the channel does it."""
        return self.token.header() if self.token is not None and self.tls is None else ()


def to_server(
    target: str,
    *,
    tls: TLS | bool,
    token: str | None,
    token_file: StrPath | None,
    allow_plaintext_token: bool,
    max_message_bytes: int = channel.MAX_MESSAGE_BYTES,
) -> Connection:
    """The connection of a client by its arguments.

    Raises:
        OSError: the file of the token cannot be read.
        ValueError: the target cannot be one, the file holds no token, the token would travel on a plain connection, or
            there can be no messages of that size.
    """
    return Connection(
        complete(target),
        tls=(TLS() if tls else None) if isinstance(tls, bool) else tls,
        token=bearer.find(token, token_file),
        allow_plaintext_token=allow_plaintext_token,
        max_message_bytes=max_message_bytes,
    )


def _pem(path: StrPath | None, kind: str) -> bytes | None:
    """The file's bytes. gRPC itself would say of another file only that nobody answers."""
    if path is None:
        return None
    data = Path(path).read_bytes()
    if not re.search(rb"-----BEGIN [A-Z ]*" + kind.encode() + b"-----", data):
        raise ValueError(f"{os.fspath(path)} does not hold a {kind.lower()} in PEM format.")
    return data


def _call_credentials(token: Token) -> grpc.CallCredentials:
    import grpc

    class Plugin(grpc.AuthMetadataPlugin):
        def __call__(self, _: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
            callback(token.header(), None)

    return grpc.metadata_call_credentials(Plugin())
