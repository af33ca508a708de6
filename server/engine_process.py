"""`python -m glimpse.server.engine_process --control FD`: a process that computes for all workers of a server.

It is begun by the supervisor, which tells it everything over the control channel; where that ends, so does this
process, at once. Linux only. What it is told (`do`), and what it says (`did`):

settings  + [pickled `Settings`], first of all: load the model, or the models of a repository
          -> loading, at the beginning of each step: `step`, for people, and `limited`, see `server.progress`
          -> loaded with `model`, see `ModelFacts.told`, + [pickled `ModelFacts`], or failed with `exit`, the code of
             `startup`, and `detail`, for people; of a repository nothing beside `loaded`, before anything is
connect   + [stream socket whose other end a worker has], `worker`: its number; after `loaded`
models    + [socket of a control channel that a worker has, see `repository/told.py`], `worker`: its number; instead of
          `connect` where there is a repository
look      look at the repository now, and try again what has failed
ping      -> pong, with the same `number`
metrics   -> metrics, with the same `number` + [pickled list of Prometheus' metrics]
end       end at once
          -> trouble, with `detail`: what keeps the device from answering; null: nothing does any more

Signals do not end it, because Ctrl+C reaches every process of a terminal, and a worker that drains needs its engine.
"""

from __future__ import annotations

import gc
import signal

if __name__ == "__main__":  # before the imports below, which take a while
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, signal.SIG_IGN)
    # Nearly all that they and a framework make stays, so that looking through it for garbage finds nothing. Once the
    # model is loaded, `memory.settle` has Python look more often.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])

import argparse
import asyncio
import contextlib
import logging
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable

import structlog

from glimpse.models.messages import short
from glimpse.server.batching.batcher import Batcher
from glimpse.server.engine.host import Host
from glimpse.server.engine.late_observer import LateObserver
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.loading.loading import load_configured
from glimpse.server.machine import cores
from glimpse.server.machine.memory import settle
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.processes import cleanup, event_loops, standard_error, stopping
from glimpse.server.processes.control_channel import ControlChannel, Message, memory_file, read_memory_file
from glimpse.server.processes.startup import StartupError
from glimpse.server.repository.served import ServedModels
from glimpse.server.settings import Settings

_log = structlog.get_logger(__name__)

_STOP_SECONDS = 3.0  # that a model which is being loaded may take to be given up


class _Engine:
    """The life of the process. What is told is read by one thread, and nothing that it does takes long."""

    def __init__(self, channel: ControlChannel) -> None:
        self._channel = channel
        self._metrics = Metrics(labelling=False)  # workers keep samples and take feedback
        self._observer = LateObserver()
        self._host: Host | None = None
        self._life: threading.Thread | None = None  # of a repository of models
        self._models: ServedModels | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the models
        self._captured: standard_error.Captured | None = None

    def run(self) -> None:
        """Do what is told, until the channel ends."""
        try:
            self._obey()
        except Exception:  # noqa: BLE001 - the supervisor begins another engine
            _log.exception("the engine ends, because of a defect")

    def _obey(self) -> None:
        while (message := self._channel.receive()) is not None:
            do = message.body.get("do")
            if do == "end":
                break
            if do == "settings":
                settings = pickle.loads(read_memory_file(message.files[0]))  # noqa: S301 - from our supervisor
                self._begin(settings, message.body["engine"])
            elif do == "connect":
                self._connect(message)
            elif do == "models":
                self._join_models(message)
            elif do == "look":
                self._on_loop(lambda models: models.repository.look())
            elif do == "ping":
                self._channel.send({"did": "pong", "number": message.body["number"]})
            elif do == "metrics":
                collected = pickle.dumps(list(self._metrics.registry.collect()))
                self._say({"did": "metrics", "number": message.body["number"]}, collected)
            else:
                message.close()
                _log.error("unknown order", order=str(do))

    def end(self) -> None:
        """Leave nothing of what was begun, and end."""
        if self._life is not None and self._life is not threading.current_thread():
            self._on_loop(ServedModels.stop)
            self._life.join(_STOP_SECONDS)
        cleanup.current().end()
        if self._captured is not None:
            self._captured.close()
        logging.shutdown()
        stopping.end_children()
        os._exit(0)

    def _begin(self, settings: Settings, number: int) -> None:
        self._captured = standard_error.configure_log(settings.log_level, settings.log_format, {"engine": number})
        if settings.models is None:
            threading.Thread(target=self._load, args=(settings,), name="loading", daemon=True).start()
            return
        self._life = threading.Thread(target=self._serve_models, args=(settings,), name="models", daemon=True)
        self._life.start()

    def _serve_models(self, settings: Settings) -> None:
        """Serve a repository for as long as the process lives; its event loop is in this thread."""
        try:
            with asyncio.Runner(loop_factory=event_loops.factory()) as runner:
                runner.run(self._run_models(settings))
        except StartupError as error:
            self._channel.send({"did": "failed", "exit": error.exit_code, "detail": str(error)})
        except Exception:  # noqa: BLE001 - the supervisor begins another engine
            _log.exception("the engine ends, because of a defect")
        self.end()

    async def _run_models(self, settings: Settings) -> None:
        assert settings.models is not None  # noqa: S101 - else this is not called
        self._loop = asyncio.get_running_loop()
        self._models = ServedModels(settings.models, settings, self._metrics, self._trouble)
        self._channel.send({"did": "loaded"})
        await self._models.run()

    def _trouble(self, detail: str | None) -> None:
        self._channel.send({"did": "trouble", "detail": detail})

    def _on_loop(self, do: Callable[[ServedModels], object]) -> None:
        if self._models is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has closed: the process ends
                self._loop.call_soon_threadsafe(do, self._models)

    def _join_models(self, message: Message) -> None:
        if self._models is None or len(message.files) != 1:
            message.close()
            _log.error("a worker came before the models", worker=message.body.get("worker"))
            return
        number, connected = message.body["worker"], socket.socket(fileno=message.files[0])
        self._on_loop(lambda models: models.join(number, connected))

    def _load(self, settings: Settings) -> None:
        """Load the model and say what became of it; then look now and then whether the device hangs."""
        try:
            model = load_configured(settings, lambda *_: self._observer, progress=self._progress)
            facts = ModelFacts.of(model)
        except StartupError as error:
            self._channel.send({"did": "failed", "exit": error.exit_code, "detail": str(error)})
            return
        except Exception as error:  # noqa: BLE001 - the supervisor has to be told, whatever it is
            _log.exception("the engine cannot start")
            detail = f"Cannot load the model: {short(error)}"
            self._channel.send({"did": "failed", "exit": StartupError.exit_code, "detail": detail})
            return
        # From here on: neither the image that shows the outputs nor anything before counts.
        self._observer.observe(self._metrics.of(model.identity.name, model.identity.version))
        assert isinstance(model.batcher, Batcher)  # noqa: S101 - its device is in this process
        self._host = Host(model.batcher, facts.layout)
        self._host.start()
        settle()
        self._say({"did": "loaded", "model": facts.told}, pickle.dumps(facts))
        self._watch(model, self._host, min(1.0, settings.stuck_seconds / 4))

    def _progress(self, step: str, *, limited: bool = True, warms: bool = False) -> None:  # noqa: ARG002 - a `Progress`
        self._channel.send({"did": "loading", "step": step, "limited": limited})

    def _watch(self, model: LoadedModel, host: Host, seconds: float) -> None:
        before: str | None = None
        while True:
            time.sleep(seconds)
            trouble = model.batcher.trouble()
            if (trouble is None) == (before is None):
                continue
            before = trouble
            host.stuck(stuck=trouble is not None)
            self._trouble(trouble)

    def _connect(self, message: Message) -> None:
        if self._host is None or len(message.files) != 1:
            message.close()
            _log.error("a worker came before the model was loaded", worker=message.body.get("worker"))
            return
        self._host.add(socket.socket(fileno=message.files[0]))

    def _say(self, body: dict[str, object], content: bytes) -> None:
        file = memory_file("glimpse-message", content)
        try:
            self._channel.send(body, [file])
        finally:
            os.close(file)


def main() -> None:
    """Run an engine until its supervisor ends it, or ends."""
    parser = argparse.ArgumentParser(prog="python -m glimpse.server.engine_process")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the control channel")
    control = parser.parse_args().control
    os.set_inheritable(control, False)  # noqa: FBT003 - its only argument
    # TensorFlow's start-up chatter is not ours.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("CUDA_VISIBLE_DEVICES"):  # a GPU that the supervisor has found
        cores.take_turns_at_once()
    else:
        cores.share_in_long_turns()
    engine = _Engine(ControlChannel.inherited(control))
    engine.run()
    engine.end()


if __name__ == "__main__":
    main()
