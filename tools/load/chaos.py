"""Chaos: two replicas that are ended again and again while callers call. Nobody may notice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from glimpse.client import Client
from tools.bench import loads, machine
from tools.bench.service import ServiceError
from tools.load import parts, pictures
from tools.load.callers import BareCaller, Callers, ClientCaller
from tools.load.ledger import Ending, Ledger
from tools.load.parts import Kind
from tools.load.replica import Replica, free_ports
from tools.load.report import Report, Ticker, counts

_PATIENCE = 120.0  # seconds
_SHOWN = 10  # failures that are told in full
_SHOWN_SLOW = 3
_DRAIN = "GLIMPSE_DRAIN_SECONDS"
_ANNOUNCE = "GLIMPSE_DRAIN_ANNOUNCE_SECONDS"


@dataclass(frozen=True)  # no slots: its defaults are those of the command line
class Effort:
    """How much."""

    requests: int = 100_000
    terms: int = 50
    kills: int = 10
    worker_kills: int = 0  # of single workers, of servers that have several
    engine_kills: int = 0
    callers: int = 20
    seed: int = 1
    retries: bool = True  # the shipped client; else a bare channel that balances by health
    until: Literal["serving", "answering"] = "serving"


class Strike(NamedTuple):
    """One signal, to a whole replica or to one of its processes."""

    signal: signal.Signals
    kind: Kind | None = None  # None: the replica

    @property
    def name(self) -> str:
        """For people."""
        return self.signal.name + {"worker": " of a worker", "engine": " of an engine", None: ""}[self.kind]


def run(effort: Effort, environment: Mapping[str, str]) -> Report:
    """End two replicas under their callers until all requests are answered and all signals are sent."""
    kind = "with the shipped client" if effort.retries else "by health alone, without retries"
    of_parts = f", {effort.worker_kills} of workers and {effort.engine_kills} of engines"
    report = Report(
        f"Chaos {kind}: {effort.terms} SIGTERMs, {effort.kills} SIGKILLs"
        + (of_parts if effort.worker_kills or effort.engine_kills else "")
    )
    if not effort.retries:
        environment = {_ANNOUNCE: "1", **environment}
    ledger = Ledger()
    with Pair(environment) as pair, Ticker("chaos", effort.requests) as ticker:
        with Client(pair.replicas[0].target) as client:
            sent = pictures.learn(client, large=False)
        pair.begun = begun = time.monotonic()
        target = pair.target
        callers = Callers(
            (lambda: ClientCaller(target)) if effort.retries else (lambda: BareCaller(target)),
            count=effort.callers,
            sent=sent,
            ledger=ledger,
            begun=begun,
            seed=effort.seed,
        )
        callers.start()
        stuck, last = "", []
        try:
            _end_them(pair, effort, ledger, ticker)
            while ledger.requests < effort.requests and callers.going():
                time.sleep(0.2)
                ticker.at(ledger.requests, f"{len(ledger.failures)} failed")
            ended = callers.stop()
            seconds = time.monotonic() - begun
            last = [pair.end(i) for i in range(2)]
        except (ServiceError, subprocess.TimeoutExpired) as error:
            # What callers met until then is worth telling all the same.
            stuck, seconds = str(error), time.monotonic() - begun
            ended = callers.stop()
    _judge(ledger, pair, effort, report)
    report.promise("every replica ends when it is told to, and its successor starts", not stuck, stuck)
    limit = float(environment.get(_DRAIN, "30")) + float(environment.get(_ANNOUNCE, "0"))
    cut = [e for e in pair.endings if e.exited is not None and e.exited - (e.draining or e.exited) >= limit]
    report.promise("no drain ran into its limit", not cut, f"{len(cut)} did" if cut else "")
    report.promise("every caller came to an end", ended)
    report.promise("both replicas end with 0 when all is over", last == [0, 0], last)
    latency = loads.percentiles(ledger.latencies)
    report.figures |= {
        "requests": f"{ledger.requests:,}, {ledger.streamed:,} of them over streams",
        "requests a second": f"{ledger.requests / seconds:.0f}",
        "latency of single calls": ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in latency.items()),
        "images in flight in a replica when its signal came": " ".join(str(each.in_flight) for each in pair.endings),
    }
    for name in {strike.name: None for strike in order(effort)}:
        struck = [each for each in pair.endings if each.signal == name]
        report.figures |= {
            f"from {name} to exit, seconds": " ".join(f"{(e.exited or e.sent) - e.sent:.2f}" for e in struck),
            f"from {name} to serving again, seconds": " ".join(f"{(e.serving or e.sent) - e.sent:.2f}" for e in struck),
        }
    report.data |= ledger.as_data(pair.endings) | {"seconds": seconds, "latency": latency}
    return report


class Pair:
    """Two replicas, each on a port that it keeps."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Nothing runs yet; use `with`."""
        self._environment = environment
        self._ports = free_ports(2)
        self._stack = ExitStack()
        self.replicas: list[Replica] = []
        self.endings: list[Ending] = []
        self.last_faults: list[str] = []  # of those that were ended for good
        self.left: list[str] = []  # processes of replicas that went on without them
        self._killed: set[int] = set()  # single processes of replicas
        self.begun = 0.0  # time.monotonic at the start of the run
        self.target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def __enter__(self) -> Self:
        """Start both."""
        self._stack.callback(self._close)
        with ThreadPoolExecutor(len(self._ports)) as pool:
            starting = [pool.submit(Replica, port=port, environment=self._environment) for port in self._ports]
        self.replicas += [one.result() for one in starting if one.exception() is None]
        for one in starting:
            one.result()  # where one has failed, the other must be known by then, to be ended
        return self

    def __exit__(self, *_: object) -> None:
        """End both."""
        self._stack.close()

    def _close(self) -> None:
        for replica in self.replicas:
            replica.close()

    def strike(self, which: int, number: signal.Signals) -> Ending:
        """Signal a replica while it has something in flight, wait for its end and start its successor."""
        old = self.replicas[which]
        in_flight = self._busy(old)
        begun = machine.tree(old.pid)
        ending = Ending(which, number.name, self._now(), in_flight)
        old.signal(number)
        self.endings.append(ending)
        ending.code = old.exit_code(_PATIENCE)
        ending.exited = self._now()
        ending.draining = next((at - self.begun for at, event in old.events if event["event"] == "draining"), None)
        ending.faults = old.faults(self._killed)
        old.close()
        self._note_left(begun)
        self.replicas[which] = Replica(port=self._ports[which], environment=self._environment)
        ending.serving = self._now()
        return ending

    def strike_part(self, which: int, strike: Strike, kind: Kind, generator: random.Random) -> Ending:
        """Signal a process of a replica that has something in flight, and wait until it is replaced."""
        replica = self.replicas[which]
        in_flight = self._busy(replica)
        before = parts.of(replica.pid, kind)
        victim = generator.choice(sorted(before))
        ending = Ending(which, strike.name, self._now(), in_flight)
        self._killed.add(victim)
        os.kill(victim, strike.signal)
        self.endings.append(ending)
        self._until(lambda: parts.gone(victim), f"The {kind} does not end.")
        ending.exited = self._now()
        self._until(
            lambda: len(parts.of(replica.pid, kind) - {victim}) == len(before) and self._is_ready(replica),
            f"The {kind} is not replaced.",
        )
        ending.serving = self._now()
        return ending

    def _note_left(self, pids: list[int]) -> None:
        """Note which of an ended replica's processes do not end with it."""
        try:
            self._until(lambda: all(map(parts.gone, pids)), "")
        except ServiceError:
            self.left += [" ".join(machine.command(pid)) for pid in pids if not parts.gone(pid)]

    def _is_ready(self, replica: Replica) -> bool:
        if not replica.alive():
            raise ServiceError(f"The server has ended with its process. Its log: {replica.events[-5:]}")
        return replica.metrics()["glimpse_ready"] == 1

    def _until(self, true: Callable[[], bool], else_detail: str) -> None:
        end = time.monotonic() + _PATIENCE
        while not true():
            if time.monotonic() >= end:
                raise ServiceError(else_detail)
            time.sleep(0.02)

    def wait_until_answering(self, which: int) -> None:
        """Wait until callers have come back to a replica."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if self.replicas[which].metrics()["glimpse_images_total,outcome=classified"]:
                return
            time.sleep(0.1)

    def end(self, which: int) -> int:
        """End a replica for good; its exit code."""
        begun = machine.tree(self.replicas[which].pid)
        self.replicas[which].signal(signal.SIGTERM)
        code = self.replicas[which].exit_code(_PATIENCE)
        self._note_left(begun)
        self.last_faults += self.replicas[which].faults(self._killed)
        return code

    def _busy(self, replica: Replica) -> int:
        """Images in flight in it, as soon as there are any."""
        end = time.monotonic() + _PATIENCE
        while not (found := int(replica.metrics()["glimpse_images_in_flight"])) and time.monotonic() < end:
            time.sleep(0.01)
        return found

    def _now(self) -> float:
        return time.monotonic() - self.begun


def order(effort: Effort) -> list[Strike]:
    """The signals, well mixed."""
    strikes = [Strike(signal.SIGTERM)] * effort.terms + [Strike(signal.SIGKILL)] * effort.kills
    strikes += [Strike(signal.SIGKILL, "worker")] * effort.worker_kills
    strikes += [Strike(signal.SIGKILL, "engine")] * effort.engine_kills
    random.Random(effort.seed).shuffle(strikes)
    return strikes


def _end_them(pair: Pair, effort: Effort, ledger: Ledger, ticker: Ticker) -> None:
    """Send the signals, to one replica and the other in turn, spread over the requests."""
    strikes, generator = order(effort), random.Random(effort.seed)
    for turn, strike in enumerate(strikes):
        # Where the machine is fast, not all of them in the first tenth of the requests.
        due = effort.requests * turn // len(strikes)
        end = time.monotonic() + _PATIENCE
        while ledger.requests < due and time.monotonic() < end:
            time.sleep(0.05)
        if strike.kind is None:
            ending = pair.strike(turn % 2, strike.signal)
        else:
            ending = pair.strike_part(turn % 2, strike, strike.kind, generator)
        if effort.until == "answering":
            pair.wait_until_answering(turn % 2)
        took, back = ((at or ending.sent) - ending.sent for at in (ending.exited, ending.serving))
        ticker.at(ledger.requests)
        ticker.tell(
            f"{turn + 1} of {len(strikes)}: {strike.name} to {turn % 2} with {ending.in_flight} in flight, "
            f"exit {ending.code} after {took:.2f} s, serves after {back:.2f} s; failed so far: {len(ledger.failures)}"
        )


def _judge(ledger: Ledger, pair: Pair, effort: Effort, report: Report) -> None:
    endings = pair.endings
    data = ledger.as_data(endings)
    told = data["failures"]
    report.promise(
        "no caller saw a failure",
        not ledger.failures,
        counts(Counter(f"{each.call} {each.code} {each.reason}".strip() for each in ledger.failures)),
    )
    for number, each in enumerate(told[:_SHOWN], 1):
        report.figures[f"failure {number}"] = (
            f"{each['call']}, caller {each['caller']}: {each['code']} {each['reason']} ({each['message']}), "
            f"unanswered: {each['images']}; began {each['begun_at']}; ended {each['ended_at']}"
        )
    for number, each in enumerate(data["slowest"][:_SHOWN_SLOW], 1):
        report.figures[f"slowest call {number}"] = (
            f"caller {each['caller']}: {each['seconds']:.2f} s; began {each['begun_at']}; ended {each['ended_at']}"
        )
    report.promise("every answer is the right one", not ledger.wrong, "; ".join(ledger.wrong[:3]))
    report.promise(
        "all requests were made", ledger.requests >= effort.requests, f"{ledger.requests:,} of {effort.requests:,}"
    )
    for name, wanted, code in (("SIGTERM", effort.terms, 0), ("SIGKILL", effort.kills, -signal.SIGKILL)):
        codes = Counter(str(each.code) for each in endings if each.signal == name)
        report.promise(f"every {name} ends with {code}", codes == Counter({str(code): wanted}), dict(codes))
    for strike, wanted in (
        (Strike(signal.SIGKILL, "worker"), effort.worker_kills),
        (Strike(signal.SIGKILL, "engine"), effort.engine_kills),
    ):
        if wanted:
            replaced = sum(each.signal == strike.name and each.serving is not None for each in endings)
            report.promise(f"after every {strike.name} it is replaced", replaced == wanted, f"{replaced} of {wanted}")
    idle = [each for each in endings if not each.in_flight]
    report.promise("every signal came while images were in flight", not idle, f"{len(idle)} did not" if idle else "")
    faults = [fault for each in endings for fault in each.faults] + pair.last_faults
    report.promise("no process is left of a replica that has ended", not pair.left, "; ".join(pair.left[:3]))
    report.promise("no replica logs a defect", not faults, "; ".join(faults[:3]))
