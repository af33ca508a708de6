"""The audit log: a line a call, that tells who and what, and nothing that is nobody's business."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from glimpse.server.access.audit import Audit
from glimpse.server.access.call_context import CallContext
from glimpse.server.processes.startup import StartupError
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.inside import IN, Inside, bearer, channel, classify, entry, healthy, until
from tests.server.conftest import TIMEOUT

SECRET = "n0body-must-see-this-t0ken"  # noqa: S105 - of a test
PICTURE = b"a picture of somebody"


def lines(file: Path, count: int) -> list[dict[str, Any]]:
    """The lines, once there are so many."""
    until(lambda: file.exists() and file.read_text().count("\n") >= count)
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def call() -> CallContext:
    return CallContext("an id", "a method", "ipv4:192.0.2.7:40000", identity="alice", images=2, bytes=10)


def write(audit: Audit, call: CallContext) -> None:
    audit.write(call, code="OK", reason="", seconds=0.25)


def test_each_call_and_each_piece_of_a_stream_has_its_line(inside: Callable[..., Inside], tmp_path: Path) -> None:
    tokens, file = tmp_path / "tokens.toml", tmp_path / "audit.jsonl"
    tokens.write_text(entry("alice", SECRET))
    running = inside(tokens=tokens, audit_log=file, rate_limit=0.001, rate_burst=5)
    before = datetime.now(UTC)
    with channel(running.target) as caller:
        stub = ImageClassifierStub(caller)
        request = pb.ClassifyRequest(images=[pb.Image(encoded=PICTURE)] * 2, model=pb.ModelSelector(name="m"))
        assert healthy(caller)
        assert classify(caller, (("x-request-id", "one"), *bearer(SECRET))) == IN
        assert classify(caller, (("x-request-id", "two"), *bearer(SECRET + "!"))) == "TOKEN_REFUSED"
        pieces = [pb.ClassifyStreamRequest(id=name, request=request) for name in ("p1", "p2", "p3")]
        stream = stub.ClassifyStream(
            iter(pieces), timeout=TIMEOUT, metadata=(("x-request-id", "three"), *bearer(SECRET))
        )
        assert len(list(stream)) == 3
    written = lines(file, 6)
    for line in written:
        assert before <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
        assert line.pop("peer").startswith("ipv4:127.0.0.1:")
        assert 0 <= line.pop("seconds") < TIMEOUT
    known = {"identity": "alice", "method": "glimpse.v1.ImageClassifier/Classify", "model": ""}
    assert written[0] == {
        **known, "request_id": "one", "images": 1, "bytes": 10, "code": "UNAVAILABLE", "reason": IN
    }  # fmt: skip
    assert written[1] == {
        **known, "identity": "", "request_id": "two", "images": 0, "bytes": 0,
        "code": "UNAUTHENTICATED", "reason": "TOKEN_REFUSED",
    }  # fmt: skip
    known |= {"request_id": "three", "method": "glimpse.v1.ImageClassifier/ClassifyStream", "model": "m"}
    piece = {**known, "images": 2, "bytes": 42}
    assert sorted(written[2:5], key=lambda line: str(line["piece"])) == [
        {**piece, "piece": "p1", "code": "UNAVAILABLE", "reason": IN},
        {**piece, "piece": "p2", "code": "UNAVAILABLE", "reason": IN},
        {**piece, "piece": "p3", "code": "RESOURCE_EXHAUSTED", "reason": "RATE_LIMITED"},
    ]
    assert written[5] == {**known, "images": 6, "bytes": 126, "code": "OK", "reason": ""}
    assert SECRET not in file.read_text()
    assert PICTURE.decode() not in file.read_text()


def test_a_new_file_is_its_owner_s_alone_and_an_old_one_is_kept(tmp_path: Path, call: CallContext) -> None:
    file = tmp_path / "audit.jsonl"
    for count in (1, 2):
        audit = Audit(file)
        write(audit, call)
        audit.close()
        assert len(lines(file, count)) == count
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_renamed_away_is_begun_anew(tmp_path: Path, call: CallContext) -> None:
    file, rotated = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    audit = Audit(file)
    write(audit, call)
    lines(file, 1)
    file.rename(rotated)
    call.request_id = "another"
    write(audit, call)
    audit.close()
    assert [line["request_id"] for line in lines(rotated, 1)] == ["an id"]
    assert [line["request_id"] for line in lines(file, 1)] == ["another"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_caller_cannot_forge_a_line(tmp_path: Path, call: CallContext) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.write(call, code="OK", reason="", seconds=1, stream_id='x"}\n{"identity": "root"}\r\u2028')
    audit.close()
    assert len(lines(tmp_path / "audit.jsonl", 1)) == 1
    assert (tmp_path / "audit.jsonl").read_text().isascii()


def test_a_full_disk_fails_no_call_and_is_told_once(inside: Callable[..., Inside]) -> None:
    with structlog.testing.capture_logs() as logged:

        def told() -> list[str]:
            return [line["detail"] for line in logged if line["event"] == "audit lines are lost"]

        running = inside(audit_log=Path("/dev/full"))
        with channel(running.target) as caller:
            assert [classify(caller) for _ in range(20)] == [IN] * 20
        until(lambda: bool(told()))
        with channel(running.target) as caller:
            assert [classify(caller) for _ in range(20)] == [IN] * 20
        audit = running.server._ports._access.audit
        assert audit is not None
        until(audit._queue.empty)
        assert told() == ["/dev/full: No space left on device"]


def test_a_folder_that_went_away_is_told_once_and_lines_come_again_with_it(tmp_path: Path, call: CallContext) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with structlog.testing.capture_logs() as logged:
        audit = Audit(folder / "audit.jsonl")
        write(audit, call)
        lines(folder / "audit.jsonl", 1)
        folder.rename(tmp_path / "elsewhere")
        for _ in range(5):
            write(audit, call)
        until(lambda: audit._queue.empty() and bool(logged))
        (tmp_path / "elsewhere").rename(folder)
        write(audit, call)
        audit.close()
    assert len(lines(folder / "audit.jsonl", 2)) >= 2
    assert [line["event"] for line in logged] == ["audit lines are lost"]


def test_while_the_disk_hangs_calls_go_on_and_only_so_many_lines_wait(tmp_path: Path, call: CallContext) -> None:
    """While the disk hangs, calls go on, and no more lines wait than there is room for."""
    audit = Audit(tmp_path / "audit.jsonl")
    answers = threading.Event()
    audit._handler.addFilter(lambda _: answers.wait(TIMEOUT))
    with structlog.testing.capture_logs() as logged:
        for _ in range(audit._queue.maxsize + 100):
            write(audit, call)
    # A server of an earlier test may sum up meanwhile what it left out of the log.
    assert [line["event"] for line in logged if "audit" in line["event"]] == ["audit lines are lost"]
    answers.set()
    until(audit._queue.empty)
    audit.close()
    assert audit._queue.maxsize <= len(lines(tmp_path / "audit.jsonl", 1)) < audit._queue.maxsize + 100


def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"nowhere/audit\.jsonl cannot be opened: No such file"):
        Audit(tmp_path / "nowhere" / "audit.jsonl")
