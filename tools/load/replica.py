"""A server process that can be signalled and started anew on the same port, and what it said meanwhile."""

from __future__ import annotations

import json
import random
import signal
import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tools.bench.service import Service

_KEPT = 200  # lines of the log, for a message
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Replica(Service):
    """A service on ports of the caller's choice; it serves when this returns."""

    def __init__(
        self, *arguments: str, port: int = 0, metrics_port: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it; 0 takes a free port.

        Raises:
            ServiceError: it ended, or did not serve in time.
        """
        self.events: list[tuple[float, dict[str, Any]]] = []  # time.monotonic and the line, one a call left out
        self.logged = 0  # characters of all lines, those of calls too
        # The later of two equal flags holds.
        super().__init__(environment or {}, f"--port={port}", f"--metrics-port={metrics_port}", *arguments)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.logged += len(line)
            self._lines.append(line)
            del self._lines[:-_KEPT]  # a log of a hundred thousand refusals is nobody's reading
            if not line.startswith("{"):
                continue
            event = json.loads(line)
            if event.get("event") == "rpc":
                continue
            self.events.append((time.monotonic(), event))
            self._events.setdefault(event.get("event", ""), event)
            if event.get("event") == "serving":
                self._serving.set()

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; does not wait."""
        self._process.send_signal(number)

    def exit_code(self, seconds: float = 120) -> int:
        """Wait for its end; the negative number of a signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it goes on.
        """
        code = self._process.wait(seconds)
        self._reader.join(seconds)
        return code

    def event(self, name: str) -> dict[str, Any]:
        """The first of its log lines about this.

        Raises:
            KeyError: expected; there is none.
        """
        return self._events[name]

    def defects(self, killed: Collection[int] = ()) -> list[str]:
        """What it logged as an error, but that it replaced those of its processes that were `killed`."""
        return [
            f"{event['event']}: {event.get('detail', '')}{event.get('exception', '')}"
            for _, event in list(self.events)
            if event.get("level") in {"error", "critical"}
            and not (event["event"] == "a process is replaced" and event["pid"] in killed and not event["hung"])
        ]

    def faults(self, killed: Collection[int] = ()) -> list[str]:
        """What it logged as an error, as `defects` has it, and what it printed besides its log."""
        return self.defects(killed) + [
            line.strip() for line in self._lines if not line.startswith("{") and line.strip()
        ]


def free_ports(count: int, seed: int | None = None) -> list[int]:
    """Ports of the loopback that nobody listens on and that no outgoing connection will take meanwhile."""
    lowest = int(_RANGE.read_text(encoding="ascii").split()[0]) if _RANGE.exists() else 32768
    generator = random.Random(seed)
    found: list[int] = []
    while len(found) < count:
        port = generator.randrange(lowest // 2, lowest)
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
