"""The fetch of published checkpoints, against a real HTTP server on this machine that misbehaves on demand."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.models.published import Checksum, DownloadPolicy, FetchError, fetch
from tests.models.web import (
    BODY,
    HALF,
    QUICK,
    Behaviour,
    Handler,
    Server,
    checkpoint,
    hung_up,
    leftovers,
    reset,
    send,
    serving,
    silent,
    stalled,
    status,
    truncated,
    whole,
    without_ranges,
)
from tests.variations import mostly_in_ci


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as state:
        yield state


def test_a_checkpoint_is_fetched_once_and_its_hash_is_recorded(server: Server, tmp_path: Path) -> None:
    path = fetch(checkpoint(server.url), tmp_path / "new" / "cache")
    assert path == tmp_path / "new" / "cache" / "net.h5"
    assert path.read_bytes() == BODY
    assert leftovers(path.parent) == {"net.h5", "net.h5.sha256"}
    assert (path.parent / "net.h5.sha256").read_text() == f"{hashlib.sha256(BODY).hexdigest()}  net.h5\n"
    assert fetch(checkpoint(server.url), path.parent) == path
    assert len(server.requests) == 1
    assert server.requests[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("digits", [8, 9, 64])
def test_the_first_digits_of_a_sha256_are_enough_where_no_more_are_stated(
    server: Server, tmp_path: Path, digits: int
) -> None:
    stated = Checksum("sha256", hashlib.sha256(BODY).hexdigest()[:digits])
    assert fetch(checkpoint(server.url, stated), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("broken", [truncated, stalled, reset])
def test_a_download_that_breaks_off_goes_on_where_it_was(server: Server, tmp_path: Path, broken: Behaviour) -> None:
    server.script = [broken]
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    begin = server.ranges()[1]
    assert begin is not None
    assert 0 < int(begin.removeprefix("bytes=").removesuffix("-")) <= HALF
    assert server.requests[1]["if-range"] == server.etag
    assert leftovers(tmp_path) == {"net.h5", "net.h5.sha256"}


def test_attempts_are_counted_anew_whenever_the_file_has_grown(server: Server, tmp_path: Path) -> None:
    def a_tenth_more(handler: Handler) -> None:
        asked = handler.headers.get("Range", "bytes=0-")
        send(handler, upto=int(asked[6:-1]) + 1024)

    server.script = [a_tenth_more, hung_up, hung_up] * 9
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    assert len(server.requests) == 28


@pytest.mark.parametrize(
    "trouble",
    [silent, hung_up, status(500), status(503), status(429), status(408)],
    ids=lambda b: getattr(b, "__name__", ""),
)
def test_what_may_pass_is_tried_again(server: Server, tmp_path: Path, trouble: Behaviour) -> None:
    server.script = [trouble, trouble]
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    assert len(server.requests) == 3


def test_a_server_that_asks_for_time_is_given_it_within_reason(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.script = [status(503, Retry_After="7"), status(503, Retry_After="99999"), status(503, Retry_After="soon")]
    fetch(checkpoint(server.url), tmp_path, policy=DownloadPolicy(attempts=4, backoff=0.0))
    assert waits == [7.0, 60.0, 0.0]


def test_the_pauses_between_attempts_grow(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.script = [status(500)] * 4
    with pytest.raises(FetchError, match="answers 500"):
        fetch(checkpoint(server.url), tmp_path, policy=DownloadPolicy(attempts=4, backoff=8.0))
    assert len(waits) == 3
    assert all(8 * 2**n * 0.5 <= wait <= 8 * 2**n * 1.5 for n, wait in enumerate(waits))


def test_a_server_that_ignores_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.script = [truncated, without_ranges]
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    assert server.ranges() == [None, f"bytes={HALF}-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(server: Server, tmp_path: Path) -> None:
    def changes(handler: Handler) -> None:
        server.body, server.etag = BODY, '"second"'
        whole(handler)

    server.body = BODY[::-1]
    server.script = [truncated, changes]
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY


@pytest.mark.parametrize("etag", ["", 'W/"weak"', "unquoted"])
def test_without_a_strong_etag_nothing_is_gone_on_with(server: Server, tmp_path: Path, etag: str) -> None:
    server.etag = etag
    server.script = [truncated]
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    assert server.ranges() == [None, None]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.h5.part").write_bytes(BODY * 2)
    (tmp_path / "net.h5.part.etag").write_text(server.etag)
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    assert server.ranges() == [f"bytes={2 * len(BODY)}-", None]


def test_a_part_whose_bytes_are_wrong_is_fetched_once_more_from_its_beginning(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.h5.part").write_bytes(b"\0" * HALF)
    (tmp_path / "net.h5.part.etag").write_text(server.etag)
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    assert server.ranges() == [f"bytes={HALF}-", None]


@pytest.mark.parametrize(
    "span", [f"bytes 0-{len(BODY) - 1}/{len(BODY)}", f"bytes {HALF}-{HALF + 9}/{len(BODY)}", "junk"]
)
def test_another_part_than_the_one_asked_for_is_not_taken(server: Server, tmp_path: Path, span: str) -> None:
    def another(handler: Handler) -> None:
        handler.start(206, 10, Content_Range=span)
        handler.wfile.write(b"\0" * 10)

    server.script = [truncated, another]
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY


def test_chunks_are_understood_and_their_end_is_not_taken_for_granted(server: Server, tmp_path: Path) -> None:
    def chunked(*, ended: bool) -> Behaviour:
        def behave(handler: Handler) -> None:
            handler.start(200, None, Transfer_Encoding="chunked")
            for piece in (BODY[:1000], BODY[1000:]):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.write(b"0\r\n\r\n" if ended else b"")

        return behave

    server.etag = ""
    server.script = [chunked(ended=False), chunked(ended=True)]
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    assert len(server.requests) == 2


def test_a_few_redirects_are_followed_and_keep_the_range(server: Server, tmp_path: Path) -> None:
    server.script = [truncated, status(302, Location="/elsewhere"), status(307, Location="/there")]
    assert fetch(checkpoint(server.url), tmp_path, policy=QUICK).read_bytes() == BODY
    assert [headers[":path"] for headers in server.requests[1:]] == ["/models/net.h5", "/elsewhere", "/there"]
    assert server.ranges()[1:] == [f"bytes={HALF}-"] * 3


@pytest.mark.parametrize("examples", mostly_in_ci([10, 40], 10))
def test_however_a_download_is_cut_up_the_file_comes_out_whole(
    server: Server, tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    policy = DownloadPolicy(timeout=5.0, attempts=20, backoff=0.0, rate=0.0)

    def cut(upto: int, *, ranges: bool, replaced: bool) -> Behaviour:
        def behave(handler: Handler) -> None:
            if replaced:
                server.etag = f'"{len(server.requests)}"'
            send(handler, upto=upto, ranges=ranges)

        return behave

    @settings(max_examples=examples)
    @given(
        cuts=st.lists(st.tuples(st.integers(0, len(BODY)), st.booleans(), st.booleans()), max_size=6),
        start=st.integers(0, len(BODY) + 5),
    )
    def comes_out_whole(cuts: list[tuple[int, bool, bool]], start: int) -> None:
        cache = tmp_path_factory.mktemp("cache")
        (cache / "net.h5.part").write_bytes(BODY[:start])
        (cache / "net.h5.part.etag").write_text(server.etag)
        server.requests.clear()
        server.script = [cut(upto, ranges=ranges, replaced=replaced) for upto, ranges, replaced in cuts]
        assert fetch(checkpoint(server.url), cache, policy=policy).read_bytes() == BODY

    comes_out_whole()
