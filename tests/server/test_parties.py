"""One party against another on a real server: by address (two loopback families) and by token, whatever its names."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.server.access.inside import bearer, entry
from tests.server.conftest import rich_status
from tests.server.rig import LONG, SIZE, Rig

RAW = pb.Image(raw=pb.RawPixels(height=SIZE, width=SIZE, data=bytes(SIZE * SIZE * 3)))
METHODS = {"calls": "/glimpse.v1.ImageClassifier/Classify", "streams": "/glimpse.v1.ImageClassifier/ClassifyStream"}


class Party:
    """Somebody on a connection of their own, who may call themselves as they like."""

    def __init__(self, rig: Rig, target: str, token: str = "") -> None:
        self.rig = rig
        # Two channels to one address would share a connection.
        self.channel = grpc.insecure_channel(target, options=(("grpc.use_local_subchannel_pool", 1),))
        self.token = bearer(token) if token else ()
        self.held: list[Any] = []
        self._never = threading.Event()

    def close(self) -> None:
        """Leave."""
        self._never.set()
        self.channel.close()

    def metadata(self, name: str) -> tuple[tuple[str, str], ...]:
        """What says who it is, and what it calls itself."""
        return (*self.token, *((("glimpse-client", name),) if name else ()))

    def send(self, *images: pb.Image, name: str = "") -> Any:
        """A call that is under way."""
        request = pb.ClassifyRequest(images=images)
        return ImageClassifierStub(self.channel).Classify.future(request, timeout=LONG, metadata=self.metadata(name))

    def ask(self, *images: pb.Image, name: str = "") -> str:
        """OK, or the reason of the refusal."""
        call = self.send(*(images or (RAW,)), name=name)
        return "OK" if call.code() is grpc.StatusCode.OK else str(rich_status(call)[1].reason)

    def open_silent(self, kind: str, number: int, name: str = "") -> None:
        """Calls or streams of headers only, each by a name of its own."""

        def nothing() -> Iterator[bytes]:
            self._never.wait(2 * LONG)
            yield from ()

        for each in range(number):
            metadata = self.metadata(name or f"name {each}")
            if kind == "calls":
                calls: grpc.StreamUnaryMultiCallable[bytes, bytes] = self.channel.stream_unary(METHODS[kind])
                self.held.append(calls.future(nothing(), metadata=metadata))
            else:
                streams: grpc.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream(METHODS[kind])
                self.held.append(streams(nothing(), metadata=metadata))


@pytest.fixture(params=["address", "token"])
def parties(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., tuple[Rig, Party, Party]]]:
    """Start a server with two parties: each from an address, or both from one with a token each."""
    with ExitStack() as stack:

        def start(*arguments: str) -> tuple[Rig, Party, Party]:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            tokens = tmp_path / "tokens.toml"
            tokens.write_text(entry("mallory", "m") + entry("alice", "a"))
            by_token = request.param == "token"
            rig = Rig(patch, *arguments, *([f"--tokens={tokens}"] if by_token else []))
            stack.callback(rig.close)
            greedy = Party(rig, rig.target, "m" if by_token else "")
            modest = Party(rig, rig.target if by_token else rig.other_target, "a" if by_token else "")
            stack.callback(greedy.close)
            stack.callback(modest.close)
            return rig, greedy, modest

        yield start


@pytest.mark.parametrize("kind", ["calls", "streams"])
def test_silent_calls_and_streams_under_many_names_keep_nobody_else_out(
    parties: Callable[..., tuple[Rig, Party, Party]], kind: str
) -> None:
    rig, greedy, modest = parties("--max-images-in-flight=64", "--max-images-per-request=8", "--max-streams=64")
    greedy.open_silent(kind, 100)
    rig.wait_until(lambda: rig.held()[kind] >= 56)
    assert [modest.ask() for _ in range(5)] == ["OK"] * 5
    call = ImageClassifierStub(modest.channel).ClassifyStream(
        iter([pb.ClassifyStreamRequest(id="1", request=pb.ClassifyRequest(images=[RAW]))]),
        timeout=LONG,
        metadata=modest.metadata(""),
    )
    assert [answer.id for answer in call] == ["1"]
    assert rig.held()[kind] == 56
    refused = [each for each in greedy.held if each.done()]
    assert {str(rich_status(each)[1].reason) for each in refused} == {"SHARE_FULL"}


@pytest.mark.parametrize("name", ["alice", "identity:alice", "address:::/64", "127.0.0.1", "a name of its own"])
def test_to_call_oneself_as_another_takes_nothing_from_them(
    parties: Callable[..., tuple[Rig, Party, Party]], name: str
) -> None:
    rig, greedy, modest = parties("--max-images-in-flight=64", "--max-images-per-request=8")
    greedy.open_silent("calls", 100, name)
    rig.wait_until(lambda: rig.held()["calls"] >= 55)
    assert [modest.ask() for _ in range(5)] == ["OK"] * 5
    assert [modest.ask(name=name) for _ in range(5)] == ["OK"] * 5


def test_a_file_of_a_few_bytes_pays_for_the_pixels_that_it_decodes_to(
    parties: Callable[..., tuple[Rig, Party, Party]],
) -> None:
    """Hundreds of small images are let in where three of these are, and others are answered meanwhile."""
    rig, greedy, modest = parties("--max-pixels-in-flight=200_000_000")
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(file, "WEBP", lossless=True)
    assert len(file.getvalue()) < 2000
    calls = [greedy.send(pb.Image(encoded=file.getvalue()), name=f"name {number}") for number in range(20)]
    assert [modest.ask() for _ in range(5)] == ["OK"] * 5
    rig.wait_until(lambda: all(call.done() for call in calls))
    refused = [call for call in calls if call.code() is not grpc.StatusCode.OK]
    assert {str(rich_status(call)[1].reason) for call in refused} == {"SHARE_FULL"}
    assert 14 <= len(refused) < 20
    assert [greedy.ask(name=str(number)) for number in range(5)] == ["OK"] * 5
    rig.wait_until(lambda: not any(rig.held().values()))


def test_a_costly_image_counts_as_several_for_a_caller_s_rate() -> None:
    """What takes more than twice as much as a photo of 25 million pixels is two; an ordinary image is one."""
    costly, ordinary = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (5000, 4800)).save(costly, "WEBP", lossless=True)
    Image.new("RGB", (1024, 768)).save(ordinary, "JPEG")
    with pytest.MonkeyPatch.context() as patch:
        rig = Rig(patch, "--rate-limit=0.001", "--rate-burst=5")
        try:
            one, other = Party(rig, rig.target), Party(rig, rig.other_target)
            asked = itertools.repeat(pb.Image(encoded=costly.getvalue()), 3)
            assert [one.ask(each) for each in asked] == ["OK", "OK", "RATE_LIMITED"]
            assert one.ask() == "OK"
            asked = itertools.repeat(pb.Image(encoded=ordinary.getvalue()), 6)
            assert [other.ask(each) for each in asked] == ["OK"] * 5 + ["RATE_LIMITED"]
            one.close()
            other.close()
        finally:
            rig.close()
