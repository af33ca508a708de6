"""The processes of a server, seen from outside, and callers that go on while these change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.client import AsyncClient, Client
from glimpse.v1 import classifier_pb2 as pb
from tests.conftest import RunningServer
from tests.server.access.inside import channel
from tests.server.conftest import TIMEOUT, metrics_of

SERVICE = "glimpse.v1.ImageClassifier"
PIXELS = np.zeros((32, 32, 3), np.uint8)


class Process(NamedTuple):
    """A process of the server."""

    kind: str
    pid: int


def processes(server: RunningServer) -> list[Process]:
    """The workers and engines that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == server.process.pid:
            kinds = [word.rpartition(".")[2].removesuffix("_process") for word in words if word.endswith("_process")]
            found += [Process(kind, int(folder.name)) for kind in kinds]
    return found


def of(server: RunningServer, kind: str) -> set[int]:
    return {each.pid for each in processes(server) if each.kind == kind}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.02)


def in_memory(pids: list[int]) -> list[str]:
    """The files in memory that these processes hold."""
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [name for each in Path(f"/proc/{pid}/fd").iterdir() if "/memfd:" in (name := str(each.readlink()))]
    return found


def connections_of(pid: int, port: int) -> int:
    """Connections to a port that a process has accepted."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = str(file.readlink())
        except FileNotFoundError:
            continue
        if name.startswith("socket:["):
            sockets.add(name[8:-1])
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(row[3] == "01" and row[9] in sockets and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def status(target: str, service: str) -> str:
    with channel(target) as through:
        answer = HealthStub(through).Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def ready(server: RunningServer) -> bool:
    return metrics_of(server)["glimpse_ready"] == 1


def request() -> pb.ClassifyRequest:
    return pb.ClassifyRequest(images=[pb.Image(raw=pb.RawPixels(height=32, width=32, data=bytes(32 * 32 * 3)))])


class Callers:
    """Callers that go on through the shipped clients, until told to stop; what they could not have answered is kept.

    In threads: calls, and one run over a stream after the other. On an event loop: calls.
    """

    def __init__(self, target: str, number: int = 4) -> None:
        self.answered, self.lost = 0, list[str]()
        self._stop = threading.Event()
        self._target = target
        ways = [*[self._call] * number, self._in_bulk, self._on_a_loop]
        self._threads = [threading.Thread(target=each) for each in ways]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join(TIMEOUT)

    def more(self, calls: int = 100) -> None:
        """Wait until so many more calls have been answered."""
        wanted = self.answered + calls
        until(lambda: self.answered >= wanted or bool(self.lost))

    def _call(self) -> None:
        with Client(self._target) as client:
            while not self._stop.is_set():
                try:
                    client.classify(PIXELS, timeout=TIMEOUT)
                    self.answered += 1
                except Exception as error:  # noqa: BLE001 - whatever it is, it is to be seen
                    self.lost.append(repr(error))

    def _in_bulk(self) -> None:
        with Client(self._target) as client:
            while not self._stop.is_set():
                try:
                    results = client.classify_many(zip(range(20), itertools.repeat(PIXELS)), timeout=TIMEOUT)
                    self.lost += [repr(each.error) for _, each in results if each.error is not None]
                    self.answered += 20
                except Exception as error:  # noqa: BLE001 - as above
                    self.lost.append(repr(error))

    def _on_a_loop(self) -> None:
        async def call(client: AsyncClient) -> None:
            while not self._stop.is_set():
                try:
                    await client.classify(PIXELS, timeout=TIMEOUT)
                    self.answered += 1
                except Exception as error:  # noqa: BLE001 - as above
                    self.lost.append(repr(error))

        async def all_calls() -> None:
            async with AsyncClient(self._target) as client:
                await asyncio.gather(*(call(client) for _ in range(2)))

        asyncio.run(all_calls())
