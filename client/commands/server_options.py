"""The options with which every command finds its server and connects, and the client that they describe."""

# ruff: noqa: FBT002, PLR0913, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from glimpse.client.addresses import complete
from glimpse.client.channel import (
    DEFAULT_TARGET,
    LEAST_MESSAGE_BYTES,
    LONGEST_TIMEOUT,
    MAX_MESSAGE_BYTES,
    MOST_MESSAGE_BYTES,
)
from glimpse.client.commands import exits
from glimpse.client.commands.option_groups import explain, option_group

if TYPE_CHECKING:
    from glimpse.client.client import Client
    from glimpse.client.connection import TLS, Connection
    from glimpse.client.repository import ModelRepository

T = TypeVar("T")
PANEL = "Server and connection"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where a command's answers come from."""

    target: str
    tls: bool
    ca: Path | None
    certificate: Path | None
    key: Path | None
    server_name: str
    token_file: Path | None
    insecure_token: bool
    timeout: float
    wait: bool
    max_message_bytes: int

    @contextmanager
    def client(self, *, waits: bool = True) -> Iterator[Client]:
        """A client; whatever ends the command in its block becomes a message on stderr and an exit code.

        Args:
            waits: whether to wait until the server is serving before the block begins, where --wait asks for it.

        Raises:
            typer.BadParameter: the options cannot be used as they are.
            typer.Exit: in place of what `exits.by_cause` knows.
        """
        with exits.by_cause(self.target), self._connected() as client:
            if self.wait and waits:
                from glimpse.client.commands.waiting import require_serving

                require_serving(client, seconds=self.timeout)
            yield client

    @contextmanager
    def repository(self) -> Iterator[ModelRepository]:
        """What manages the server's models; for whatever ends the command in its block, see `client`.

        Raises:
            typer.BadParameter: the options cannot be used as they are.
            typer.Exit: in place of what `exits.by_cause` knows.
        """
        from glimpse.client.repository import ModelRepository

        with exits.by_cause(self.target), self._made(ModelRepository, wait_for_ready=self.wait) as repository:
            yield repository

    def connection(self) -> Connection:
        """The same without a client, for whoever calls in another way.

        Raises:
            typer.BadParameter: the options cannot be used as they are.
        """
        from glimpse.client.connection import to_server

        try:
            return to_server(
                self.target,
                tls=self._named_tls() or self.tls,
                token=None,
                token_file=self.token_file,
                allow_plaintext_token=self.insecure_token,
                max_message_bytes=self.max_message_bytes,
            )
        except (OSError, ValueError) as error:
            raise typer.BadParameter(explain(error)) from error

    def _connected(self) -> Client:
        from glimpse.client.client import Client

        return self._made(Client)

    def _made(self, kind: Callable[..., T], *, wait_for_ready: bool = False) -> T:
        try:
            return kind(
                self.target,
                timeout=self.timeout,
                tls=self._named_tls() or self.tls,
                token_file=self.token_file,
                allow_plaintext_token=self.insecure_token,
                wait_for_ready=wait_for_ready,
                max_message_bytes=self.max_message_bytes,
            )
        except (OSError, ValueError) as error:
            raise typer.BadParameter(explain(error)) from error

    def _named_tls(self) -> TLS | None:
        """As the files and the name ask for; None where none is given."""
        from glimpse.client.connection import TLS

        named = TLS(self.ca, self.certificate, self.key, self.server_name)
        return named if named != TLS() else None


def _server_options(
    target: Annotated[
        str,
        typer.Option(
            envvar="GLIMPSE_TARGET",
            metavar="HOST[:PORT]",
            help="Address of the server; the port is 50051 when left out. unix:PATH is a Unix socket.",
            rich_help_panel=PANEL,
        ),
    ] = DEFAULT_TARGET,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            envvar="GLIMPSE_TLS",
            help="Encrypt the connection, and trust the public certificate authorities.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="GLIMPSE_TLS_CA",
            metavar="FILE",
            help="Encrypt the connection, and trust the certificate authorities in this PEM file instead.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    # Not GLIMPSE_TLS_CERTIFICATE and _KEY: the server, which often runs in the same shell, has its own by these names.
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            envvar="GLIMPSE_CLIENT_CERTIFICATE",
            metavar="FILE",
            help="Encrypt the connection, and show the server the client certificate in this PEM file.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            envvar="GLIMPSE_CLIENT_KEY",
            metavar="FILE",
            help="The private key of the client certificate, a PEM file.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    tls_server_name: Annotated[
        str,
        typer.Option(
            envvar="GLIMPSE_TLS_SERVER_NAME",
            metavar="NAME",
            help="Encrypt the connection, and expect this name in the server's certificate instead of the target's.",
            rich_help_panel=PANEL,
        ),
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with the bearer token that the server asks for. The variable GLIMPSE_TOKEN_FILE names such a "
            "file, too, and GLIMPSE_TOKEN holds a token itself.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    insecure_token: Annotated[
        bool,
        typer.Option(
            "--insecure-token",
            envvar="GLIMPSE_INSECURE_TOKEN",
            help="Send the token to another machine even without TLS, where everybody on the way can read it.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.001,
            help="How long to wait for an answer, and with --wait for the server before that.",
            rich_help_panel=PANEL,
        ),
    ] = 60.0,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Wait until the server is there and serving, for as long as --timeout. Gives up when a server that "
            "answered goes away.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    max_message_bytes: Annotated[
        int,
        typer.Option(
            metavar="BYTES",
            min=LEAST_MESSAGE_BYTES,
            max=MOST_MESSAGE_BYTES,
            help="Largest request or response, in bytes; an image may have 64 KiB less. The server has limits of its "
            "own, which `describe` shows.",
            rich_help_panel=PANEL,
        ),
    ] = MAX_MESSAGE_BYTES,
) -> ServerOptions:
    try:
        target = complete(target)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--target") from error
    return ServerOptions(
        target,
        tls,
        tls_ca,
        tls_certificate,
        tls_key,
        tls_server_name,
        token_file,
        insecure_token,
        min(timeout, LONGEST_TIMEOUT),
        wait,
        max_message_bytes,
    )


server_options = option_group(_server_options)


def option_kinds() -> dict[str, type]:
    """These options by their names in a file, each with the type of its value there; files have their path."""
    options = inspect.signature(_server_options).parameters.values()
    return {option.name: str if option.default is None else type(option.default) for option in options}
