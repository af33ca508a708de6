"""TLS and mutual TLS: who may connect, and certificates that change while the server runs."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from glimpse.server.access.certificates import Certificates
from glimpse.server.grpc.tls import peer_certificate
from glimpse.server.processes.startup import CredentialsError
from tests.server.access.authority import Authority, Pair
from tests.server.access.inside import IN, Inside, channel, classify, until

Start = Callable[..., Inside]


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.server()


def trusting(authority: Authority, shown: Pair | None = None) -> grpc.ChannelCredentials:
    if shown is None:
        return grpc.ssl_channel_credentials(authority.pem)
    return grpc.ssl_channel_credentials(authority.pem, shown.key, shown.certificate)


def name_of(target: str) -> str:
    """The common name in the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), 30) as plain, context.wrap_socket(plain) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    subject = x509.load_der_x509_certificate(shown).subject
    return str(subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def test_a_tls_port_answers_only_those_who_speak_tls_and_trust_its_authority(
    inside: Start, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    certificate, key = pair.write(tmp_path)
    running = inside(tls_certificate=certificate, tls_key=key)
    with channel(running.target, trusting(authority)) as known:
        assert classify(known) == IN
        with channel(running.target) as plain:
            assert classify(plain) == "UNAVAILABLE"
        with channel(running.target, trusting(Authority("another"))) as distrustful:
            assert classify(distrustful) == "UNAVAILABLE"
        assert classify(known) == IN


def test_with_mutual_tls_a_caller_needs_a_valid_certificate_of_the_authority(
    inside: Start, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """With mutual TLS, a caller needs a certificate of the authority that is still good."""
    certificate, key = pair.write(tmp_path)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    running = inside(tls_certificate=certificate, tls_key=key, tls_client_ca=ca)
    strangers = {
        "no certificate": None,
        "expired": authority.client("late", expired=True),
        "of another authority": Authority().client("stranger"),
    }
    with channel(running.target, trusting(authority, authority.client("alice"))) as alice:
        assert classify(alice) == IN
        for what, shown in strangers.items():
            with channel(running.target, trusting(authority, shown)) as stranger:
                assert classify(stranger) == "UNAVAILABLE", what
            assert classify(alice) == IN


def test_a_caller_is_whom_its_certificate_names_and_has_a_rate_by_that_name(
    inside: Start, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    certificate, key = pair.write(tmp_path)
    ca, audit = tmp_path / "ca.crt", tmp_path / "audit.jsonl"
    ca.write_bytes(authority.pem)
    running = inside(
        tls_certificate=certificate, tls_key=key, tls_client_ca=ca, audit_log=audit, rate_limit=0.001, rate_burst=1
    )
    shown = [
        authority.client("plain name"),
        authority.client("a host", hosts=("a.example.org", "b.example.org")),
        authority.client("a workload", hosts=("c.example.org",), uri="spiffe://example.org/a/workload"),
    ]
    for each in shown:
        with channel(running.target, trusting(authority, each)) as caller:
            assert [classify(caller) for _ in range(2)] == [IN, "RATE_LIMITED"]
    until(lambda: audit.read_text().count("\n") == 6)
    identities = [json.loads(line)["identity"] for line in audit.read_text().splitlines()]
    assert identities[::2] == identities[1::2] == ["plain name", "a.example.org", "spiffe://example.org/a/workload"]


def test_who_has_shown_no_certificate_is_nobody() -> None:
    shown = {"transport_security_type": [b"ssl"], "peer_dns": [], "x509_common_name": [b""]}
    assert peer_certificate(shown).identity == ""


def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    inside: Start, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.server("the first").write(tmp_path)
    running = inside(tls_certificate=certificate, tls_key=key, reload_seconds=0.02)
    assert name_of(running.target) == "the first"
    with channel(running.target, trusting(authority)) as old:
        assert classify(old) == IN
        another = Authority("another")
        another.server("the second").write(tmp_path)
        until(lambda: name_of(running.target) == "the second")
        with channel(running.target, trusting(another)) as new, channel(running.target, trusting(authority)) as late:
            assert classify(new) == IN
            assert classify(late) == "UNAVAILABLE"
            assert classify(old) == IN


def test_certificates_that_kubernetes_swaps_by_a_link_are_seen_though_older(
    inside: Start, authority: Authority, tmp_path: Path
) -> None:
    for number in (1, 2):
        for file in authority.server(f"number {number}").write(tmp_path / f"..{number}"):
            os.utime(file, (3 - number, 3 - number))
    (tmp_path / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    running = inside(tls_certificate=tmp_path / "tls.crt", tls_key=tmp_path / "tls.key", reload_seconds=0.02)
    assert name_of(running.target) == "number 1"
    (tmp_path / "..data.new").symlink_to("..2")
    (tmp_path / "..data.new").rename(tmp_path / "..data")
    until(lambda: name_of(running.target) == "number 2")


def test_callers_of_a_new_authority_come_in_once_it_is_in_the_file(
    inside: Start, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    certificate, key = pair.write(tmp_path)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    running = inside(tls_certificate=certificate, tls_key=key, tls_client_ca=ca, reload_seconds=0.02)
    another = Authority("another")
    alice, bob = authority.client("alice"), another.client("bob")

    def enters(shown: Pair) -> bool:
        with channel(running.target, trusting(authority, shown)) as caller:
            return classify(caller) == IN

    assert (enters(alice), enters(bob)) == (True, False)
    ca.write_bytes(authority.pem + another.pem)
    until(lambda: enters(bob))
    assert enters(alice)
    ca.write_bytes(another.pem)
    until(lambda: not enters(alice))
    assert enters(bob)


def stale(running: Inside) -> float | None:
    """What the metric says of files that cannot be used."""
    return running.server._metrics.registry.get_sample_value("glimpse_credentials_stale")


def test_a_pair_that_is_half_written_leaves_the_old_one(inside: Start, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.server("the first").write(tmp_path)
    first, second = certificate.read_bytes(), authority.server("the second")
    # Each pair, with the key written before the certificate and the first certificate put back after it, so that no
    # moment between two of them holds a whole pair of the second.
    halves = [
        (second.certificate, None),  # the key comes in a moment
        (second.certificate[:200], second.key),
        (second.certificate, second.key[:100]),
        (b"", b""),
    ]
    with structlog.testing.capture_logs() as logged:
        running = inside(tls_certificate=certificate, tls_key=key, reload_seconds=0.02)
        for half, other in halves:
            before = sum(line["event"] == "kept the old" for line in logged)
            if other is not None:
                key.write_bytes(other)
            certificate.write_bytes(half)
            until(lambda: sum(line["event"] == "kept the old" for line in logged) > before)  # noqa: B023 - called at once
            assert name_of(running.target) == "the first"
            assert stale(running) == 1
            certificate.write_bytes(first)
        second.write(tmp_path)
        until(lambda: name_of(running.target) == "the second")
        assert stale(running) == 0
    assert "the key does not belong to the certificate" in str(logged)
    assert "PRIVATE" not in str(logged)


def test_what_cannot_be_used_is_told_at_the_start(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    certificate, key = pair.write(tmp_path)
    _, other_key = authority.server().write(tmp_path / "other")
    empty, locked = tmp_path / "empty.pem", tmp_path / "locked.key"
    empty.touch()
    private = load_pem_private_key(pair.key, None)
    locked.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))
    for files, what in [
        ((tmp_path / "none.crt", key, None), "none.crt cannot be read: No such file"),
        ((tmp_path, key, None), "cannot be read: it is a folder"),
        ((certificate, other_key, None), "the key does not belong to the certificate"),
        ((key, certificate, None), "cannot be used as certificate and key"),
        ((certificate, locked, None), "without a password"),
        ((certificate, key, empty), "cannot be used as certificate authorities of callers"),
        ((certificate, key, key), "cannot be used as certificate authorities of callers"),
    ]:
        with pytest.raises(CredentialsError) as refused:
            Certificates(*files)
        assert what in str(refused.value)
    assert Certificates(certificate, key, certificate).mutual
