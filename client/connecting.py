"""The options with which every command finds its server and gets in, and what becomes of them."""

# ruff: noqa: FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glimpse.client import exits
from glimpse.client.channel import DEFAULT_TARGET
from glimpse.client.options import given

if TYPE_CHECKING:
    from glimpse.client.client import Client
    from glimpse.client.connection import TLS, Connection


@dataclass(frozen=True, slots=True)
class Server:
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

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client, and for whatever ends the command with it a message on stderr and an exit code.

        Raises:
            typer.BadParameter: the options cannot be used as they are.
            typer.Exit: in place of what `exits.by_cause` knows.
        """
        with exits.by_cause(self.target), self._connected() as client:
            yield client

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
            )
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error

    def _connected(self) -> Client:
        from glimpse.client.client import Client

        try:
            return Client(
                self.target,
                timeout=self.timeout,
                tls=self._named_tls() or self.tls,
                token_file=self.token_file,
                allow_plaintext_token=self.insecure_token,
                wait_for_ready=self.wait,
            )
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error

    def _named_tls(self) -> TLS | None:
        """As the files and the name ask for; None where none is given."""
        from glimpse.client.connection import TLS

        named = TLS(self.ca, self.certificate, self.key, self.server_name)
        return named if named != TLS() else None


def _server(
    target: Annotated[
        str, typer.Option(envvar="GLIMPSE_TARGET", metavar="HOST:PORT", help="Address of the server.")
    ] = DEFAULT_TARGET,
    tls: Annotated[
        bool, typer.Option("--tls", envvar="GLIMPSE_TLS", help="Encrypt; trust the public authorities.")
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(envvar="GLIMPSE_TLS_CA", metavar="PEM", help="Encrypt; trust these authorities instead."),
    ] = None,
    # Not GLIMPSE_TLS_CERTIFICATE and _KEY: the server, which often runs in the same shell, has its own by these names.
    tls_certificate: Annotated[
        Path | None,
        typer.Option(envvar="GLIMPSE_CLIENT_CERTIFICATE", metavar="PEM", help="Encrypt; show this certificate."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="GLIMPSE_CLIENT_KEY", metavar="PEM", help="Key of that certificate.")
    ] = None,
    tls_server_name: Annotated[
        str,
        typer.Option(
            envvar="GLIMPSE_TLS_SERVER_NAME",
            metavar="NAME",
            help="Encrypt; expect this name in the server's certificate, not the target's.",
        ),
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the token that the server wants. GLIMPSE_TOKEN_FILE names one, too; GLIMPSE_TOKEN is a token.",
        ),
    ] = None,
    insecure_token: Annotated[
        bool,
        typer.Option(
            "--insecure-token",
            envvar="GLIMPSE_INSECURE_TOKEN",
            help="Show the token to other machines without TLS, too.",
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="Longest wait for an answer.")] = 60.0,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a server that is not there or not serving yet, up to the timeout.")
    ] = False,
) -> Server:
    return Server(
        target,
        tls,
        tls_ca,
        tls_certificate,
        tls_key,
        tls_server_name,
        token_file,
        insecure_token,
        timeout,
        wait,
    )


connecting = given(_server)


def option_kinds() -> dict[str, type]:
    """These options by their names in a file, each with the type of its value there; files have their path."""
    options = inspect.signature(_server).parameters.values()
    return {option.name: str if option.default is None else type(option.default) for option in options}
