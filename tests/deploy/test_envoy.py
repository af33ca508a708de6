"""Three replicas behind Envoy: load spreads over them, and they can be restarted without a failed call."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import grpc
import pytest

from glimpse.client import Client, Code, GlimpseError
from glimpse.client.status import from_rpc_error
from glimpse.v1 import classifier_pb2 as pb
from tests.deploy.balancer import CONFIGURATION, Balancer
from tests.deploy.tools import run, tool
from tools.load import pictures
from tools.load.callers import BareCaller, Callers, ClientCaller
from tools.load.ledger import Ending, Ledger
from tools.load.pictures import Picture, Pictures
from tools.load.replica import Replica, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Envoy asks once a second. A bare channel has no retries, so that it has to be told in time.
_ENVIRONMENT = {"GLIMPSE_DRAIN_ANNOUNCE_SECONDS": "3"}
_TIMEOUT = 60.0  # seconds
_CLASSIFIED = "glimpse_images_total,outcome=classified"


class Fleet:
    """Three replicas, each on a port that it keeps, and Envoy in front of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = free_ports(3)
        self._stack = ExitStack()
        self.replicas: dict[int, Replica] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # undone here where something does not start
            stack.callback(self._close)
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._start, range(3)))
            self.envoy = stack.enter_context(Balancer(self._ports, self._folder))
            self.envoy.wait_until_healthy(set(self._ports))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, which: int) -> None:
        self.replicas[which] = Replica(port=self._ports[which], environment=_ENVIRONMENT)

    def _close(self) -> None:
        for replica in self.replicas.values():
            replica.close()

    def classified(self) -> list[int]:
        return [int(replica.metrics()[_CLASSIFIED]) for _, replica in sorted(self.replicas.items())]

    def restart(self, which: int, begun: float) -> Ending:
        """SIGTERM, the exit, a successor on the same port, until Envoy calls that one."""
        old = self.replicas[which]
        ending = Ending(which, "SIGTERM", time.monotonic() - begun, in_flight=0)
        old.signal(signal.SIGTERM)
        ending.code = old.exit_code()
        ending.exited = time.monotonic() - begun
        ending.faults = old.faults()
        old.close()
        self._start(which)
        self.envoy.wait_until_healthy(set(self._ports))
        ending.serving = time.monotonic() - begun
        return ending


class StreamCaller(BareCaller):
    """A channel without retries, and a `ClassifyStream` for whatever it asks."""

    def one(self, picture: Picture) -> str:
        found: list[str] = []
        self.many([picture], lambda _, label: found.append(label))
        return found[0]

    def many(self, pictures: list[Picture], answered: Callable[[Picture, str], None]) -> None:
        pieces = (
            pb.ClassifyStreamRequest(id=str(number), request=pb.ClassifyRequest(images=[picture.image]))
            for number, picture in enumerate(pictures)
        )
        try:
            for reply in self._stub.ClassifyStream(pieces, timeout=_TIMEOUT):
                if reply.HasField("error"):
                    raise GlimpseError(Code(reply.error.code), reply.error.reason, reply.error.message)
                answered(pictures[int(reply.id)], reply.response.results[0].predictions[0].label)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from error


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    tool("envoy")  # skips before anything is started
    with Fleet(tmp_path_factory.mktemp("envoy")) as running:
        yield running


@pytest.fixture(scope="module")
def sent(fleet: Fleet) -> Pictures:
    with Client(fleet.envoy.target) as client:
        return pictures.learn(client, large=False)


def test_the_configuration_is_valid_and_uses_nothing_deprecated() -> None:
    ended = run(tool("envoy"), "--mode", "validate", "-c", str(CONFIGURATION), "--log-level", "warn")
    assert ended.returncode == 0, ended.stderr
    assert "deprecated" not in ended.stderr.lower()


def test_calls_over_one_connection_spread_evenly_over_the_replicas(fleet: Fleet, sent: Pictures) -> None:
    each, threads = 75, 8
    before, connections = fleet.classified(), fleet.envoy.statistic("http.glimpse.downstream_cx_total")
    failures: list[GlimpseError] = []
    with Client(fleet.envoy.target) as client:

        def call(seed: int) -> None:
            generator = random.Random(seed)
            try:
                for _ in range(each):
                    client.classify(sent.good(generator).image.encoded)
            except GlimpseError as error:
                failures.append(error)

        callers = [threading.Thread(target=call, args=(seed,)) for seed in range(threads)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert failures == []
    assert fleet.envoy.statistic("http.glimpse.downstream_cx_total") == connections + 1
    share = each * threads / 3
    counts = [after - earlier for after, earlier in zip(fleet.classified(), before, strict=True)]
    assert sum(counts) == each * threads
    assert [count for count in counts if not 0.9 * share <= count <= 1.1 * share] == [], counts


def test_replicas_restart_one_by_one_and_no_call_fails_with_or_without_retries(fleet: Fleet, sent: Pictures) -> None:
    target, ledger, begun = fleet.envoy.target, Ledger(), time.monotonic()
    kinds = {"with the shipped client": ClientCaller, "bare": BareCaller, "bare streams": StreamCaller}
    groups = [
        Callers(lambda kind=kind: kind(target), count=3, sent=sent, ledger=ledger, begun=begun, seed=seed)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for seed, kind in enumerate(kinds.values())
    ]
    for group in groups:
        group.start()
    endings, answered = [], []
    try:
        for which in range(3):
            endings.append(fleet.restart(which, begun))
            answered.append(ledger.answered)
    finally:
        ended = [group.stop() for group in groups]
    data = ledger.as_data(endings)
    assert data["failures"] == []
    assert ledger.wrong == []
    assert ended == [True] * 3, "a caller hangs"
    assert [ending.code for ending in endings] == [0, 0, 0]
    assert [ending.faults for ending in endings] == [[], [], []]
    # They went on calling throughout, and every new replica got its part.
    assert answered == sorted(set(answered))
    assert min(fleet.classified()) > 0
