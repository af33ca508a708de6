"""A whole server with all of its access control, in a process of its own, on a model that answers."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import RunningServer
from tests.server.access.authority import Authority
from tests.server.access.inside import bearer, channel, entry, healthy, replace, told, until
from tests.server.conftest import TIMEOUT, metrics_of
from tests.variations import ONE_PROCESS_AND_TWO_WORKERS

Picture = Callable[[int], pb.Image]


class Guarded:
    """A server with TLS, tokens, a rate, an audit log and a port for probes."""

    def __init__(self, folder: Path, authority: Authority, workers: int) -> None:
        certificate, key = authority.server().write(folder)
        self.tokens, self.audit = folder / "tokens.toml", folder / "audit.jsonl"
        self.tokens.write_text(entry("alice", "a") + entry("mallory", "m", "images_per_second = 0.001", "burst = 2"))
        self.running = RunningServer(
            f"--workers={workers}",
            f"--tls-certificate={certificate}",
            f"--tls-key={key}",
            f"--tokens={self.tokens}",
            f"--audit-log={self.audit}",
            "--health-port=0",
            "--no-serve-metrics",
        )
        self.credentials = grpc.ssl_channel_credentials(authority.pem)


@pytest.fixture(scope="module", params=ONE_PROCESS_AND_TWO_WORKERS)
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"), authority, request.param)
    try:
        made.running.wait_for("serving")
        yield made
    finally:
        made.running.close()


def test_who_has_a_token_is_answered_over_tls_up_to_a_rate(guarded: Guarded, picture: Picture) -> None:
    with channel(guarded.running.target, guarded.credentials) as caller:
        stub = ImageClassifierStub(caller)

        def labels(token: str) -> int:
            request = pb.ClassifyRequest(images=[picture(1)])
            return len(stub.Classify(request, timeout=TIMEOUT, metadata=bearer(token)).results[0].predictions)

        assert [labels("a"), labels("m"), labels("m")] == [5, 5, 5]
        with pytest.raises(grpc.RpcError) as limited:
            labels("m")
        assert told(limited.value) == "RATE_LIMITED"
        with pytest.raises(grpc.RpcError) as unknown:
            labels("x")
        assert told(unknown.value) == "TOKEN_REFUSED"
        assert labels("a") == 5


def test_each_piece_of_a_stream_has_its_answer_and_its_line(guarded: Guarded, picture: Picture) -> None:
    with channel(guarded.running.target, guarded.credentials) as caller:
        pieces = [
            pb.ClassifyStreamRequest(id=f"p{number}", request=pb.ClassifyRequest(images=[picture(number)] * 2))
            for number in range(10)
        ]
        answers = list(ImageClassifierStub(caller).ClassifyStream(iter(pieces), timeout=TIMEOUT, metadata=bearer("a")))
    assert all(len(answer.response.results) == 2 for answer in answers)

    def lines() -> dict[str, str]:
        written = [json.loads(line) for line in guarded.audit.read_text().splitlines()]
        return {
            line["piece"]: f"{line['identity']} {line['model']} {line['code']}" for line in written if "piece" in line
        }

    until(lambda: len(lines()) == 10)
    assert lines() == {f"p{number}": "alice se_resnet20_cifar10 OK" for number in range(10)}


def test_probes_are_answered_on_their_plain_port_and_nothing_else_listens(guarded: Guarded) -> None:
    listening = guarded.running.wait_for("listening")
    assert listening["metrics_port"] is None
    with channel(f"127.0.0.1:{listening['health_port']}") as probe:
        assert healthy(probe)


def test_the_log_says_nothing_of_a_token_and_the_audit_log_is_whole_at_the_end(guarded: Guarded) -> None:
    guarded.running.terminate()
    assert guarded.running.exit_code() == 0
    assert "Bearer" not in str(guarded.running.log)
    assert guarded.running.stray == []
    assert all(json.loads(line)["method"] for line in guarded.audit.read_text().splitlines())


@pytest.mark.parametrize("setting", ["tls", "tokens"])
def test_credentials_that_cannot_be_used_are_told_with_their_own_exit_code(
    start_server: Callable[..., RunningServer], authority: Authority, tmp_path: Path, setting: str
) -> None:
    certificate, _ = authority.server().write(tmp_path)
    _, key = authority.server().write(tmp_path / "other")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("[[token]]\nidentity = 'alice'\n")
    flags = {"tls": [f"--tls-certificate={certificate}", f"--tls-key={key}"], "tokens": [f"--tokens={tokens}"]}
    running = start_server(*flags[setting])
    assert running.exit_code() == 7
    what = {"tls": "the key does not belong to the certificate", "tokens": "token.0.sha256: Field required"}
    assert what[setting] in running.wait_for("cannot start")["detail"]


def test_a_token_that_is_removed_amid_its_pieces_leaves_nothing_in_flight(
    start_server: Callable[..., RunningServer], tmp_path: Path, picture: Picture
) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry("alice", "a") + entry("bob", "b"))
    running = start_server(f"--tokens={tokens}", "--reload-seconds=0.1")
    running.wait_for("serving")
    request = pb.ClassifyRequest(images=[picture(1)] * 4)
    answered, removed = threading.Event(), threading.Event()

    def pieces() -> Iterator[pb.ClassifyStreamRequest]:
        for number in itertools.count():  # until the stream has ended
            if number == 50:
                answered.wait(TIMEOUT)  # on a busy machine they may all be sent before
                replace(tokens, entry("bob", "b"))
                removed.set()
            yield pb.ClassifyStreamRequest(id=str(number), request=request)

    with channel(running.target) as caller:
        stub = ImageClassifierStub(caller)
        answers = stub.ClassifyStream(pieces(), timeout=TIMEOUT, metadata=bearer("a"))
        assert len(next(answers).response.results) == 4
        answered.set()
        with pytest.raises(grpc.RpcError) as ended:
            list(answers)
        assert removed.is_set()
        assert told(ended.value) == "TOKEN_REFUSED"
        assert len(stub.Classify(request, timeout=TIMEOUT, metadata=bearer("b")).results) == 4
    until(lambda: metrics_of(running)["glimpse_images_in_flight"] == 0)
    assert metrics_of(running)["glimpse_queue_depth"] == 0
