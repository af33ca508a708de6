"""The service as its users start it: `python -m glimpse.server`, a process of its own, on free ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from tools.bench import machine
from tools.bench.worker import ROOT

_PATIENCE = 300  # seconds until it serves


class ServiceError(RuntimeError):
    """The service did not start; the message holds its log."""


class Service:
    """A running service."""

    def __init__(
        self, environment: Mapping[str, str], *arguments: str, root: Path = ROOT, packages: Sequence[Path] = ()
    ) -> None:
        """Start it, from the checkout at `root`, and wait until it serves.

        Args:
            environment: variables on top of ours.
            arguments: flags.
            root: the checkout.
            packages: folders in which Python is to look for modules before all others.

        Raises:
            ServiceError: it ended, or did not serve in time.
        """
        # What is kept, and what `auto` would make depend on random weights.
        kept = {"GLIMPSE_CACHE", "GLIMPSE_PRECISION"}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GLIMPSE_") or key in kept}
        self._events: dict[str, dict[str, Any]] = {}
        self._lines: list[str] = []
        self._serving = threading.Event()
        begun = time.monotonic()
        # Where a checkout of before has no `glimpse.server`, its folders are packages of their own.
        module = "glimpse.server" if (root / "src" / "glimpse" / "server").exists() else "server"
        # What we were given comes last: it may hold packages that the service needs, too.
        path = [*packages, root, root / "src", root / "proto", *filter(None, [inherited.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "--host=127.0.0.1", "--port=0", "--metrics-port=0", *arguments],
            cwd=root,
            # Else a package that is installed from one checkout would be imported in another, too.
            env={
                **inherited,
                "PYTHONPATH": os.pathsep.join(map(str, path)),
                "GLIMPSE_LOG_FORMAT": "json",
                **environment,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        while not self._serving.wait(0.02):
            if self._process.poll() is not None or time.monotonic() > begun + _PATIENCE:
                self.close()
                raise ServiceError("The service does not serve. Its log:\n" + "".join(self._lines))
        self.start_seconds = time.monotonic() - begun
        self.start_cpu_seconds = machine.cpu_seconds(self.pid)
        self.start_rss_bytes = machine.rss_bytes(self.pid)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if line.startswith("{"):
                event = json.loads(line)
                self._events.setdefault(event["event"], event)
                if event["event"] == "serving":
                    self._serving.set()

    @property
    def log(self) -> list[tuple[str, str]]:
        """The time and the event of each line of its log so far, with the step of what says one."""
        events = [json.loads(line) for line in list(self._lines) if line.startswith("{")]
        return [
            (str(event.get("timestamp", "")), ": ".join(filter(None, [str(event["event"]), event.get("step")])))
            for event in events
        ]

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def target(self) -> str:
        """Where gRPC listens."""
        return f"127.0.0.1:{self._events['serving']['port']}"

    @property
    def http_port(self) -> int:
        """Where HTTP/JSON is answered, if GLIMPSE_HTTP_PORT asks for it."""
        return int(self._events["listening"]["http_port"])

    @property
    def loaded(self) -> dict[str, Any]:
        """What it said of the model it loaded."""
        return self._events["model loaded"]

    def metrics(self) -> dict[str, float]:
        """All of its counters and gauges now: name with labels -> value; of all models and versions together."""
        url = f"http://127.0.0.1:{self._events['serving']['metrics_port']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = {key: value for key, value in sample.labels.items() if key not in {"model", "version"}}
                name = sample.name + "".join(f",{key}={value}" for key, value in sorted(labels.items()))
                found[name] = found.get(name, 0.0) + sample.value
        return found

    def close(self) -> None:
        """End it as an orchestrator would; kill it if it does not."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()


def batches(before: Mapping[str, float], after: Mapping[str, float], sizes: list[int]) -> dict[int, int]:
    """How many batches of each padded size were computed between two looks at the metrics.

    The histogram's bounds hold every power of two, so each of its buckets lies within one padded size.
    """
    bounds = sorted(
        float(name.rpartition("=")[2]) for name in after if name.startswith("glimpse_batch_size_bucket,le=")
    )
    found = dict.fromkeys(sizes, 0)
    below = 0.0
    for bound in bounds:
        name = next(n for n in after if n.startswith("glimpse_batch_size_bucket,le=") and _bound(n) == bound)
        upto = after[name] - before.get(name, 0.0)
        if upto > below:
            found[next((size for size in sizes if size >= bound), sizes[-1])] += int(upto - below)
        below = upto
    return {size: number for size, number in found.items() if number}


def _bound(name: str) -> float:
    return float(name.rpartition("=")[2])
