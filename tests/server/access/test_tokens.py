"""Bearer tokens: who has a good one comes in, whoever has not does not, and the file may change at any time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import structlog
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from glimpse.server.access.rates import Allowance
from glimpse.server.access.tokens import Holder, Tokens, main
from glimpse.server.errors import Reason, UnauthenticatedError
from glimpse.server.processes.startup import CredentialsError
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import ROOT
from tests.server.access.inside import (
    IN,
    Inside,
    Metadata,
    bearer,
    channel,
    classify,
    entry,
    healthy,
    replace,
    told,
    until,
)
from tests.server.conftest import TIMEOUT

USUAL = Allowance(5.0, 64)
SECRET = "n0body-must-see-this-t0ken"  # noqa: S105 - of a test


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "TOKEN_MISSING"),
        ((("authorization", "Basic YWxpY2U6c2VjcmV0"),), "TOKEN_MISSING"),
        ((("authorization", SECRET),), "TOKEN_MISSING"),
        ((*bearer("one"), *bearer("two")), "TOKEN_MISSING"),
        (bearer("wrong"), "TOKEN_REFUSED"),
        (bearer(""), "TOKEN_REFUSED"),
        (bearer(SECRET + "x"), "TOKEN_REFUSED"),
        (bearer("once-good"), "TOKEN_REFUSED"),
    ],
)
def test_without_a_good_token_nobody_comes_in_and_with_one_somebody_does(
    inside: Callable[..., Inside], file: Path, metadata: Metadata, reason: str
) -> None:
    file.write_text(entry("alice", SECRET) + entry("bob", "once-good", "expires = 2020-01-01T00:00:00Z"))
    running = inside(tokens=file)
    with channel(running.target) as stranger, channel(running.target) as alice:
        assert classify(alice, bearer(SECRET)) == IN
        assert classify(stranger, metadata) == reason
        assert classify(alice, (("authorization", f"bEARER {SECRET}"),)) == IN


def test_all_but_health_wants_a_token(inside: Callable[..., Inside], file: Path) -> None:
    file.write_text(entry("alice", "a"))
    running = inside(tokens=file)

    def outcome(call: Callable[[], object]) -> str:
        try:
            call()
        except grpc.RpcError as error:
            return told(error)
        return "answered"

    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with channel(running.target) as caller:
        stub, reflection = ImageClassifierStub(caller), ServerReflectionStub(caller)

        def outcomes(shown: Metadata) -> list[str]:
            described = pb.DescribeModelRequest()
            piece = pb.ClassifyStreamRequest(id="1", request=pb.ClassifyRequest(images=[pb.Image(encoded=b"x")]))
            return [
                outcome(lambda: stub.DescribeModel(described, timeout=TIMEOUT, metadata=shown)),
                outcome(lambda: list(stub.ClassifyStream(iter([piece]), timeout=TIMEOUT, metadata=shown))),
                outcome(lambda: list(reflection.ServerReflectionInfo(iter([asked]), timeout=TIMEOUT, metadata=shown))),
            ]

        assert outcomes(()) == ["TOKEN_MISSING"] * 3
        assert outcomes(bearer("b")) == ["TOKEN_REFUSED"] * 3
        assert outcomes(bearer("a")) == [IN, "answered", "answered"]
        assert healthy(caller)


def test_a_refused_caller_s_message_is_never_read(inside: Callable[..., Inside], file: Path) -> None:
    file.write_text(entry("alice", "a"))
    running = inside(tokens=file, max_message_bytes=100_000, max_image_bytes=100_000)
    with channel(running.target) as caller:
        # Were it read, it would be told that it is too long.
        assert classify(caller, size=1_000_000) == "TOKEN_MISSING"
        assert classify(caller, bearer("a"), size=1_000_000) == "RESOURCE_EXHAUSTED"
        assert classify(caller, bearer("a")) == IN


def test_tokens_are_rotated_and_removed_by_their_file_without_a_restart(
    inside: Callable[..., Inside], file: Path
) -> None:
    file.write_text(entry("alice", "old") + entry("bob", "b"))
    running = inside(tokens=file, reload_seconds=0.02)
    with channel(running.target) as caller:
        assert [classify(caller, bearer(token)) for token in ("old", "new", "b")] == [IN, "TOKEN_REFUSED", IN]
        replace(file, entry("alice", "old") + entry("alice", "new") + entry("bob", "b"))
        until(lambda: classify(caller, bearer("new")) == IN)
        assert classify(caller, bearer("old")) == IN
        replace(file, entry("alice", "new") + entry("bob", "b"))
        until(lambda: classify(caller, bearer("old")) == "TOKEN_REFUSED")
        assert [classify(caller, bearer(token)) for token in ("new", "b")] == [IN, IN]


@pytest.mark.parametrize("broken", ["", "[[token]]\nidentity = ", "[[token]]\nidentity = 'alice'\n", "\x00\xff"])
def test_a_file_that_broke_leaves_the_old_tokens_and_is_told_once(file: Path, broken: str) -> None:
    file.write_text(entry("alice", "a"))
    tokens = Tokens(file, USUAL)
    file.write_text(broken, encoding="latin-1")
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            tokens.look()
    assert [(line["log_level"], line["event"]) for line in logged] == [("warning", "kept the old")]
    assert str(file) in logged[0]["detail"]
    assert tokens.holder(["Bearer a"]).identity == "alice"
    file.unlink()
    with structlog.testing.capture_logs() as logged:
        tokens.look()
    assert "cannot be read: No such file" in logged[0]["detail"]
    assert tokens.holder(["Bearer a"]).identity == "alice"
    file.write_text(entry("alice", "b"))
    with structlog.testing.capture_logs() as logged:
        tokens.look()
    assert [line["event"] for line in logged] == ["took the new"]
    assert tokens.holder(["Bearer b"]).identity == "alice"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "token: Field required"),
        ("token = []", "at least 1 item"),
        (entry("alice", "a", "color = 1"), "token.0.color is not a key of this file. Available: identity, sha256"),
        ("tokens = 1\n" + entry("alice", "a"), "tokens is not a key of this file. Did you mean token?"),
        (entry("alice", "a", "images_per_secnd = 1"), "Did you mean images_per_second?"),
        (entry("alice", "a", "expires = 2027-01-01T00:00:00"), "expires: Input should have timezone info"),
        (entry("alice", "a", "images_per_second = -1"), "images_per_second"),
        (entry("alice", "a", "burst = 0"), "burst"),
        (entry("", "a"), "token.0.identity"),
        (entry("two words", "a"), "token.0.identity"),
        (f"[[token]]\nidentity = 'alice'\nsha256 = '{SECRET}'", "token.0.sha256"),
        (f"[[token]]\nidentity = 'alice'\nsha256 = {SECRET}", "is not valid TOML: at line 3"),
        (f'[[token]]\nidentity = "{SECRET}', "is not valid TOML"),
        (entry("alice", "a") + entry("bob", "a"), "the same sha256 twice"),
        (entry("alice", "a", "burst = 5") + entry("alice", "b"), "identity alice different"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_without_repeating_what_is_in_it(
    file: Path, content: str, what: str
) -> None:
    file.write_text(content)
    with pytest.raises(CredentialsError) as refused:
        Tokens(file, USUAL)
    assert what in str(refused.value)
    assert str(file) in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_file_may_have_a_byte_order_mark(file: Path, encoding: str) -> None:
    file.write_bytes(entry("alice", "a").replace("\n", "\r\n").encode(encoding))
    assert Tokens(file, USUAL).holder(["Bearer a"]).identity == "alice"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], Reason.TOKEN_MISSING),
        (["Bearer a", "Bearer a"], Reason.TOKEN_MISSING),
        (["a"], Reason.TOKEN_MISSING),
        (["Basic a"], Reason.TOKEN_MISSING),
        (["Bearer"], Reason.TOKEN_MISSING),
        (["Bearer "], Reason.TOKEN_REFUSED),
        (["Bearer b"], Reason.TOKEN_REFUSED),
        (["Bearer \udcff"], Reason.TOKEN_REFUSED),  # bytes that are no text
    ],
)
def test_what_is_no_good_token_is_refused_by_its_reason(file: Path, headers: list[str], reason: Reason) -> None:
    file.write_text(entry("alice", "a"))
    tokens = Tokens(file, USUAL)
    with pytest.raises(UnauthenticatedError) as refused:
        tokens.holder(headers)
    assert refused.value.reason is reason
    assert [tokens.holder([header]).identity for header in ("Bearer a", "bearer  a ", "BEARER a")] == ["alice"] * 3


def test_each_token_of_many_is_its_own_holder_s(file: Path) -> None:
    file.write_text("".join(entry(f"caller-{number}", str(number)) for number in range(5)))
    tokens = Tokens(file, USUAL)
    assert [tokens.holder([f"Bearer {number}"]).identity for number in range(5)] == [f"caller-{n}" for n in range(5)]


def test_what_an_entry_may_say_has_bounds(file: Path) -> None:
    bounds = f"burst = {2**31 - 1}\nimages_per_second = 0"
    file.write_text(entry("a" * 128, "a", bounds))
    assert Tokens(file, USUAL).holder(["Bearer a"]) == Holder("a" * 128, Allowance(0.0, 2**31 - 1))
    for identity, more in (("a" * 129, ""), ("a", f"burst = {2**31}"), ("a", "images_per_second = inf")):
        file.write_text(entry(identity, "a", more))
        with pytest.raises(CredentialsError):
            Tokens(file, USUAL)


def test_it_says_whether_the_file_has_become_useless(file: Path) -> None:
    file.write_text(entry("alice", "a"))
    tokens = Tokens(file, USUAL)
    tokens.look()
    assert tokens.stale is False
    file.write_text("useless")
    tokens.look()
    assert tokens.stale is True
    file.write_text(entry("alice", "b"))
    tokens.look()
    assert tokens.stale is False


def test_a_file_that_is_no_text_is_refused_without_a_word_of_it(file: Path) -> None:
    file.write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(CredentialsError) as refused:
        Tokens(file, USUAL)
    assert str(refused.value) == f"{file} is not valid TOML: the text is incomplete or not UTF-8."


def test_a_token_is_good_until_it_expires(file: Path) -> None:
    now = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    file.write_text(entry("alice", "a", "expires = 2027-01-01T02:00:00+02:00"))
    tokens = Tokens(file, USUAL, clock=lambda: now)
    assert tokens.holder(["Bearer a"]) == Holder("alice", None)
    now += timedelta(seconds=1)
    with pytest.raises(UnauthenticatedError, match="expired at 2027-01-01") as refused:
        tokens.holder(["Bearer a"])
    assert refused.value.reason is Reason.TOKEN_REFUSED


def test_half_an_allowance_has_its_other_half_from_the_settings(file: Path) -> None:
    file.write_text(entry("a", "a", "burst = 7") + entry("b", "b", "images_per_second = 2") + entry("c", "c"))
    tokens = Tokens(file, USUAL)
    assert [tokens.holder([f"Bearer {who}"]).allowance for who in "abc"] == [
        Allowance(5.0, 7),
        Allowance(2.0, 64),
        None,
    ]


def test_nothing_of_a_token_is_logged_and_tokens_without_tls_are(inside: Callable[..., Inside], file: Path) -> None:
    file.write_text(entry("alice", SECRET))
    with structlog.testing.capture_logs() as logged:
        running = inside(tokens=file)
        with channel(running.target) as caller:
            assert classify(caller, bearer(SECRET)) == IN
            assert classify(caller, bearer(SECRET[:-1])) == "TOKEN_REFUSED"
            assert classify(caller, (("authorization", SECRET),)) == "TOKEN_MISSING"
        until(lambda: sum(line["event"] == "rpc" for line in logged) == 3)
    assert "tokens without TLS" in {line["event"] for line in logged}
    assert SECRET[:-1] not in str(logged)


def test_the_program_makes_a_token_and_the_entry_that_lets_it_in(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-W", "error", "-m", "glimpse.server.access.tokens", "new", "alice"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    made, entries = [ended.stderr.split()[-1]], [ended.stdout]
    for name in ("o'hara\\", 'a"quote'):
        assert main(["new", name]) == 0
        printed = capsys.readouterr()
        made.append(printed.err.split()[-1])
        entries.append(printed.out)
    file.write_text("".join(entries))
    tokens = Tokens(file, USUAL)
    assert [tokens.holder([f"Bearer {token}"]).identity for token in made] == ["alice", "o'hara\\", 'a"quote']
    assert all(len(token) == 43 and token not in file.read_text() for token in made)


@pytest.mark.parametrize("arguments", [["--help"], ["new", "--help"], ["new", "-h"], ["new", "alice", "--help"]])
def test_asking_for_help_makes_no_token(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("usage: python -m glimpse.server.access.tokens ")
    assert "sha256" not in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["new"],
        ["old", "alice"],
        ["new", "two words"],
        ["new", "--force"],
        ["new", "-x"],
        ["new", "alice", "bob"],
        ["new", "alice", "--expires"],
    ],
)
def test_the_program_says_how_it_is_called(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
