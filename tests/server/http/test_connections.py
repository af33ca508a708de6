"""What a connection may take of time and memory, and how a drain ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from starlette.responses import Response

from glimpse.server.http import answers
from glimpse.server.http import port as http_port_module
from glimpse.server.http.v2 import V2
from glimpse.server.processes.startup import PortTakenError
from tests.server.access.inside import Inside
from tests.server.conftest import TIMEOUT
from tests.server.http.asking import Answer, ask, connected, picture, port_of, until_closed
from tests.server.rig import Rig

Start = Callable[..., Rig]
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


def read_answer(connection: socket.socket) -> bytes:
    """One answer of health."""
    came = b""
    while not came.endswith(b"}"):
        piece = connection.recv(65536)
        assert piece, came
        came += piece
    return came


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HTTP/1.1\r\nHo"], ids=["nothing", "part of a head"])
def test_a_connection_whose_head_does_not_come_is_closed(start_rig: Start, sent: bytes) -> None:
    rig = start_rig("--handshake-seconds=0.2")
    with connected(port_of(rig)) as connection:
        connection.sendall(sent)
        assert until_closed(connection) == b""


def test_a_second_head_that_does_not_come_closes_the_connection_too(start_rig: Start) -> None:
    rig = start_rig("--handshake-seconds=0.2")
    with connected(port_of(rig)) as connection:
        connection.sendall(GET)
        assert b"200 OK" in read_answer(connection)
        connection.sendall(GET[:10])
        assert until_closed(connection) == b""


def test_a_body_that_nobody_reads_closes_the_connection_in_time(start_rig: Start) -> None:
    rig = start_rig("--handshake-seconds=0.2")
    with connected(port_of(rig)) as connection:
        connection.sendall(b"POST /v2/health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\nabc")
        assert b"405" in until_closed(connection)


def test_a_connection_carries_many_requests_also_sent_at_once(rig: Rig, port: int) -> None:
    with connected(port) as connection:
        connection.sendall(GET * 3)
        came = b""
        while came.count(b"HTTP/1.1 200 OK") < 3 or not came.endswith(b"}"):
            came += connection.recv(65536)
        connection.sendall(GET)
        assert b"200 OK" in read_answer(connection)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_request_knows_nothing_of_the_one_before(
    start_rig: Start, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    known = list[dict[str, object]]()

    async def live(self: V2, asked: object) -> Response:
        known.append(structlog.contextvars.get_contextvars())
        structlog.contextvars.bind_contextvars(left_behind=True)
        return answers.json_response({"live": True})

    monkeypatch.setattr(V2, "live", live)
    rig = start_rig()
    with connected(port_of(rig)) as connection:
        connection.sendall(GET * (2 if at_once else 1))
        read_answer(connection)
        if not at_once:
            connection.sendall(GET)
        rig.wait_until(lambda: len(known) == 2)
    assert "rpc" in known[1]
    assert "left_behind" not in known[1]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"\x00\x01\x02\r\n\r\n", b"400 Bad Request", id="no HTTP"),
        pytest.param(b"GET /\r\n\r\n", b"400 Bad Request", id="another version"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
            b"431 Request Header Fields Too Large",
            id="long headers",
        ),
        pytest.param(
            b"GET /?" + b"b" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            b"431 Request Header Fields Too Large",
            id="a long target",
        ),
        pytest.param(b"G" * 40_000, b"431 Request Header Fields Too Large", id="a long line"),
        pytest.param(
            b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"501 Not Implemented",
            id="another encoding",
        ),
    ],
)
def test_what_is_no_http_is_refused_and_closed(port: int, sent: bytes, status: bytes) -> None:
    """With the status that HTTP has for it; where the other end goes on sending, perhaps without a word."""
    with connected(port) as connection:
        connection.sendall(sent)
        answer = until_closed(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 " + status)
    assert answer or len(sent) > 1000
    if answer:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["reason"] == "MALFORMED_MESSAGE"


def test_a_body_in_chunks_of_a_byte_is_refused_soon(port: int) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(port) as connection:
        connection.sendall(head + b"1\r\na\r\n" * 200)
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"chunks of the body are too small" in answer


def test_a_refused_body_in_chunks_of_a_byte_is_not_read_on(start_rig: Start, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nidentity = "a"\nsha256 = "{"0" * 64}"\n', "utf-8")
    rig = start_rig(f"--tokens={tokens}")
    head = b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(port_of(rig)) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        with contextlib.suppress(OSError):  # closed meanwhile
            connection.sendall(b"1\r\na\r\n" * 200)
        assert b"HTTP/1.1" not in until_closed(connection)


@pytest.mark.parametrize("size", [7, 300])
def test_a_body_in_chunks_that_come_one_by_one_is_read(port: int, size: int) -> None:
    photo = picture(size=(8, 8))
    with connected(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for at in range(0, len(photo), size):
            piece = photo[at : at + size]
            connection.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: -5\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
    ],
)
def test_a_body_of_two_lengths_smuggles_no_second_request(port: int, head: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + head + b"\r\n0\r\n\r\n" + GET
        )
        answer = until_closed(connection)
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b'{"live"' not in answer


def test_more_connections_than_allowed_are_closed_at_once(start_rig: Start) -> None:
    rig = start_rig("--max-connections=8", "--max-connections-per-address=2")
    port = port_of(rig)
    with connected(port) as one, connected(port) as two:
        for each in (one, two):
            each.sendall(GET)
            read_answer(each)
        with connected(port) as third:
            assert until_closed(third) == b""
    with connected(port) as again:
        rig.wait_until(lambda: rig.server._ports.http is not None and rig.server._ports.http._open <= 1)
        again.sendall(GET)
        until = again.recv(100)
        assert until == b"" or until.startswith(b"HTTP/1.1 200")


def test_an_answer_that_is_not_taken_closes_the_connection(start_rig: Start) -> None:
    rig = start_rig("--upload-seconds=0.3")
    port = port_of(rig)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(TIMEOUT)
        connection.connect(("127.0.0.1", port))
        http_port = rig.server._ports.http
        assert http_port is not None
        rig.wait_until(lambda: http_port._open == 1)
        sending = threading.Thread(target=_send_many, args=(connection,))
        sending.start()
        rig.wait_until(lambda: http_port._open == 0)
        sending.join(TIMEOUT)


@pytest.mark.ci
def test_an_answer_that_is_taken_slowly_arrives_whole(start_rig: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 24 << 20

    async def live(self: V2, asked: object) -> Response:
        return Response(bytes(size))

    monkeypatch.setattr(V2, "live", live)
    monkeypatch.setattr(http_port_module, "_SWEEP", 0.05)
    rig = start_rig("--upload-seconds=0.5")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.settimeout(TIMEOUT)
        connection.connect(("127.0.0.1", port_of(rig)))
        connection.sendall(GET)
        came = 0
        while came < size and (piece := connection.recv(1 << 18)):
            came += len(piece)
            time.sleep(0.01)
    assert came >= size


def _send_many(connection: socket.socket) -> None:
    try:
        for _ in range(2000):
            connection.sendall(b"GET /page/page.js HTTP/1.1\r\nHost: a\r\n\r\n")
    except OSError:
        return


def test_a_drain_answers_what_is_there_and_closes_what_is_idle(start_rig: Start) -> None:
    rig = start_rig()
    port = port_of(rig)
    rig.network.hold()
    answers = list[Answer]()
    asking = threading.Thread(target=lambda: answers.append(ask(port, "/classify", picture())))
    with connected(port) as idle:
        idle.sendall(GET)
        read_answer(idle)
        asking.start()
        rig.network.begun()
        rig.stop()
        assert until_closed(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            ask(port, "/v2/health/live")
        rig.network.let()
        asking.join(TIMEOUT)
    assert answers[0].status == 200


def test_what_a_drain_has_no_time_for_is_told_so(start_rig: Start) -> None:
    rig = start_rig("--drain-seconds=0.2")
    port = port_of(rig)
    rig.network.hold()
    answers = list[Answer]()
    asking = threading.Thread(target=lambda: answers.append(ask(port, "/classify", picture())))
    asking.start()
    rig.network.begun()
    rig.stop()
    asking.join(TIMEOUT)
    rig.network.let()
    assert (answers[0].status, answers[0].reason) == (503, "DRAINING")


def test_while_a_drain_is_announced_requests_are_answered(start_rig: Start) -> None:
    rig = start_rig()
    port = port_of(rig)
    rig.server.life.draining = True
    asyncio.run_coroutine_threadsafe(rig.server.tell(), rig.loop).result(TIMEOUT)
    assert ask(port, "/v2/health/ready").status == 503
    assert ask(port, "/v2/health/live").status == 200
    assert ask(port, "/classify", picture()).status == 200


def test_a_port_that_is_taken_is_told_by_its_name(inside: Callable[..., Inside]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortTakenError, match="GLIMPSE_HTTP_PORT"):
            inside(http_port=taken.getsockname()[1])


@pytest.mark.ci
def test_without_the_setting_there_is_no_port_and_nothing_is_loaded() -> None:
    script = "import sys, glimpse.server.app; print([each for each in sys.modules if each in {'uvicorn', 'starlette'}])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"[]\n"
