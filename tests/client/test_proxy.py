"""Proxies of the environment: what is on this machine is called directly, and a proxy that fails is named."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from glimpse.client import AsyncClient, Client
from glimpse.client.errors import UnavailableError
from glimpse.client.proxy import Proxy, for_target
from tests.client.conftest import Glimpse
from tests.client.scripted import ScriptedServer

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
SILENT = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def tunnel(scripted: ScriptedServer) -> Iterator[tuple[str, list[str]]]:
    """A proxy's address and what it is asked for; whatever that is, it leads to the scripted server."""
    asked: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                caller, _ = listener.accept()
                head = b""
                while b"\r\n\r\n" not in head:
                    head += caller.recv(65536)
                asked.append(head.split(b"\r\n")[0].decode())
                caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                server = socket.create_connection(("127.0.0.1", int(scripted.target.rpartition(":")[2])))
                threads = [threading.Thread(target=pump, args=ends) for ends in ((caller, server), (server, caller))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                caller.close()
                server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with closing(listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


@pytest.mark.parametrize(
    "variable", [VARIABLES[2], *(pytest.param(each, marks=pytest.mark.slow) for each in VARIABLES[:2])]
)
@pytest.mark.parametrize(
    "command",
    [("health",), ("describe",), ("classify", "-"), ("load", "--requests", "1", "--warm-up", "0")],
    ids=lambda each: str(each[0]),
)
def test_a_server_on_this_machine_is_called_directly(
    scripted: ScriptedServer, glimpse: Glimpse, variable: str, command: tuple[str, ...]
) -> None:
    ended = glimpse(*command, "--target", scripted.target, stdin=b"cat", **{variable: SILENT})
    assert ended.returncode == 0, ended.stderr


def test_both_clients_call_a_server_on_this_machine_directly(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", SILENT)
    port = scripted.target.rpartition(":")[2]

    async def classify() -> str:
        async with AsyncClient(f"localhost:{port}") as client:
            return (await client.classify(b"cat")).predictions[0].label

    with Client(f"dns:///localhost:{port}") as client:
        assert client.classify(b"cat").predictions[0].label == "cat"
    assert asyncio.run(classify()) == "cat"


@pytest.mark.parametrize("variable", VARIABLES)
def test_any_other_server_is_called_through_the_proxy(
    tunnel: tuple[str, list[str]], glimpse: Glimpse, variable: str
) -> None:
    address, asked = tunnel
    ended = glimpse("health", "--target", "glimpse.example:50051", **{variable: address})
    assert ended.returncode == 0, ended.stderr
    assert set(asked) == {"CONNECT glimpse.example:50051 HTTP/1.1"}


def test_a_proxy_that_fails_is_named_without_its_password(glimpse: Glimpse) -> None:
    environment = {"https_proxy": "http://someone:secret@127.0.0.1:9"}
    ended = glimpse("health", "--target", "glimpse.example:50051", **environment)
    assert ended.returncode == 3
    assert ended.stderr == (
        "No Glimpse server answers at glimpse.example:50051; start one with `make serve`, name another with --target, "
        "or wait for it with --wait. The call went through the proxy http://127.0.0.1:9 of the variable https_proxy; "
        "no_proxy=glimpse.example calls the server directly.\n"
    )


def test_the_error_of_a_client_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", SILENT)

    async def describe() -> None:
        async with AsyncClient("glimpse.example:1") as client:
            await client.describe()

    with Client("glimpse.example:1") as client, pytest.raises(UnavailableError, match="through the proxy http://127"):
        client.describe()
    with pytest.raises(UnavailableError, match="of the variable grpc_proxy"):
        asyncio.run(describe())


@pytest.mark.parametrize(
    "target",
    [
        "localhost:1",
        "LOCALHOST.:1",
        "glimpse.localhost:1",
        "127.0.0.1:1",
        "127.1.2.3:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "0.0.0.0:1",
        "dns:///localhost:1",
        "ipv4:127.0.0.1:1",
        "ipv6:[::1]:1",
        "unix:/run/glimpse.sock",
        "unix-abstract:glimpse",
    ],
)
def test_this_machine_has_many_names(target: str) -> None:
    assert for_target(target, {"http_proxy": SILENT}) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"http_proxy": "http://a:1", "https_proxy": "http://b:2"}, Proxy("https_proxy", "http://b:2")),
        ({"http_proxy": "a:1"}, Proxy("http_proxy", "http://a:1")),
        ({"http_proxy": "http://u:p@a:1"}, Proxy("http_proxy", "http://a:1")),
        ({"http_proxy": "socks5://a:1"}, None),
        ({"http_proxy": ""}, None),
        ({"HTTP_PROXY": "http://a:1"}, None),
        ({"http_proxy": "http://a:1", "no_proxy": "other.example, .glimpse.example"}, None),
        ({"http_proxy": "http://a:1", "NO_PROXY": "glimpse.example"}, None),
        ({"http_proxy": "http://a:1", "no_proxy": "*"}, None),
        ({"http_proxy": "http://a:1", "no_proxy": "other.example"}, Proxy("http_proxy", "http://a:1")),
        ({"http_proxy": "http://a:1", "no_grpc_proxy": "x", "no_proxy": "*"}, Proxy("http_proxy", "http://a:1")),
    ],
)
def test_the_environment_decides_as_it_does_for_grpc(environment: dict[str, str], expected: Proxy | None) -> None:
    assert for_target("a.glimpse.example:1", environment) == expected


@pytest.mark.parametrize(("network", "direct"), [("10.0.0.0/8", True), ("10.1.0.0/16", False), ("nonsense/8", False)])
def test_an_address_is_excepted_by_its_network(network: str, direct: bool) -> None:  # noqa: FBT001 - a parameter of the table
    found = for_target("ipv4:10.0.0.7:1", {"http_proxy": SILENT, "no_proxy": network})
    assert (found is None) is direct
