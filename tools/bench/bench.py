"""One network on one runtime, measured: what runs alone, the service, and its callers, round by round.

Everything here is measured and nothing is concluded; `figures.py` does that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from tools.bench import machine
from tools.bench.networks import Network
from tools.bench.service import Service, batches
from tools.bench.worker import ROOT, Worker

Values = dict[str, Any]

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}  # TensorFlow's start-up chatter
# What a start pays for whatever we do: the framework that computes. Where a network is converted first, by the one that
# Keras brings, that too.
_IMPORTS = {"openvino": "import openvino"}
_FIRST_IMPORTS = {"openvino": "import keras, openvino"}
_BACKENDS = {"openvino": "tensorflow"}
_MANY = 48  # callers: more than the largest batch, so that the next one fills while one is computed
_LONG = 32  # images in a long call, and what of a stream is compared with it


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often."""

    name: str
    rounds: int
    seconds: float  # of each measurement, at least
    batches: int  # full batches that each measurement lasts, at least
    sweep_seconds: float  # of each batch size
    lone: int  # requests of a lone caller in a round
    callers: tuple[int, ...]
    shares: tuple[float, ...]  # of the service's maximum, open loop
    open_requests: int  # at least, for the percentiles
    beside: bool  # the lone caller beside a stream
    starts: int
    overload_seconds: float


QUICK = Effort(
    "quick",
    rounds=2,
    seconds=1.5,
    batches=4,
    sweep_seconds=0.5,
    lone=20,
    callers=(1, 32),
    shares=(0.8,),
    open_requests=100,
    beside=False,
    starts=1,
    overload_seconds=0.0,
)
LONG = Effort(
    "long",
    rounds=5,
    seconds=6.0,
    batches=8,
    sweep_seconds=2.0,
    lone=100,
    callers=(1, 2, 4, 8, 16, 32, 64, 128),
    shares=(0.5, 0.8, 0.95),
    open_requests=1000,
    beside=True,
    starts=3,
    overload_seconds=60.0,
)


class Bench:
    """A service, what it is made of beside it, and two processes of callers."""

    def __init__(self, network: Network, runtime: str, effort: Effort, tell: Callable[[str], None]) -> None:
        """Nothing runs yet; use `with`."""
        self._network = network
        self._runtime = runtime
        self._effort = effort
        self._tell = tell
        self._stack = ExitStack()
        self.environment = {**_QUIET, "GLIMPSE_RUNTIME": runtime, **network.environment()}

    def __enter__(self) -> Self:
        """Start everything."""
        with ExitStack() as stack:
            self.alone = stack.enter_context(Worker("tools.bench.alone", self.environment))
            self.caller = stack.enter_context(Worker("tools.bench.caller"))
            self.bulk = stack.enter_context(Worker("tools.bench.caller"))
            self.made = self.alone.do("describe")
            self.service = stack.enter_context(Service(self.environment))
            for caller in (self.caller, self.bulk):
                caller.do("connect", target=self.service.target, pid=self.service.pid)
            self._stack = stack.pop_all()
        self._largest = self.made["batch_sizes"][-1]
        self._batch_seconds = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    def images(self, kind: str, each: int = 1) -> Values:
        """Everybody takes these images from now on, the callers `each` of them in a request."""
        height, width, _ = self.made["input_shape"]
        self.alone.do("images", kind=kind)
        self.bulk.do("prepare", kind=kind, height=height, width=width, each=1)
        made: Values = self.caller.do("prepare", kind=kind, height=height, width=width, each=each)
        return made

    def sweep(self) -> Values:
        """The runtime alone at each batch size, in two passes; and which size is best."""
        self._tell("the runtime at each batch size")
        self.images("raw")
        found: dict[str, Values] = {}
        for _ in range(2):
            for batch in self.made["batch_sizes"]:
                one = self.alone.do("compute", batch=batch, seconds=self._effort.sweep_seconds / 2)
                before = found.setdefault(str(batch), dict.fromkeys(one, 0.0))
                found[str(batch)] = {key: before[key] + one[key] for key in one}
        best = max(found, key=lambda batch: found[batch]["images"] / found[batch]["wall"])
        largest = found[str(self._largest)]
        self._batch_seconds = largest["wall"] / largest["images"] * self._largest
        return {"sizes": found, "best": int(best)}

    @property
    def seconds(self) -> float:
        """Of one measurement."""
        return max(self._effort.seconds, self._effort.batches * self._batch_seconds)

    def saturated(self, best: int) -> list[Values]:
        """Alone and served alternately, so that whatever else the machine does meets both."""
        rounds = []
        self.caller.do("closed", callers=_MANY, seconds=min(2.0, self.seconds))
        for number in range(self._effort.rounds):
            self._tell(f"alone and served, round {number + 1} of {self._effort.rounds}")
            one = {
                "decode": self.alone.do("decode", seconds=self.seconds / 2),
                "compute": self.alone.do("compute", batch=best, seconds=self.seconds),
                "together": self.alone.do("together", batch=best, seconds=self.seconds),
            }
            rounds.append({**one, "service": self.watched("closed", callers=_MANY, seconds=self.seconds)})
        return rounds

    def lone(self) -> list[Values]:
        """A lone caller, the same images decoded and computed without a service, and a bare echo of the same bytes."""
        self._tell("a lone caller")
        rounds = []
        answer = self.caller.do("answer")
        with Worker("tools.bench.echo") as echo:
            port = echo.do("start", kind="aio", unary=answer, stream=answer)
            for _ in range(self._effort.rounds):
                one = {"alone": self.alone.do("lone", count=self._effort.lone)}
                one["service"] = self.caller.do("lone", requests=self._effort.lone)
                self.caller.do("connect", target=f"127.0.0.1:{port}", pid=echo.pid)
                one["echo"] = self.caller.do("lone", requests=self._effort.lone)
                self.caller.do("connect", target=self.service.target, pid=self.service.pid)
                rounds.append(one)
        return rounds

    def concurrencies(self) -> dict[str, Values]:
        """Closed loop with ever more callers."""
        found = {}
        for callers in self._effort.callers:
            self._tell(f"{callers} callers")
            found[str(callers)] = self.watched("closed", callers=callers, seconds=self.seconds)
        return found

    def opened(self, most: float) -> dict[str, Values]:
        """Open loop, at shares of the `most` requests a second that it answered closed loop."""
        found = {}
        for seed, share in enumerate(self._effort.shares):
            rate = share * most
            self._tell(f"open loop at {share:.0%}, {rate:.1f} requests/s")
            seconds = max(self.seconds, self._effort.open_requests / rate)
            found[f"{share:g}"] = {"asked": rate, **self.watched("opened", rate=rate, seconds=seconds, seed=seed)}
        return found

    def beside_bulk(self, service_rate: float) -> Values:
        """A lone caller while a stream of another sends all that the service reads."""
        if not self._effort.beside:
            return {}
        self._tell("a lone caller beside a stream")
        requests = max(10, self._effort.lone // 3)
        # Enough if each waits three batches, and time for the stream to fill the service.
        settle = max(1.0, 3 * self._batch_seconds)
        seconds = settle + requests * 3 * self._largest / service_rate
        self.bulk.begin("stream", streams=1, seconds=seconds)
        time.sleep(settle)
        lone = self.watched("lone", requests=requests)
        return {"lone": lone, "bulk": self.bulk.end()}

    def small_calls(self, best: int) -> list[Values]:
        """Where the network is small: single images, long calls and the stream beside echoes and the raw network."""
        height, width, _ = self.made["input_shape"]
        single: Values = {"kind": "raw", "height": height, "width": width}
        self.caller.do("prepare", **single)
        answer = self.caller.do("answer")
        rounds = []
        with ExitStack() as stack:
            echoes = {kind: stack.enter_context(Worker("tools.bench.echo")) for kind in ("aio", "sync")}
            targets = {
                f"echo_{kind}": (f"127.0.0.1:{echo.do('start', kind=kind, unary=answer, stream=answer)}", echo.pid)
                for kind, echo in echoes.items()
            }
            ours = (self.service.target, self.service.pid)
            for number in range(self._effort.rounds):
                self._tell(f"small calls, round {number + 1} of {self._effort.rounds}")
                one: Values = {"compute": self.alone.do("compute", batch=best, seconds=self.seconds)}
                self.caller.do("prepare", **single)
                for name, (target, pid) in targets.items():
                    self.caller.do("connect", target=target, pid=pid)
                    one[name] = self.caller.do("closed", callers=_MANY, seconds=self.seconds)
                self.caller.do("connect", target=ours[0], pid=ours[1])
                one["single"] = self.watched("closed", callers=_MANY, seconds=self.seconds)
                one["stream"] = self.watched("stream", streams=1, seconds=self.seconds)
                self.caller.do("prepare", **single, each=_LONG)
                one["long"] = self.watched("closed", callers=4, seconds=self.seconds)
                rounds.append(one)
        self.caller.do("prepare", **single)
        return rounds

    def overload(self, most: float) -> Values:
        """Twice as much as it can do, and its memory meanwhile."""
        if not self._effort.overload_seconds:
            return {}
        self._tell("overload")
        samples = []
        self.caller.begin("opened", rate=2 * most, seconds=self._effort.overload_seconds, seed=99)
        end = time.monotonic() + self._effort.overload_seconds
        while time.monotonic() < end:
            samples.append(machine.rss_bytes(self.service.pid))
            time.sleep(0.5)
        return {**self.caller.end(), "rss": samples}

    def watched(self, job: str, **arguments: Any) -> Values:
        """A load, with the batches that the service made of it and the time that they took."""
        before = self.service.metrics()
        made: Values = self.caller.do(job, **arguments)
        after = self.service.metrics()
        total, count = (_computed(after, what) - _computed(before, what) for what in ("sum", "count"))
        made["batches"] = {
            str(size): number for size, number in batches(before, after, self.made["batch_sizes"]).items()
        }
        made["batch_seconds"] = total / count if count else 0.0
        return made


def _computed(metrics: dict[str, float], what: str) -> float:
    """The sum or the count of the times on the device, of all models."""
    name = f"glimpse_stage_seconds_{what},"
    return sum(value for key, value in metrics.items() if key.startswith(name) and ",stage=compute" in key)


def starts(environment: dict[str, str], runtime: str, count: int) -> list[Values]:
    """Starts to SERVING, each beside a bare import of the framework."""
    rounds = []
    for _ in range(count):
        imported = _import_seconds(runtime, _IMPORTS)
        with Service(environment) as service:
            rounds.append(_start(service, imported))
    return rounds


def first_start(environment: dict[str, str], runtime: str) -> Values:
    """A start that finds no converted network."""
    imported = _import_seconds(runtime, _FIRST_IMPORTS)
    with (
        tempfile.TemporaryDirectory() as cache,
        Service({**environment, "GLIMPSE_CACHE": cache}) as service,
    ):
        return _start(service, imported)


def _start(service: Service, imported: float) -> Values:
    return {
        "import": imported,
        "ready": service.start_seconds,
        "cpu": service.start_cpu_seconds,
        "rss": service.start_rss_bytes,
        "log": service.loaded,
    }


def _import_seconds(runtime: str, imports: dict[str, str]) -> float:
    backend = {"KERAS_BACKEND": _BACKENDS.get(runtime, runtime)}
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", imports.get(runtime, "import keras")],
        cwd=ROOT,
        env={**os.environ, **_QUIET, **backend},
        check=True,
    )
    return time.monotonic() - begun


def measure(
    network: Network, runtime: str, effort: Effort, tell: Callable[[str], None], kinds: Sequence[str]
) -> Values:
    """Everything about one network on one runtime, which may be ``auto``."""
    tell("loading")
    with Bench(network, runtime, effort, tell) as bench:
        found: Values = {"network": network.name, "runtime": bench.made["runtime"], "made": bench.made, "kinds": {}}
        found["sweep"] = bench.sweep()
        best = found["sweep"]["best"]
        for kind in kinds if network.photos else ("raw",):
            tell(f"images: {kind}")
            one: Values = {"request_bytes": bench.images(kind)["bytes"], "saturated": bench.saturated(best)}
            most = max(each["service"]["rate"] for each in one["saturated"])
            one["lone"] = bench.lone()
            one["callers"] = bench.concurrencies()
            one["open"] = bench.opened(most)
            one["beside_bulk"] = bench.beside_bulk(most)
            found["kinds"][kind] = one
        if not network.photos:
            found["small"] = bench.small_calls(best)
        found["overload"] = bench.overload(most)
        own = bench.service
    tell("starts")
    found["starts"] = [_start(own, _import_seconds(found["runtime"], _IMPORTS))]
    found["starts"] += starts(bench.environment, found["runtime"], effort.starts - 1)
    if found["runtime"] in _FIRST_IMPORTS:
        found["first_start"] = first_start(bench.environment, found["runtime"])
    return found
