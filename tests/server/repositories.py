"""Repositories of models for tests, and callers that ask a server while its models change."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import grpc

from glimpse.models import bundle
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub, ModelRepositoryStub
from tests.conftest import RunningServer
from tools.load import samples

T = TypeVar("T")
TIMEOUT = 120.0  # seconds; until a call is called hung, never the measure of a result


def add(root: Path, version: int | str, name: str = "cifar", *, complete: bool = True) -> Path:
    """Put a version of the small model into a repository.

    `complete`: it appears all at once, under its name.
    """
    folder = root / name / str(version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    copy = folder.with_name(f".{folder.name}") if complete else folder
    shutil.copytree(bundle.EMBEDDED_DEFAULT, copy)
    if complete:
        copy.rename(folder)
    return folder


def damage(folder: Path) -> None:
    """Change a byte of the weights, so that they are not those that the bundle states."""
    weights = next(folder.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def distort(folder: Path) -> None:
    """Exchange the recorded answers of two pictures: the bundle loads, and answers otherwise than was recorded."""
    recorded = folder / "golden" / "answers.json"
    values = json.loads(recorded.read_text())
    first, second = values["pictures"][:2]
    for key in ("answer", "probabilities"):
        first[key], second[key] = second[key], first[key]
    recorded.write_text(json.dumps(values))


def serving_from(start: Callable[..., RunningServer], root: Path, **more: str) -> RunningServer:
    """A server of a repository, of which anybody may manage the models unless `more`, of its environment, says who."""
    ours = {"GLIMPSE_MODELS": str(root), "GLIMPSE_MODELS_POLL": "0.2", "GLIMPSE_ADMIN": "*"}
    server = start(environment={**ours, **more}, model={})
    server.wait_for("serving", seconds=900)
    return server


@contextmanager
def repository_of(server: RunningServer) -> Iterator[ModelRepositoryStub]:
    """What manages the models of a server."""
    with grpc.insecure_channel(server.target) as channel:
        yield ModelRepositoryStub(channel)


def persistent(call: Callable[[], T]) -> T:
    """What a call gives that is repeated where a busy machine has kept its few bytes for longer than a server waits."""
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or "did not arrive" not in (error.details() or ""):
                raise


def states(models: ModelRepositoryStub) -> dict[str, str]:
    """The state of every version, by ``name/version``."""
    listed = persistent(lambda: models.List(pb.ModelRepositoryListRequest(), timeout=TIMEOUT)).models
    return {
        f"{each.name}/{each.version}": pb.ModelState.Name(each.state).removeprefix("MODEL_STATE_").lower()
        for each in listed
    }


def wait_for(models: ModelRepositoryStub, wanted: dict[str, str]) -> None:
    """Wait until versions are in these states; None as a state: there is no such version."""
    end = time.monotonic() + TIMEOUT
    while True:
        found = states(models)
        if all(found.get(key, "") == state for key, state in wanted.items()):
            return
        assert time.monotonic() < end, f"wanted: {wanted}, found: {found}"
        time.sleep(0.05)


class Callers:
    """Call a server without a pause, some by single calls and some by streams, until they are stopped."""

    def __init__(self, target: str, request: pb.ClassifyRequest, *, single: int, streams: int) -> None:
        self.answers: Counter[str] = Counter()  # by version
        self.failed: list[str] = []
        self.seconds = 0.0  # that the device computed for the answers, as the replies say
        self._request = request
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # Connections of their own, which several workers share out among them.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(target, options) for _ in range(single + streams)]
        self._stubs = iter([ImageClassifierStub(each) for each in self._channels])
        work = [self._call] * single + [self._stream] * streams
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join(TIMEOUT)
        for channel in self._channels:
            channel.close()
        assert not any(each.is_alive() for each in self._threads), "a call hangs"

    def answered(self, more: int) -> None:
        """Wait for so many more answers."""
        end, wanted = time.monotonic() + TIMEOUT, sum(self.answers.values()) + more
        while sum(self.answers.values()) < wanted:
            assert time.monotonic() < end, f"too few answers; failed: {self.failed[:3]}"
            time.sleep(0.01)

    def _call(self) -> None:
        stub = self._stub()
        while not self._stop.is_set():
            try:
                self._count(stub.Classify(self._request, timeout=TIMEOUT))
            except grpc.RpcError as error:
                self._fail(f"{error.code()}: {error.details()}")

    def _stream(self) -> None:
        places = threading.Semaphore(2)

        def requests() -> Iterator[pb.ClassifyStreamRequest]:
            number = 0
            while not self._stop.is_set():
                if places.acquire(timeout=0.1):
                    number += 1
                    yield pb.ClassifyStreamRequest(id=str(number), request=self._request)

        try:
            for answer in self._stub().ClassifyStream(requests()):
                places.release()
                if answer.WhichOneof("outcome") == "response":
                    self._count(answer.response)
                else:
                    self._fail(answer.error.message)
        except grpc.RpcError as error:
            self._fail(f"{error.code()}: {error.details()}")

    def _stub(self) -> ImageClassifierStub:
        with self._lock:
            return next(self._stubs)

    def _count(self, answer: pb.ClassifyResponse) -> None:
        if any(each.HasField("error") for each in answer.results):
            self._fail(str(answer))
        with self._lock:
            self.answers[answer.model.version] += 1
            self.seconds += sum(each.timing.compute_seconds / each.timing.batch_size for each in answer.results)

    def _fail(self, why: str) -> None:
        with self._lock:
            self.failed.append(why)
        time.sleep(0.05)


def resident(server: RunningServer) -> int:
    """Bytes of the server's processes that are in memory."""
    pages = [int(each.joinpath("statm").read_text(encoding="ascii").split()[1]) for each in _processes(server)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def anonymous(server: RunningServer) -> int:
    """Bytes of the server's processes that are in memory and no pages of files."""
    lines = [line for each in _processes(server) for line in each.joinpath("status").read_text("ascii").splitlines()]
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def threads(server: RunningServer) -> int:
    """Threads of the server's processes, but for those of gRPC's pool, which grows and shrinks with the load."""
    return sum(samples.of_process(int(each.name)).threads for each in _processes(server))


def files(server: RunningServer) -> int:
    """Open files of the server's processes."""
    return sum(len(list(each.joinpath("fd").iterdir())) for each in _processes(server))


def _processes(server: RunningServer) -> list[Path]:
    """The server's process in /proc, and its workers and engine."""
    own = Path(f"/proc/{server.process.pid}")
    children = own.joinpath("task", str(server.process.pid), "children").read_text(encoding="ascii").split()
    found = [Path("/proc", each) for each in children]
    return [own, *(each for each in found if b"_process" in each.joinpath("cmdline").read_bytes())]


def asked(picture: Callable[[int], pb.Image], name: str = "", version: str = "") -> pb.ClassifyRequest:
    return pb.ClassifyRequest(images=[picture(0)], model=pb.ModelSelector(name=name, version=version))


def swap(models: ModelRepositoryStub, name: str, version: int) -> None:
    """Have one of the versions 1 and 2 take the place of the other, which is unloaded."""
    promote = pb.ModelRepositorySetAliasRequest(name=name, alias="stable", version=str(version))
    persistent(lambda: models.SetAlias(promote, timeout=TIMEOUT))
    other = pb.ModelRepositoryUnloadRequest(name=name, version=str(3 - version))
    persistent(lambda: models.Unload(other, timeout=TIMEOUT))
