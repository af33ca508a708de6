"""Canaries and shadows of a real server with real networks: real photos find what is wrong with a new version."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub, ModelRepositoryStub
from tests.conftest import ROOT, RunningServer
from tests.server.access.inside import channel
from tests.server.conftest import TIMEOUT, metrics_of, rich_status
from tests.server.photos import add_with_wrong_colours, parts
from tests.server.repositories import add, repository_of, wait_for
from tests.variations import ONE_PROCESS_AND_TWO_WORKERS

_CONNECTIONS = 9  # an odd number, so that a key that comes again comes over another one
SHADOW, CANARY = pb.ROLLOUT_KIND_SHADOW, pb.ROLLOUT_KIND_CANARY


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions: 2 is as 1, 3 sees blue for red; 1 is stable."""
    folder = tmp_path_factory.mktemp("repository")
    for version in (1, 2):
        add(folder, version)
    add_with_wrong_colours(folder, 3)
    (folder / "cifar" / "aliases.toml").write_text("stable = 1\n")
    return folder


@pytest.fixture(scope="module", params=ONE_PROCESS_AND_TWO_WORKERS)
def serving(root: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    ours = {"GLIMPSE_MODELS": str(root), "GLIMPSE_MODELS_POLL": "0.2", "GLIMPSE_ADMIN": "*"}
    server = RunningServer(environment={**ours, "GLIMPSE_WORKERS": str(request.param)}, model={})
    try:
        server.wait_for("serving", seconds=900)
        yield server
    finally:
        server.close()


@pytest.fixture
def models(serving: RunningServer) -> Iterator[ModelRepositoryStub]:
    with repository_of(serving) as stub:
        yield stub
        for kind in (SHADOW, CANARY):
            roll_out(stub, kind, "1", share=0)
        stub.SetAlias(pb.ModelRepositorySetAliasRequest(name="cifar", alias="stable", version="1"), timeout=TIMEOUT)


@pytest.fixture
def classify(serving: RunningServer) -> Iterator[Callable[..., pb.ClassifyResponse]]:
    """Asks over one connection after the other, which lead to all workers."""
    photos = parts()
    with ExitStack() as stack:
        stubs = itertools.cycle(
            [ImageClassifierStub(stack.enter_context(channel(serving.target))) for _ in range(_CONNECTIONS)]
        )

        def ask(*, key: str = "", top_k: int = 1) -> pb.ClassifyResponse:
            request = pb.ClassifyRequest(
                images=[pb.Image(encoded=next(photos))], options=pb.ClassifyOptions(top_k=top_k)
            )
            answer: pb.ClassifyResponse = next(stubs).Classify(
                request, timeout=TIMEOUT, metadata=(("glimpse-key", key),) if key else ()
            )
            return answer

        yield ask


def roll_out(models: ModelRepositoryStub, kind: pb.RolloutKind, version: str, share: float, **terms: float) -> bool:
    asked = pb.RolloutTerms(version=version, share=share, **terms)  # type: ignore[arg-type]
    request = pb.ModelRepositorySetRolloutRequest(name="cifar", kind=kind, terms=asked)
    return models.SetRollout(request, timeout=TIMEOUT).kept


def rollout(models: ModelRepositoryStub) -> pb.ModelRollout:
    (found,) = models.List(pb.ModelRepositoryListRequest(), timeout=TIMEOUT).rollouts
    return found


def until(condition: Callable[[], bool], work: Callable[[], object] = lambda: time.sleep(0.02)) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        work()


def compared(serving: RunningServer, kind: str, version: int) -> tuple[float, float]:
    """Images of which both versions say the same, and not."""
    found, labels = metrics_of(serving), f'rollout="{kind}",version="{version}"'
    yes, no = (
        found.get(f'glimpse_rollout_compared_images_total{{agrees="{agrees}",model="cifar",{labels}}}', 0.0)
        for agrees in ("yes", "no")
    )
    return yes, no


@pytest.mark.parametrize(("version", "least", "most"), [(2, 1.0, 1.0), (3, 0.0, 0.6)], ids=["as before", "BGR for RGB"])
def test_a_shadow_tells_a_version_that_is_wrong_from_one_that_is_not(  # noqa: PLR0917 - fixtures, by name
    serving: RunningServer,
    models: ModelRepositoryStub,
    classify: Callable[..., pb.ClassifyResponse],
    version: int,
    least: float,
    most: float,
) -> None:
    """Nobody gets an answer of it, and it costs no permits; the metric and the list say what was found."""
    assert roll_out(models, SHADOW, str(version), share=1)
    answers: list[pb.ClassifyResponse] = []
    until(lambda: rollout(models).compared_images >= 60, lambda: answers.append(classify()))
    assert {each.model.version for each in answers} == {"1"}
    told = rollout(models)
    assert least <= told.agreement <= most
    assert (told.mean_probability_difference < 1e-5) is (version == 2)
    assert (told.new.version, told.usual.version) == (str(version), "1")
    assert told.new.failed == told.usual.failed == 0
    assert told.new.answered == told.usual.answered >= 60
    assert told.terms.min_agreement == pytest.approx(0.9)
    assert told.new.mean_seconds > 0
    assert told.usual.mean_seconds > 0
    yes, no = compared(serving, "shadow", version)
    assert least <= yes / (yes + no) <= most
    assert told.terms.share == 1  # a shadow is not rolled back


def test_a_canary_whose_answers_differ_is_rolled_back_by_itself(
    root: Path, serving: RunningServer, models: ModelRepositoryStub, classify: Callable[..., pb.ClassifyResponse]
) -> None:
    assert roll_out(models, CANARY, "3", share=0.5, min_agreement=0.9, min_requests=20)
    wait_for(models, {"cifar/3": "ready"})
    answers: Counter[str] = Counter()

    def ask() -> None:
        answers[classify(key=str(answers.total())).model.version] += 1

    until(lambda: bool(rollout(models).rolled_back), ask)
    assert set(answers) == {"1", "3"}
    # Several workers say now and then what they have counted; one may have come between the roll-back and the look.
    until(lambda: rollout(models).new.answered == answers["3"])
    until(lambda: answers["1"] - rollout(models).usual.answered in {0, 1})
    told = rollout(models)
    assert told.terms.share == 0
    assert "It names the first class of version 1 for" in told.rolled_back
    assert {classify(key=str(number)).model.version for number in range(20)} == {"1"}
    said = serving.wait_for("canary rolled back")
    assert (said["version"], said["cause"]) == ("3", "disagreement")
    assert metrics_of(serving)['glimpse_rollbacks_total{cause="disagreement",model="cifar",version="3"}'] == 1
    until(lambda: "rolled_back" in (root / "cifar" / "rollout.toml").read_text())
    kept = tomllib.loads((root / "cifar" / "rollout.toml").read_text())["canary"]
    assert (kept["version"], kept["share"], kept["rolled_back"]) == (3, 0.0, told.rolled_back)


def test_a_canary_has_its_share_of_the_keys_and_becomes_the_usual_version(
    root: Path, models: ModelRepositoryStub, classify: Callable[..., pb.ClassifyResponse]
) -> None:
    roll_out(models, CANARY, "2", share=0.3)

    def by_key() -> dict[str, str]:
        return {key: classify(key=key).model.version for key in map(str, range(60))}

    first = by_key()
    assert 5 <= Counter(first.values())["2"] <= 35  # of 60, where 18 are expected
    assert by_key() == first
    roll_out(models, CANARY, "2", share=0.6)
    more = by_key()
    assert {key for key, version in first.items() if version == "2"} < {k for k, v in more.items() if v == "2"}
    promote = pb.ModelRepositorySetAliasRequest(name="cifar", alias="stable", version="2")
    models.SetAlias(promote, timeout=TIMEOUT)
    assert not models.List(pb.ModelRepositoryListRequest(), timeout=TIMEOUT).rollouts
    assert set(by_key().values()) == {"2"}
    assert tomllib.loads((root / "cifar" / "rollout.toml").read_text()) == {"previous": 1}
    back = models.RollBack(pb.ModelRepositoryRollBackRequest(name="cifar"), timeout=TIMEOUT)
    assert (back.version, back.kept) == ("1", True)
    assert set(by_key().values()) == {"1"}
    with pytest.raises(grpc.RpcError, match="has no canary, and no version of it was stable before"):
        models.RollBack(pb.ModelRepositoryRollBackRequest(name="cifar"), timeout=TIMEOUT)


def test_a_canary_has_its_share_of_the_requests_of_a_stream(
    serving: RunningServer, models: ModelRepositoryStub
) -> None:
    """By their ids, so that one long stream is divided, too; with a key of the call it is not."""
    roll_out(models, CANARY, "2", share=0.5)
    photo = next(parts())

    def versions(*metadata: tuple[str, str]) -> dict[str, str]:
        request = pb.ClassifyRequest(images=[pb.Image(encoded=photo)])
        asked = [pb.ClassifyStreamRequest(id=f"{number}.jpg", request=request) for number in range(40)]
        with grpc.insecure_channel(serving.target) as connected:
            answers = ImageClassifierStub(connected).ClassifyStream(iter(asked), timeout=TIMEOUT, metadata=metadata)
            return {each.id: each.response.model.version for each in answers}

    found = versions()
    assert set(found.values()) == {"1", "2"}
    assert versions(("x-request-id", "one")) == found
    assert len(set(versions(("glimpse-key", "one")).values())) == 1


def test_a_canary_ends_by_one_command_and_may_begin_again(
    models: ModelRepositoryStub, classify: Callable[..., pb.ClassifyResponse]
) -> None:
    roll_out(models, CANARY, "2", share=1)
    assert classify().model.version == "2"
    assert models.RollBack(pb.ModelRepositoryRollBackRequest(name="cifar"), timeout=TIMEOUT).version == "1"
    assert classify().model.version == "1"
    assert rollout(models).rolled_back == "By command."
    roll_out(models, CANARY, "2", share=1)
    assert classify().model.version == "2"
    assert rollout(models).rolled_back == ""


def test_whoever_may_not_manage_models_rolls_nothing_out(server: RunningServer) -> None:
    with repository_of(server) as models:
        with pytest.raises(grpc.RpcError) as refused:
            roll_out(models, CANARY, "1", share=0.1)
        assert rich_status(refused.value)[1].reason == "NOT_PERMITTED"
        with pytest.raises(grpc.RpcError) as refused:
            models.RollBack(pb.ModelRepositoryRollBackRequest(name="cifar"), timeout=TIMEOUT)
        assert rich_status(refused.value)[1].reason == "NOT_PERMITTED"


@pytest.mark.ci
def test_the_command_line_tells_what_was_found(
    serving: RunningServer, models: ModelRepositoryStub, classify: Callable[..., pb.ClassifyResponse]
) -> None:
    def glimpse(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "client/cli.py", "models", *words, "--target", serving.target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert glimpse("shadow", "cifar", "3", "--share", "100%", "--min-agreement", "95%") == (
        "Version 3 of cifar classifies copies of 100% of the requests that name no version.\n"
    )
    until(lambda: rollout(models).compared_images >= 5, classify)
    listed = glimpse("list")
    assert "shadow: version 3 of cifar gets copies of 100% of the requests that name no version\n" in listed
    assert re.search(r"    version 3: \d+ answered in \d+\.\d ms on average, 0 failed\n", listed)
    assert re.search(
        r"    same first class: \d+\.\d% of \d+ images, mean difference of the probability: 0\.\d{4}, dropped: \d+\n",
        listed,
    )
    (told,) = json.loads(glimpse("list", "--json"))["rollouts"]
    assert (told["kind"], told["version"], told["share"], told["min_agreement"]) == ("shadow", "3", 1.0, 0.95)
    assert told["new"]["answered"] == told["compared_images"] >= 5
    assert glimpse("shadow", "cifar", "3", "--share", "0") == "cifar has no shadow any more.\n"
    assert glimpse("canary", "cifar", "2", "--share", "0.25", "--window", "60", "--min-requests", "9") == (
        "Version 2 of cifar answers 25% of the requests that name no version.\n"
    )
    assert (rollout(models).terms.window_seconds, rollout(models).terms.min_requests) == (60, 9)
    assert glimpse("rollback", "cifar") == "Version 1 of cifar answers all requests that name no version.\n"
    assert "canary: version 2 of cifar was rolled back. By command.\n" in glimpse("list")


@pytest.mark.parametrize(
    ("kind", "version", "terms", "code", "said"),
    [
        (CANARY, "1", {"share": 0.1}, "FAILED_PRECONDITION", "answers all requests that name no version already"),
        (CANARY, "9", {"share": 0.1}, "NOT_FOUND", "has no version '9'"),
        (CANARY, "2", {"share": 1.5}, "INVALID_ARGUMENT", "share must be from 0 to 1"),
        (CANARY, "2", {"share": 0.5, "min_agreement": -1}, "INVALID_ARGUMENT", "min_agreement must be from 0 to 1"),
        (CANARY, "2", {"share": 0.5, "min_requests": 0}, "INVALID_ARGUMENT", "min_requests must be at least 1"),
        (SHADOW, "2", {"share": 0.5, "window_seconds": 0.1}, "INVALID_ARGUMENT", "window_seconds must be from 1"),
        (SHADOW, "2", {"share": 0.5, "max_error_rate": 0.1}, "INVALID_ARGUMENT", "A shadow has no max_error_rate"),
        (pb.ROLLOUT_KIND_UNSPECIFIED, "2", {"share": 0.5}, "INVALID_ARGUMENT", "kind must be"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused(
    models: ModelRepositoryStub, kind: pb.RolloutKind, version: str, terms: dict[str, float], *, code: str, said: str
) -> None:
    with pytest.raises(grpc.RpcError, match=said) as refused:
        roll_out(models, kind, version, **terms)
    assert refused.value.code() is grpc.StatusCode[code]
