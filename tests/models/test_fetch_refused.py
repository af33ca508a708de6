"""Downloads that are refused or given up: each says why, and leaves nothing that could be taken for the file."""

from __future__ import annotations

import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimpse.models.published import DownloadPolicy, FetchError, fetch
from glimpse.models.published import download as downloads
from tests.models.web import (
    BODY,
    HALF,
    MD5,
    QUICK,
    Behaviour,
    Handler,
    Server,
    answers,
    checkpoint,
    hung_up,
    leftovers,
    serving,
    status,
    truncated,
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as state:
        yield state


def refused(server: Server, tmp_path: Path, policy: DownloadPolicy = QUICK) -> str:
    """The message with which a fetch is refused; nothing that could be taken for the file is left."""
    with pytest.raises(FetchError) as error:
        fetch(checkpoint(server.url), tmp_path, policy=policy)
    assert not (tmp_path / "net.h5").exists()
    return str(error.value)


def test_wrong_bytes_never_reach_the_cache(server: Server, tmp_path: Path) -> None:
    server.body = BODY[::-1]
    message = refused(server, tmp_path)
    assert hashlib.md5(BODY[::-1]).hexdigest() in message  # noqa: S324 - as published
    assert f"not md5 {MD5}" in message
    assert leftovers(tmp_path) == set()
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 403, 404, 410, 418])
def test_a_plain_no_is_not_asked_again(server: Server, tmp_path: Path, code: int) -> None:
    server.script = [status(code)]
    assert f"the server answers {code}" in refused(server, tmp_path)
    assert len(server.requests) == 1


def test_a_server_that_never_gets_further_is_given_up_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.script = [truncated, truncated, hung_up, hung_up]
    assert "cannot be downloaded" in refused(server, tmp_path)
    assert (tmp_path / "net.h5.part").read_bytes() == BODY[:HALF]
    server.requests.clear()
    assert fetch(checkpoint(server.url), tmp_path).read_bytes() == BODY
    assert server.ranges() == [f"bytes={HALF}-"]


def test_without_a_network_the_error_says_what_to_put_where(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/net.h5"
        with pytest.raises(FetchError) as error:
            fetch(checkpoint(url), tmp_path, policy=QUICK)
    for fact in ("net.h5", f"MD5 is {MD5}", url, str(tmp_path)):
        assert fact in str(error.value)


def test_redirects_that_never_end_are_not_followed(server: Server, tmp_path: Path) -> None:
    server.script = [status(302, Location=f"/{n}") for n in range(30)]
    assert "cannot be downloaded" in refused(server, tmp_path)
    assert len(server.requests) <= 6


@pytest.mark.parametrize("target", ["http://example.com/net.h5", "ftp://127.0.0.1/net.h5", "file:///etc/passwd"])
def test_a_redirect_never_leads_to_a_file_or_to_what_is_not_encrypted(
    server: Server, tmp_path: Path, target: str
) -> None:
    server.script = [status(302, Location=target)]
    refused(server, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url", ["http://example.com/net.h5", "file:///etc/passwd", "ftp://example.com/net.h5", "net.h5"]
)
def test_only_https_is_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError, match="is not HTTPS"):
        fetch(checkpoint(url), tmp_path)


def test_https_never_leads_back_to_this_machine() -> None:
    with pytest.raises(FetchError, match="redirects to http://127"):
        downloads._refuse_insecure("http://127.0.0.1/net.h5", after="https://example.com/net.h5")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_a_certificate_that_nobody_vouches_for_is_not_asked_again(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    accepted: list[OSError | None] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, pytest.raises(OSError) as error:
            context.wrap_socket(connection, server_side=True)
        accepted.append(error.value)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(FetchError, match="cannot be trusted: self"):
            fetch(checkpoint(f"https://127.0.0.1:{listener.getsockname()[1]}/net.h5"), tmp_path, policy=QUICK)
        thread.join()
    assert len(accepted) == 1


@pytest.mark.parametrize(
    "answer",
    [
        answers(b"<html>", 6, Content_Type="text/html; charset=utf-8"),
        answers(b"packed", 6, Content_Encoding="gzip"),
        answers(b"", 0),
        status(204),
    ],
)
def test_what_is_not_the_bare_file_is_refused_and_loses_nothing_that_had_come(
    server: Server, tmp_path: Path, answer: Behaviour
) -> None:
    """What is not the bare file is refused, and costs nothing of what came before."""
    server.script = [truncated, answer]
    assert "not with the file itself" in refused(server, tmp_path)
    assert len(server.requests) == 2
    assert fetch(checkpoint(server.url), tmp_path).read_bytes() == BODY
    assert server.ranges()[2] == f"bytes={HALF}-"


def test_a_file_of_unknown_length_is_refused_because_it_could_end_anywhere(server: Server, tmp_path: Path) -> None:
    server.script = [answers(BODY)]
    assert "does not state the size of the file" in refused(server, tmp_path)


def test_a_file_that_says_it_is_too_large_is_not_begun(server: Server, tmp_path: Path) -> None:
    assert "10240 bytes" in refused(server, tmp_path, DownloadPolicy(limit=len(BODY) - 1))
    assert not (tmp_path / "net.h5.part").exists()


def test_a_file_that_does_not_say_so_is_stopped_when_it_is_too_large(server: Server, tmp_path: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.start(200, None, Transfer_Encoding="chunked")
        while True:
            handler.wfile.write(b"400\r\n" + b"\0" * 1024 + b"\r\n")

    def until_refused(handler: Handler) -> None:
        with pytest.raises(ConnectionError):
            endless(handler)

    server.script = [until_refused]
    assert "the limit for a checkpoint is 100000" in refused(server, tmp_path, DownloadPolicy(limit=100_000))
    assert leftovers(tmp_path) == set()


def test_a_file_that_has_no_room_is_not_begun(server: Server, tmp_path: Path) -> None:
    server.script = [answers(b"", 1 << 60)]
    message = refused(server, tmp_path, DownloadPolicy(limit=1 << 62))
    assert "There is not enough disk space" in message
    assert "GLIMPSE_CACHE" in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device on which there is never room")
def test_a_disk_that_fills_up_meanwhile_is_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("ab", buffering=0) as full:
        monkeypatch.setattr(downloads, "open_for_append", lambda _: full)
        assert "No space left on device" in refused(server, tmp_path)


def test_a_folder_that_cannot_be_made_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match="GLIMPSE_CACHE"):
        fetch(checkpoint(server.url), tmp_path / "file" / "cache")
