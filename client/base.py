"""What the two clients share: the constructor with its arguments, and the defaults of a call."""

from __future__ import annotations

import math

from glimpse.client import channel
from glimpse.client.connection import TLS, StrPath, to_server


class BaseClient:
    """A client before it has a channel, which differs between threads and asyncio."""

    def __init__(
        self,
        target: str = channel.DEFAULT_TARGET,
        *,
        timeout: float = channel.DEFAULT_TIMEOUT,
        tls: TLS | bool = False,
        token: str | None = None,
        token_file: StrPath | None = None,
        allow_plaintext_token: bool = False,
        wait_for_ready: bool = False,
        max_message_bytes: int = channel.MAX_MESSAGE_BYTES,
    ) -> None:
        """Prepare a client; the first call connects.

        Args:
            target: the server's address, for example ``"host:50051"``, ``"dns:///glimpse:50051"`` or
                ``"unix:/run/glimpse.sock"``. A host without a port gets the default port, 50051. Where a name has
                several addresses, calls take turns between those that are serving.
            timeout: seconds to wait for an answer where a call does not say otherwise; more than a year is a year.
            tls: encrypt the connection; `TLS` names authorities and a certificate of the client's own.
            token: the bearer token to show with each call. Without it and `token_file`, those of the environment are
                used: ``GLIMPSE_TOKEN`` or ``GLIMPSE_TOKEN_FILE``.
            token_file: a file that holds the token; it is read again whenever it changes.
            allow_plaintext_token: show the token on a connection without TLS to another machine, too.
            wait_for_ready: wait for a server that is not there or not serving yet, for as long as the timeout. Without
                it, such calls fail after 1.5 seconds; but once a server has answered this client, one that has gone, or
                that is not serving, gets 20 seconds to come back.
            max_message_bytes: largest request or response, in bytes, from 1 MiB to 2 GiB less one byte; 16 MiB without
                it, as of the server. A file may have 64 KiB less. The server refuses what is above its own
                GLIMPSE_MAX_MESSAGE_BYTES and GLIMPSE_MAX_IMAGE_BYTES, whatever this says.

        Raises:
            OSError: a file of the certificates or of the token cannot be read.
            ValueError: a file holds no certificate, key or token, the target is not an address, the token would travel
                on a connection without TLS, `timeout` is not a number, or `max_message_bytes` is out of range.
        """
        _checked(timeout)
        self._connection = to_server(
            target,
            tls=tls,
            token=token,
            token_file=token_file,
            allow_plaintext_token=allow_plaintext_token,
            max_message_bytes=max_message_bytes,
        )
        self.target = self._connection.target
        self.timeout = timeout
        self._wait = wait_for_ready
        self._prepare()

    def _prepare(self) -> None:
        """Make what the kind of client needs before its first call."""

    def _seconds(self, timeout: float | None) -> float:
        """The timeout of a call.

        Raises:
            ValueError: it is not a number.
        """
        return _checked(self.timeout if timeout is None else timeout)


def _checked(timeout: float) -> float:
    if math.isnan(timeout):
        raise ValueError("timeout is a number of seconds. Received: nan")
    return min(timeout, channel.LONGEST_TIMEOUT)
