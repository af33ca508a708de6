"""TLS on the HTTP port: with the certificates of the gRPC port, which may change while the server runs."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.server.access.authority import Authority, Pair
from tests.server.access.inside import Inside, until
from tests.server.conftest import TIMEOUT
from tests.server.http.asking import ask, connected, until_closed

Start = Callable[..., Inside]


def trusting(authority: Authority, folder: Path, shown: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if shown is not None:
        context.load_cert_chain(*shown.write(folder))
    return context


def port_of(running: Inside) -> int:
    assert running.bound.http is not None
    return running.bound.http


def told(port: int, context: ssl.SSLContext) -> str:
    """What a caller is told who is let in: there is no model."""
    return ask(port, "/classify", b"photo", tls=context).reason


def name_of(port: int, context: ssl.SSLContext) -> str:
    """The common name of the server's certificate."""
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    subject = x509.load_der_x509_certificate(shown).subject
    return str(subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


@pytest.fixture
def authority() -> Authority:
    return Authority()


def test_a_tls_port_answers_those_who_speak_tls_and_trust_it(
    inside: Start, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.server().write(tmp_path)
    port = port_of(inside(http_port=0, tls_certificate=certificate, tls_key=key))
    assert told(port, trusting(authority, tmp_path)) == "NOT_READY"
    with pytest.raises(ssl.SSLCertVerificationError):
        told(port, trusting(Authority("another"), tmp_path))
    with connected(port) as plain:
        plain.sendall(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert not until_closed(plain).startswith(b"HTTP")
    assert told(port, trusting(authority, tmp_path)) == "NOT_READY"


def test_who_begins_no_tls_is_closed_in_time(inside: Start, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.server().write(tmp_path)
    port = port_of(inside(http_port=0, tls_certificate=certificate, tls_key=key, handshake_seconds=0.2))
    with connected(port) as silent:
        assert until_closed(silent) == b""


def test_a_new_certificate_is_shown_to_new_connections(inside: Start, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.server("before").write(tmp_path)
    port = port_of(inside(http_port=0, tls_certificate=certificate, tls_key=key, reload_seconds=0.05))
    context = trusting(authority, tmp_path)
    assert name_of(port, context) == "before"
    after = authority.server("after")
    for path, content in ((certificate, after.certificate), (key, after.key)):
        path.with_suffix(".new").write_bytes(content)
        path.with_suffix(".new").replace(path)
    until(lambda: name_of(port, context) == "after")


def test_with_mutual_tls_the_certificate_names_the_caller(inside: Start, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.server().write(tmp_path)
    ca, audit = tmp_path / "ca.crt", tmp_path / "audit.jsonl"
    ca.write_bytes(authority.pem)
    port = port_of(inside(http_port=0, tls_certificate=certificate, tls_key=key, tls_client_ca=ca, audit_log=audit))
    shown = authority.client("plain", hosts=("a.example.org",), uri="spiffe://a/b")
    assert told(port, trusting(authority, tmp_path / "a", shown)) == "NOT_READY"
    assert told(port, trusting(authority, tmp_path / "b", authority.client("plain"))) == "NOT_READY"
    until(lambda: audit.read_text("utf-8").count("\n") >= 2)
    identities = [json.loads(line)["identity"] for line in audit.read_text("utf-8").splitlines()]
    assert identities == ["spiffe://a/b", "plain"]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        told(port, trusting(authority, tmp_path))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        told(port, trusting(authority, tmp_path / "c", authority.client("late", expired=True)))


def test_connections_end_when_their_authority_is_trusted_no_more(
    inside: Start, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.server().write(tmp_path)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    port = port_of(inside(http_port=0, tls_certificate=certificate, tls_key=key, tls_client_ca=ca, reload_seconds=0.05))
    context = trusting(authority, tmp_path / "a", authority.client("plain"))
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 ")
        (tmp_path / "ca.new").write_bytes(Authority("another").pem)
        (tmp_path / "ca.new").replace(ca)
        while connection.recv(1000):
            pass
