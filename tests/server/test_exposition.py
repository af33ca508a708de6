"""What scrapers can and cannot do to the metrics port."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from glimpse.server.metrics import exposition
from glimpse.server.metrics.exposition import Exposition

LONG = 30.0  # seconds; until something is called hung


@pytest.fixture
def exposed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exposition]:
    # Else the kernel drops some of those who come at once, and they try again after one, three and seven seconds.
    monkeypatch.setattr(exposition._Server, "request_queue_size", 128)
    registry = CollectorRegistry()
    Gauge("answer", "To everything.", registry=registry).set(42)
    exposed = Exposition("127.0.0.1", 0, registry)
    yield exposed
    exposed.close()


def scraped(exposed: Exposition) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{exposed.port}/metrics", timeout=LONG) as answer:
        return str(answer.read().decode())


def connected(exposed: Exposition) -> socket.socket:
    return socket.create_connection(("127.0.0.1", exposed.port), timeout=LONG)


def test_the_start_asks_no_resolver_for_the_name_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none answers, that would take many seconds, in which nothing listens."""
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("the resolver was asked"))
    Exposition("127.0.0.1", 0, CollectorRegistry()).close()


def test_a_scrape_is_answered(exposed: Exposition) -> None:
    assert "answer 42.0" in scraped(exposed)


def test_who_only_connects_is_sent_away_and_takes_only_the_places_there_are(
    exposed: Exposition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only connects is sent away, and takes no more than the places that there are."""
    monkeypatch.setattr(exposition, "_SECONDS", 0.5)
    before = threading.active_count()
    with contextlib.ExitStack() as silent:
        idle = [silent.enter_context(connected(exposed)) for _ in range(100)]
        assert all(each.recv(1) == b"" for each in idle), "somebody was answered"
        assert threading.active_count() <= before + exposition._AT_ONCE
    for _ in range(100):
        # The places of those who were sent away are free in a moment.
        with contextlib.suppress(ConnectionError, urllib.error.URLError):
            assert "answer 42.0" in scraped(exposed)
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("nobody is let in any more")


def test_who_sends_without_end_is_sent_away(exposed: Exposition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_SECONDS", 0.5)
    with connected(exposed) as endless, contextlib.suppress(ConnectionError):
        endless.sendall(b"GET /metrics HTTP/1.1\r\n")
        endless.settimeout(0.1)
        for number in range(600):
            with contextlib.suppress(TimeoutError):
                if endless.recv(1) == b"":
                    break
            endless.sendall(b"x-%d: y\r\n" % number)
        else:
            pytest.fail("it went on for a minute")
    assert "answer 42.0" in scraped(exposed)


@pytest.mark.parametrize(
    "request_line", [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01"]
)
def test_nonsense_costs_nobody_else_anything(exposed: Exposition, request_line: bytes) -> None:
    with connected(exposed) as strange:
        strange.sendall(request_line)
    assert "answer 42.0" in scraped(exposed)


def test_an_address_that_is_taken_is_an_error(exposed: Exposition) -> None:
    with pytest.raises(OSError, match="in use"):
        Exposition("127.0.0.1", exposed.port, CollectorRegistry())


def test_it_can_be_reached_over_ipv6() -> None:
    exposed = Exposition("::1", 0, CollectorRegistry())
    try:
        with socket.create_connection(("::1", exposed.port), timeout=LONG) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert b" 200 OK" in scraper.recv(1000)
    finally:
        exposed.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only there all of 127.0.0.0/8 is the machine's own")
def test_one_address_cannot_keep_another_one_out(exposed: Exposition) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(100):
            idle = silent.enter_context(socket.socket())
            idle.bind(("127.0.0.2", 0))
            idle.connect(("127.0.0.1", exposed.port))
        for _ in range(20):
            assert "answer 42.0" in scraped(exposed)
