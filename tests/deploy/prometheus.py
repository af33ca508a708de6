"""A real Prometheus beside a test, which scrapes one target every second."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import URLError

from tests.deploy.tools import tool

_SECONDS = 30  # until it is called hung


class Prometheus:
    """Scrapes as the ServiceMonitor asks for, only more often, and evaluates the rules."""

    def __init__(self, folder: Path, *, target: str, labels: dict[str, str], rules: dict[str, Any]) -> None:
        """Write its configuration; skips the test where there is no Prometheus. `target` is host:port."""
        self._program = tool("prometheus")
        self._folder = folder
        (folder / "rules.yaml").write_text(json.dumps(rules))  # JSON is YAML
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": labels["job"], "static_configs": [{"targets": [target], "labels": labels}]},
            ],
        }
        (folder / "prometheus.yaml").write_text(json.dumps(configuration))
        self._said: list[str] = []
        self._listening = threading.Event()
        self._ready = threading.Event()
        self._address = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                self._program,
                "--config.file=prometheus.yaml",
                "--storage.tsdb.path=data",
                "--web.listen-address=127.0.0.1:0",
                "--log.format=json",
            ],
            cwd=self._folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not (self._listening.wait(_SECONDS) and self._ready.wait(_SECONDS)):
            self._end()
            raise AssertionError("Prometheus does not get ready: " + "".join(self._said))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()  # nothing that it knows is to be kept
        self._process.wait(_SECONDS)
        self._reader.join(_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            said = json.loads(line)
            if said.get("msg") == "Listening on":
                self._address = said["address"]
                self._listening.set()
            if said.get("msg") == "Server is ready to receive web requests.":
                self._ready.set()

    def ask(self, path: str, **parameters: str) -> Any:
        """What its HTTP API answers."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_SECONDS) as response:
                answer = json.load(response)
        except URLError as error:
            body = error.read().decode() if hasattr(error, "read") else ""
            raise AssertionError(f"{path} {parameters}: {error} {body}") from error
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series that an expression has now, labels and value. Those that are no number are left out."""
        found = self.ask("query", query=expression)
        assert found["resultType"] == "vector", expression
        series = [(each["metric"], float(each["value"][1])) for each in found["result"]]
        return [each for each in series if math.isfinite(each[1])]
