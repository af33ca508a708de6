"""Connections whose callers' certificates are no longer good end; those that are still good connect anew, or stay."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest

from glimpse.server.access.certificates import Certificates
from glimpse.server.access.certified import CertifiedConnections
from glimpse.server.domain import Classification
from glimpse.server.sockets import connections
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.authority import Authority, Pair
from tests.server.access.inside import IN, Inside, channel, classify, told, until
from tests.server.conftest import TIMEOUT
from tests.server.hostile.memory import needs_proc

Start = Callable[..., Inside]
pytestmark = needs_proc  # the connections are found by the kernel's list of the process's files


class Mutual:
    """A server that wants certificates, and the files that it has them from."""

    def __init__(self, inside: Start, folder: Path, authority: Authority) -> None:
        self.authority = authority
        certificate, key = authority.server().write(folder)
        self.ca, self.audit = folder / "ca.crt", folder / "audit.jsonl"
        self.ca.write_bytes(authority.pem)
        self.running = inside(
            tls_certificate=certificate,
            tls_key=key,
            tls_client_ca=self.ca,
            reload_seconds=0.05,
            audit_log=self.audit,
        )
        self.port = self.running.bound.grpc

    def trust(self, *authorities: bytes) -> None:
        """Put other authorities of callers into the file, at once."""
        beside = self.ca.with_suffix(".new")
        beside.write_bytes(b"".join(authorities))
        beside.rename(self.ca)

    def by(self, shown: Pair) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority.pem, shown.key, shown.certificate)

    def looked(self) -> None:
        """Wait until the server has looked at the file and at its connections twice."""
        access = self.running.server._ports._access
        assert access.connections is not None
        seen = [0]
        before = access.connections.close_idle

        async def counting() -> None:
            await before()
            seen[0] += 1

        access.connections.close_idle = counting  # type: ignore[method-assign]
        until(lambda: seen[0] >= 2)
        access.connections.close_idle = before  # type: ignore[method-assign]

    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


@pytest.fixture
def mutual(inside: Start, tmp_path: Path, authority: Authority) -> Mutual:
    return Mutual(inside, tmp_path, authority)


@pytest.fixture
def stream() -> Iterator[Callable[[grpc.Channel], Callable[[], str]]]:
    """Open a stream on a channel; what is returned asks it, and tells the answer's reason or how the stream ended."""
    boxes: list[SimpleQueue[pb.ClassifyStreamRequest | None]] = []

    def begin(through: grpc.Channel) -> Callable[[], str]:
        outbox: SimpleQueue[pb.ClassifyStreamRequest | None] = SimpleQueue()
        boxes.append(outbox)
        answers = ImageClassifierStub(through).ClassifyStream(iter(outbox.get, None), timeout=TIMEOUT)

        def ask() -> str:
            outbox.put(pb.ClassifyStreamRequest(id="1", request=pb.ClassifyRequest(images=[pb.Image(encoded=b"x")])))
            try:
                return str(next(answers).error.reason)
            except grpc.RpcError as error:
                return told(error)

        return ask

    yield begin
    for each in boxes:
        each.put(None)


def test_an_authority_that_has_gone_ends_its_callers_connections(
    mutual: Mutual, stream: Callable[[grpc.Channel], Callable[[], str]]
) -> None:
    another = Authority("another")
    mutual.trust(mutual.authority.pem, another.pem)
    alice, bob = mutual.authority.client("alice"), another.client("bob")
    with (
        channel(mutual.running.target, mutual.by(alice)) as old,
        channel(mutual.running.target, mutual.by(alice)) as idle,
    ):
        assert [classify(old), classify(idle)] == [IN, IN]
        ask = stream(old)
        assert ask() == IN
        mutual.trust(another.pem)
        until(lambda: classify(idle) != IN)
        # Told by name, or by a connection that is gone, as the case may be.
        assert ask() in {"DRAINING", "UNAVAILABLE"}
        until(lambda: classify(old) == "UNAVAILABLE")
        until(lambda: classify(idle) == "UNAVAILABLE")
        with channel(mutual.running.target, mutual.by(bob)) as new:
            assert classify(new) == IN
    until(lambda: sum(line.get("event") == "connection closed" for line in mutual.lines()) >= 2)
    assert "authorities of callers' certificates have changed" in str(mutual.lines())
    ended = [
        line for line in mutual.lines() if line.get("method", "").endswith("ClassifyStream") and "piece" not in line
    ]
    assert [(line["identity"], line["code"], line["reason"]) for line in ended] == [
        ("alice", "UNAVAILABLE", "DRAINING")
    ]


def test_a_caller_whom_the_new_authorities_know_connects_anew_by_himself(mutual: Mutual) -> None:
    another = Authority("another")
    mutual.trust(mutual.authority.pem, another.pem)
    with channel(mutual.running.target, mutual.by(another.client("bob"))) as bob:
        until(lambda: classify(bob) == IN)
        (before,) = [each.peer for each in connections.accepted(mutual.port)]
        mutual.trust(another.pem)
        until(lambda: before not in {each.peer for each in connections.accepted(mutual.port)})
        until(lambda: classify(bob) == IN)


@pytest.mark.parametrize("how", ["added", "renewed", "written anew", "another server certificate"])
def test_nobody_is_cut_off_where_no_authority_has_gone(
    mutual: Mutual, tmp_path: Path, how: str, stream: Callable[[grpc.Channel], Callable[[], str]]
) -> None:
    with channel(mutual.running.target, mutual.by(mutual.authority.client("alice"))) as alice:
        ask = stream(alice)
        assert ask() == IN
        (before,) = [each.peer for each in connections.accepted(mutual.port)]
        if how == "added":
            mutual.trust(Authority("another").pem, mutual.authority.pem)
        elif how == "renewed":
            mutual.trust(mutual.authority.renewed(timedelta(days=100)))
        elif how == "written anew":
            mutual.trust(b"# ours\n", mutual.authority.pem, b"\n\n")
        else:
            mutual.authority.server("another").write(tmp_path)
        mutual.looked()
        assert ask() == IN
        assert [each.peer for each in connections.accepted(mutual.port)] == [before]


def test_an_authority_of_the_same_name_with_another_key_is_another(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.server().write(tmp_path)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    found = Certificates(certificate, key, ca)
    for content, distrusts in (
        (authority.pem, False),
        (authority.renewed(timedelta(days=9)), False),
        (Authority().pem, True),
        (authority.pem + Authority("new").pem, True),
        (authority.pem, True),
    ):
        ca.write_bytes(content)
        found.look()
        assert (found.distrusts(), found.distrusts()) == (distrusts, False)


def test_a_connection_does_not_outlive_its_certificate(
    mutual: Mutual, stream: Callable[[grpc.Channel], Callable[[], str]]
) -> None:
    brief = mutual.authority.client("alice", lasts=timedelta(seconds=3))
    with (
        channel(mutual.running.target, mutual.by(brief)) as alice,
        channel(mutual.running.target, mutual.by(mutual.authority.client("bob"))) as bob,
    ):
        ask, asked = stream(alice), stream(bob)
        assert (ask(), asked(), classify(alice), classify(bob)) == (IN,) * 4
        until(lambda: ask() in {"DRAINING", "UNAVAILABLE"})
        until(lambda: classify(alice) == "UNAVAILABLE")
        assert (asked(), classify(bob)) == (IN, IN)
    until(lambda: "certificate has expired" in str(mutual.lines()))


def test_a_call_after_its_certificate_expired_is_told_to_connect_anew(mutual: Mutual) -> None:
    with channel(mutual.running.target, mutual.by(mutual.authority.client("alice"))) as alice:
        assert classify(alice) == IN
        access = mutual.running.server._ports._access
        assert access.connections is not None
        access.connections._clock = (datetime.now(UTC) + timedelta(days=2)).timestamp
        assert classify(alice) == "DRAINING"
        access.connections._clock = time.time
        # gRPC connects by itself, once the old connection has been closed.
        until(lambda: classify(alice) == IN)


def test_a_lone_call_in_flight_when_the_authorities_change_is_answered(inside: Start, tmp_path: Path) -> None:
    authority = Authority("one")
    mutual = Mutual(inside, tmp_path, authority)
    with channel(mutual.running.target, mutual.by(authority.client("alice"))) as alice:
        assert classify(alice) == IN
        service = mutual.running.server._service
        release, inner, entered = threading.Event(), service.classify, threading.Event()

        async def slow(*arguments: object, **more: object) -> Classification:
            entered.set()
            await asyncio.to_thread(release.wait, TIMEOUT)
            return await inner(*arguments, **more)  # type: ignore[arg-type]

        service.classify = slow  # type: ignore[method-assign]
        found: list[str] = []
        calling = threading.Thread(target=lambda: found.append(classify(alice)))
        calling.start()
        assert entered.wait(TIMEOUT)
        mutual.trust(Authority("two").pem)
        mutual.looked()
        assert classify(alice) in {"DRAINING", "UNAVAILABLE"}
        release.set()
        calling.join(TIMEOUT)
        assert found == [IN]
        until(lambda: connections.accepted(mutual.port) == [])


def test_a_resumed_session_does_not_bring_an_old_authority_back(mutual: Mutual, tmp_path: Path) -> None:
    certificate, key = mutual.authority.client("alice").write(tmp_path / "alice")
    context = ssl.create_default_context(cadata=mutual.authority.pem.decode())
    context.load_cert_chain(certificate, key)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the session is known as soon as the handshake is over

    def connect(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        plain = socket.create_connection(("127.0.0.1", mutual.port), TIMEOUT)
        with context.wrap_socket(plain, session=session) as secure:
            secure.settimeout(TIMEOUT)
            return secure.session if secure.recv(1) else None

    session = connect(None)
    assert session is not None
    mutual.trust(Authority("another").pem)

    def refused() -> bool:
        try:
            return connect(session) is None
        except OSError:
            return True

    until(refused)


def test_an_authority_gone_while_no_file_can_be_opened_ends_connections_later(
    mutual: Mutual, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever fills the process's table of files does not keep what an authority that has gone had let in."""
    failed = threading.Semaphore(0)
    accepted = connections.accepted

    def exhausted(port: int) -> list[connections.Connection]:
        if threading.current_thread().name == "connections":  # that of the watch
            return accepted(port)
        failed.release()
        raise OSError(errno.EMFILE, "Too many open files")

    with channel(mutual.running.target, mutual.by(mutual.authority.client("alice"))) as alice:
        assert classify(alice) == IN
        monkeypatch.setattr(connections, "accepted", exhausted)
        mutual.trust(Authority("two").pem)
        for _ in range(3):  # it is not looked at less and less often
            assert failed.acquire(timeout=TIMEOUT)
        assert accepted(mutual.port)
        monkeypatch.setattr(connections, "accepted", accepted)
        until(lambda: accepted(mutual.port) == [])


def test_a_look_that_ends_after_another_found_the_connection_gone_is_no_error() -> None:
    asyncio.run(_closed_by_two())


async def _closed_by_two() -> None:
    both, found = CertifiedConnections(1.0, None), threading.Event()
    end = connections.Endpoint("192.0.2.1", 4000)
    both._end(end, "a reason")
    with pytest.MonkeyPatch.context() as patch:

        def closing(_: int, peers: set[connections.Endpoint]) -> set[connections.Endpoint]:
            return set(peers) if found.wait(TIMEOUT) else set()

        patch.setattr(connections, "close_all", closing)
        late = asyncio.create_task(both.close_idle())
        await asyncio.sleep(0.01)
        patch.setattr(connections, "close_all", lambda *_: set())
        await both.close_idle()
        found.set()
        await late
    assert both._ending == {}
