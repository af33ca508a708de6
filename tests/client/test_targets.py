"""What may stand for a target: addresses without a port, sockets, and what people copy from other tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from glimpse.client import AsyncClient, Client
from glimpse.client.addresses import DEFAULT_PORT, complete
from glimpse.client.commands.config import TOKEN_VARIABLES
from glimpse.server.settings import Settings
from tests.client.conftest import Glimpse
from tests.client.scripted import ScriptedServer


@pytest.mark.parametrize(
    ("target", "completed"),
    [
        ("localhost", "localhost:50051"),
        ("localhost:", "localhost:50051"),
        (" glimpse.example ", "glimpse.example:50051"),
        ("localhost:443", "localhost:443"),
        ("10.0.0.1", "10.0.0.1:50051"),
        ("::1", "[::1]:50051"),
        ("fe80::1%eth0", "[fe80::1%eth0]:50051"),
        ("[::1]", "[::1]:50051"),
        ("[::1]:443", "[::1]:443"),
        ("dns:///glimpse.example", "dns:///glimpse.example:50051"),
        ("dns://10.0.0.53/glimpse.example", "dns://10.0.0.53/glimpse.example:50051"),
        ("dns:glimpse.example:443", "dns:glimpse.example:443"),
        ("ipv4:10.0.0.1,10.0.0.2:443", "ipv4:10.0.0.1:50051,10.0.0.2:443"),
        ("ipv6:[::1],[::2]:443", "ipv6:[::1]:50051,[::2]:443"),
        ("unix:/run/glimpse.sock", "unix:/run/glimpse.sock"),
        ("unix:glimpse.sock", "unix:glimpse.sock"),
        ("unix:///run/glimpse.sock", "unix:///run/glimpse.sock"),
        ("unix-abstract:glimpse", "unix-abstract:glimpse"),
        ("xds:///glimpse", "xds:///glimpse"),
    ],
)
def test_a_host_without_a_port_gets_the_default_one(target: str, completed: str) -> None:
    assert complete(target) == completed
    assert complete(completed) == completed


def test_the_default_port_is_the_servers() -> None:
    assert Settings.model_fields["port"].default == DEFAULT_PORT


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("http://localhost:50051", r"without http://.* Write localhost:50051\."),
        ("grpc://glimpse.example:443/", r"without grpc://.* Write glimpse\.example:443\."),
        ("https://glimpse.example", r"Write glimpse\.example and use TLS \(--tls"),
        ("HTTPS://glimpse.example", r"Write glimpse\.example and use TLS"),
        ("grpcs://glimpse.example:443", "use TLS"),
        ("http://", r"Write localhost:50051\."),
        ("/run/glimpse.sock", r"Write unix:/run/glimpse\.sock\."),
        ("./glimpse.sock", r"Write unix:\./glimpse\.sock\."),
        ("unix:", "path of the Unix socket is missing"),
        ("unix:///", "path of the Unix socket is missing"),
        ("localhost:99999", "from 1 to 65535"),
        ("[::1]:0", "from 1 to 65535"),
        ("", r"The target is empty\. Write HOST:PORT"),
    ],
)
def test_what_cannot_be_a_target_is_told_with_what_to_write(target: str, hint: str, glimpse: Glimpse) -> None:
    with pytest.raises(ValueError, match=hint):
        complete(target)
    with pytest.raises(ValueError, match=hint):
        Client(target)
    with pytest.raises(ValueError, match=hint):
        AsyncClient(target)


def test_the_command_line_hints_at_what_to_write(glimpse: Glimpse) -> None:
    ended = glimpse("health", "--target", "http://localhost:50051")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Invalid value for --target" in ended.stderr
    assert "Write localhost:50051." in " ".join(ended.stderr.split())


def test_a_unix_socket_is_a_target(glimpse: Glimpse, tmp_path: Path) -> None:
    server = ScriptedServer()
    path = tmp_path / "glimpse.sock"
    assert server._server.add_insecure_port(f"unix:{path}") == 1
    (tmp_path / "photo.jpg").write_text("cat")
    with server:
        for target in (f"unix:{path}", f"unix://{path}"):
            with Client(target) as client:
                assert client.classify(b"cat").predictions[0].label == "cat"
        # A token travels to this machine's own socket only, so that it needs no TLS.
        ended = glimpse("classify", "photo.jpg", "--target", "unix:glimpse.sock", **{TOKEN_VARIABLES[0]: "abc"})
    assert ended.returncode == 0, ended.stderr
    assert server.tokens[-1] == "Bearer abc"


def test_a_client_tells_the_target_that_it_calls(nowhere: str) -> None:
    with Client("localhost") as client:
        assert client.target == "localhost:50051"
