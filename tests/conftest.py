"""Real servers for tests: what `python -m server` runs, in a process of its own, on free ports."""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.durations import first_the_longest
from tests.fork_server import Forked, ForkServer, inherits

# A machine that stands still for a moment must fail no test.
hypothesis.settings.register_profile("without a clock", deadline=None)
hypothesis.settings.load_profile("without a clock")

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
# What servers keep between their starts; a developer's own home stays as it is. For processes that tests start, too.
# They measure nothing at their first start, which beside other tests would take long and find something else each time:
# a stream for each core is the rule.
CACHE = {"GLIMPSE_CACHE": str(ROOT / ".cache" / "tests"), "GLIMPSE_COMPUTE_STREAMS": "1024"}
# The model that tests mean unless they name one: its network is converted and its answers are computed in a tenth of
# the time that the default takes. `default_server` has the default.
SMALL_MODEL = {"GLIMPSE_WEIGHTS": "cifar10"}
os.environ.update(CACHE | SMALL_MODEL)


# Else each of the hundreds of processes that tests start would compile our sources again, where containers forbid it.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_WORKER_BYTES = 2 << 30  # of memory that a process of tests and the servers that it starts may take


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """For `-n auto`: one more process than there are cores, while memory lasts.

    Tests wait for servers to start, drain and time out; another one's tests compute meanwhile. A single file is run in
    this process and at once, because the others take a file as a whole.
    """
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and Path(*files).is_file():
        return 0
    from glimpse.server.machine import cores
    from glimpse.server.runtime import memory_budget

    memory = memory_budget.available()
    processes = cores.available() + 1
    return processes if memory is None else max(1, min(processes, memory.free // _WORKER_BYTES))


@functools.cache
def _forks() -> ForkServer:
    """Starts servers of this process' tests; ends with them."""
    return ForkServer("server")


def pytest_unconfigure() -> None:
    """End what starts servers, if it was needed."""
    if _forks.cache_info().currsize:
        _forks().close()
        _forks.cache_clear()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests: the longest files first, so that no process is left alone with one."""
    if hasattr(config, "workerinput"):
        items[:] = first_the_longest(items)


def pytest_collection_finish() -> None:
    """Leave out of later collections of garbage what the tests' modules hold: it stays to the end."""
    gc.collect()
    gc.freeze()


class RunningServer:
    """A server process, its log, and where it listens."""

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        module: str = "server",
        model: dict[str, str] = SMALL_MODEL,
        forked: bool = True,
    ) -> None:
        """Start it on free ports; returns at once.

        Args:
            arguments: its options, beside those for its ports.
            environment: variables of its own, beside this process' without those of Glimpse.
            module: what ``python -m`` runs.
            model: the variables that choose one; none for the default.
            forked: from a process that has imported what a server does, where that makes no difference to this one.
        """
        ours = {key: value for key, value in os.environ.items() if not key.startswith("GLIMPSE_")}
        environment = environment or {}
        whole = {**ours, **CACHE, **model, "GLIMPSE_LOG_FORMAT": "json", **environment}
        options = ["--port=0", "--metrics-port=0", "--host=127.0.0.1", *arguments]
        self.process: subprocess.Popen[bytes] | Forked
        read, write = os.pipe()
        if forked and module == "server" and sys.platform == "linux" and inherits(environment):
            self.process = _forks().start(options, [0, 1, write], cwd=ROOT, environment=whole)
        else:
            command = [sys.executable, "-m", module, *options]
            self.process = subprocess.Popen(command, cwd=ROOT, env=whole, stderr=write)
        os.close(write)
        self._stderr = open(read, encoding="utf-8")  # noqa: PTH123, SIM115 - a descriptor, closed by `close`
        self.log: list[dict[str, Any]] = []
        self.stray: list[str] = []  # lines on stderr that are not log lines
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stderr:
            with self._changed:
                if line.startswith("{"):
                    self.log.append(json.loads(line))
                else:
                    self.stray.append(line)
                self._changed.notify_all()

    def wait_for(self, event: str, *, seconds: float = 120) -> dict[str, Any]:
        """The first log line of that event, waiting for it."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                for line in self.log:
                    if line["event"] == event:
                        return line
                if self.process.poll() is not None or not self._changed.wait(min(1, max(0, end - time.monotonic()))):
                    if self.process.poll() is None and time.monotonic() < end:
                        continue
                    raise AssertionError(f"no {event!r} from the server; log: {self.log} {''.join(self.stray)}")

    @property
    def target(self) -> str:
        """Where gRPC listens."""
        return f"127.0.0.1:{self.wait_for('listening')['port']}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus would scrape."""
        return f"http://127.0.0.1:{self.wait_for('listening')['metrics_port']}/metrics"

    @property
    def http(self) -> str:
        """Where HTTP/JSON is answered: host:port."""
        return f"127.0.0.1:{self.wait_for('listening')['http_port']}"

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal; does not wait."""
        self.process.send_signal(number)

    def exit_code(self, *, seconds: float = 60) -> int:
        """Wait for the end."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def close(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self._stderr.close()


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """A server on the CIFAR-10 model with HTTP, too, ready; shared, so tests must leave it as they found it."""
    yield from _serving(RunningServer("--http-port=0"))


@pytest.fixture(scope="session")
def default_server() -> Iterator[RunningServer]:
    """A server as it is without settings but for HTTP, ready; shared, so tests must leave it as they found it."""
    yield from _serving(RunningServer("--http-port=0", model={}))


def _serving(running: RunningServer) -> Iterator[RunningServer]:
    try:
        running.wait_for("serving", seconds=280)
        yield running
    finally:
        running.close()


@pytest.fixture
def start_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., RunningServer]]:
    """Start servers of a test's own; they are ended with it. Its parameter, if any: their workers."""
    workers = {"GLIMPSE_WORKERS": str(request.param)} if hasattr(request, "param") else {}
    started: list[RunningServer] = []

    def start(
        *arguments: str,
        environment: dict[str, str] | None = None,
        module: str = "server",
        model: dict[str, str] = SMALL_MODEL,
    ) -> RunningServer:
        environment = {**workers, **(environment or {})}
        started.append(RunningServer(*arguments, environment=environment, module=module, model=model))
        return started[-1]

    yield start
    for running in started:
        running.close()


@pytest.fixture(scope="session")
def cat_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chelsea the cat, 451 x 300, as a JPEG file (CC0, from scikit-image)."""
    from PIL import Image
    from skimage import data

    path = tmp_path_factory.mktemp("photos") / "chelsea.jpg"
    Image.fromarray(data.chelsea()).save(path, quality=95)
    return path


@pytest.fixture(scope="session")
def cifar10_test() -> Path:
    """CIFAR-10's test images as a zip of class/image files."""
    path = SHARED / "data" / "cifar10" / "test.zip"
    if not path.exists():
        pytest.skip("CIFAR-10's test.zip is not at hand: ../shared/data/cifar10 is missing")
    return path
