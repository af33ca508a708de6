"""Attack a server, and see how its neighbour fares: calm, under attack, and afterwards."""

from __future__ import annotations

import hashlib
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.server.access.authority import Authority
from tests.server.hostile.memory import forget_peak, peak, resident
from tools.bench.worker import Worker
from tools.load.attack.neighbour import ANSWERED, UNANSWERED, Record
from tools.load.attack.scenario import MB, V4, V6, Attack, Scenario
from tools.load.replica import Replica

TOKEN = "neighbour-token-of-the-rehearsal"  # noqa: S105 - of a server that lives for a minute
IDENTITY = "neighbour"
ROOT = "authority.pem"  # in a server's folder: who signed its certificate
TIMES = 3.0  # the calm median; the promise
_WARM = 1.0  # seconds of the neighbour before anything is measured


@dataclass(frozen=True)  # no slots: its defaults are those of the command line
class Effort:
    """How much."""

    seconds: float = 6.0  # of the calm phase, of the attack and of the control, each
    after: float = 10.0  # seconds from the end of the attack to the last look
    patience: float = 10.0  # seconds after which the neighbour expects no answer any more
    scale: float = 1.0  # of all numbers of the attacks
    swap: bool = False  # the attacker comes over IPv6 where it else comes over IPv4, and the other way round
    control: bool = True  # burn as much CPU as the attacker did, for comparison


@dataclass(frozen=True, slots=True)
class Phase:
    """How the neighbour fared for a while."""

    sent: int
    p50: float | None  # seconds; calls without an answer count with the time that they were waited for; None: no call
    p99: float | None
    errors: dict[str, int]  # by what they ended with


@dataclass(slots=True)
class Finding:
    """What came of one attack."""

    scenario: str
    attack: str
    source: str  # the attacker's first address
    calm: Phase
    under: Phase
    after: Phase
    control: Phase | None
    memory: dict[str, int]  # bytes: before, peak, after
    attacker: dict[str, Any]  # what it did
    logged: int  # bytes that the server wrote to its log and audit log
    broken: list[str] = field(default_factory=list)  # what did not hold

    @property
    def ratio(self) -> float | None:
        """The median under attack, in calm ones; None where there is none."""
        return self.under.p50 / self.calm.p50 if self.calm.p50 and self.under.p50 else None

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ratio": self.ratio}


class Workers:
    """The processes that take part: the neighbour, the attacker, the control."""

    def __init__(self) -> None:
        """Start them."""
        with ExitStack() as stack:
            self.neighbour = stack.enter_context(Worker("tools.load.attack.neighbour"))
            self.attacker = stack.enter_context(Worker("tools.load.attack.attacker"))
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        self._opened.close()


@contextmanager
def serving(scenario: Scenario, environment: Mapping[str, str]) -> Iterator[tuple[Replica, Path]]:
    """A server for this scenario, and a folder of its own with its credentials and its audit log."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {f"GLIMPSE_{key}": value for key, value in scenario.settings.items()}
        settings["GLIMPSE_AUDIT_LOG"] = str(folder / "audit.log")
        if scenario.access == "tokens":
            settings["GLIMPSE_TOKENS"] = str(write_tokens(folder / "tokens.toml", {IDENTITY: TOKEN}))
        if scenario.access == "tls":
            authority = Authority()
            (folder / ROOT).write_bytes(authority.pem)
            certificate, key = authority.server().write(folder / "server")
            settings |= {"GLIMPSE_TLS_CERTIFICATE": str(certificate), "GLIMPSE_TLS_KEY": str(key)}
        # Both families of the loopback: they are two addresses of callers who have nothing to do with one another.
        with Replica("--host=::", environment=settings | dict(environment)) as replica:
            yield replica, folder


def write_tokens(file: Path, tokens: Mapping[str, str], expires: Mapping[str, str] | None = None) -> Path:
    """A file of tokens, by identity, in one step: a server must not see half of it."""
    lines = []
    for identity, token in tokens.items():
        lines += [
            "[[token]]",
            f'identity = "{identity}"',
            f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"',
        ]
        if expires and identity in expires:
            lines.append(f"expires = {expires[identity]}")
    new = file.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n", encoding="utf-8")
    new.replace(file)
    return file


def port_of(replica: Replica) -> int:
    """Where gRPC listens, on every address of the loopback."""
    return int(replica.target.rpartition(":")[2])


def addresses(attack: Attack, number: int, *, swap: bool) -> tuple[list[str], str]:
    """Where the attacker comes from, and where the neighbour: in turn by the attack's `number` in its scenario."""
    from_v6 = (number % 2 == 1) != swap
    if attack.sources > 1:  # of IPv6 the loopback has one address alone
        return [f"127.0.0.{1 + each}" for each in range(attack.sources)], V6
    source = V6 if from_v6 else V4
    other = V4 if from_v6 else V6
    return [source], source if attack.beside else other


@dataclass(frozen=True, slots=True)
class Trial:
    """One attack on a server that serves; it may leave that in a poor state."""

    scenario: Scenario
    number: int  # of the attack in it
    replica: Replica
    folder: Path  # with the server's audit log
    workers: Workers
    effort: Effort

    @property
    def attack(self) -> Attack:
        """What is tried."""
        return self.scenario.attacks[self.number]

    def run(self, sources: Sequence[str] = ()) -> Finding:
        """Attack, and look at the neighbour; `sources`: where the attacker comes from, instead of the usual."""
        attack, scenario, workers, effort = self.attack, self.scenario, self.workers, self.effort
        usual, beside = addresses(attack, self.number, swap=effort.swap)
        attackers = list(sources) or usual
        port, arguments = port_of(self.replica), attack.scaled(effort.scale)
        if arguments.get("sent"):
            workers.attacker.do("prepare", sent=arguments["sent"], packed=arguments.get("packed", False))
        metadata = [["authorization", f"Bearer {TOKEN}"]] if scenario.access == "tokens" else []
        if scenario.name_of_neighbour:
            metadata.append(["glimpse-client", scenario.name_of_neighbour])
        neighbour = {
            "target": f"[{beside}]:{port}" if ":" in beside else f"{beside}:{port}",
            "metadata": metadata,
            "fresh": scenario.fresh,
            "streamed": attack.streamed,
            "authority": str(self.folder / ROOT) if scenario.access == "tls" else "",
        }

        def act() -> dict[str, Any]:
            told: dict[str, Any] = workers.attacker.do(
                attack.job, port=port, sources=attackers, seconds=effort.seconds, **arguments
            )
            return told

        finding = self.measured(neighbour, attackers[0], act)
        judge(finding, scenario)
        return finding

    def measured(self, neighbour: Mapping[str, Any], source: str, act: Callable[[], dict[str, Any]]) -> Finding:
        """Look at a neighbour, who begins with these arguments, before, while and after somebody acts."""
        pid, workers, effort = self.replica.pid, self.workers, self.effort
        workers.neighbour.do("begin", patience=effort.patience, **neighbour)
        time.sleep(min(_WARM, effort.seconds))
        calm = time.monotonic()  # one clock for all processes of a machine, on Linux
        time.sleep(effort.seconds)
        before, logged = resident(pid), self._logged()
        forget_peak(pid)
        begun = time.monotonic()
        told = act()
        ended = time.monotonic()
        time.sleep(effort.after)
        left = resident(pid)
        memory = {"before": before, "peak": max(before, peak(pid), left), "after": left}
        logged = self._logged() - logged
        after = burnt = time.monotonic()
        if effort.control:
            workers.attacker.do("burn", seconds=effort.seconds, share=min(1.0, told["cpu"]))
            burnt = time.monotonic()
        records: list[Record] = [tuple(record) for record in workers.neighbour.do("end")]
        finding = Finding(
            self.scenario.name,
            self.attack.name,
            source,
            calm=phase(records, calm, begun),
            under=phase(records, begun, ended),
            after=phase(records, ended, after),
            control=phase(records, after, burnt) if effort.control else None,
            memory=memory,
            attacker=told,
            logged=logged,
        )
        if not self.replica.alive():
            finding.broken.append("the server has ended")
        if defects := self.replica.defects():
            finding.broken.append(f"a defect is logged: {defects[0][:300]}")
        return finding

    def _logged(self) -> int:
        """Bytes of log and audit log so far."""
        audit = self.folder / "audit.log"
        return self.replica.logged + (audit.stat().st_size if audit.exists() else 0)


def phase(records: Sequence[Record], begin: float, end: float) -> Phase:
    """The calls that were sent between two moments."""
    sent = [record for record in records if begin <= record[0] < end]
    waited = sorted(seconds for _, seconds, outcome in sent if outcome in {ANSWERED, UNANSWERED})
    errors = Counter(outcome for _, _, outcome in sent if outcome != ANSWERED)
    return Phase(
        len(sent),
        p50=statistics.median(waited) if waited else None,
        p99=waited[min(len(waited) - 1, math.ceil(0.99 * len(waited)) - 1)] if waited else None,
        errors=dict(errors),
    )


def judge(finding: Finding, scenario: Scenario) -> None:
    """Note what did not hold."""
    errors = Counter(finding.under.errors) + Counter(finding.after.errors)
    if errors:
        finding.broken.append("the neighbour met " + ", ".join(f"{n} {what}" for what, n in errors.most_common()))
    if finding.under.sent and (finding.ratio is None or finding.ratio > TIMES):
        times = "without an answer" if finding.ratio is None else f"{finding.ratio:.1f} times the calm one"
        finding.broken.append(f"its median is {times}")
    grown, kept = ((finding.memory[name] - finding.memory["before"]) / MB for name in ("peak", "after"))
    if grown > scenario.grown:
        finding.broken.append(f"memory grew by {grown:.0f} MB, more than {scenario.grown:.0f}")
    if kept > scenario.kept:
        finding.broken.append(f"of memory {kept:.0f} MB were kept, more than {scenario.kept:.0f}")
    if scenario.logged is not None and finding.logged > scenario.logged:
        finding.broken.append(f"logged were {finding.logged:,} bytes, more than {scenario.logged:,}")
