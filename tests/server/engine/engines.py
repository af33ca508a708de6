"""An engine for tests: the real process with the small model, or a host in this process with a network that is held."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from glimpse.models import sources
from glimpse.models.child_environment import child_environment
from glimpse.models.outputs import DEFAULT_OUTPUTS, LOGITS, PROBABILITIES, Outputs
from glimpse.models.spec import NetworkSummary
from glimpse.server import settings
from glimpse.server.batching.batch_queue import Answer
from glimpse.server.batching.batcher import Batcher
from glimpse.server.engine.host import Host
from glimpse.server.engine.late_observer import LateObserver
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.engine.remote_queue import RemoteQueue
from glimpse.server.processes.control_channel import ControlChannel, Message, memory_file, read_memory_file
from glimpse.server.settings import Settings

WAIT = 30.0  # seconds until something is called hung
CLASSES = 10


def plain_settings(*arguments: str) -> Settings:
    """Settings that can be pickled."""
    return Settings.model_construct(**dict(settings.load(list(arguments))))


class EngineProcess:
    """`python -m glimpse.server.engine_process`, as a supervisor begins it."""

    def __init__(self, chosen: Settings) -> None:
        self.channel, theirs = ControlChannel.pair()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "glimpse.server.engine_process", "--control", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=child_environment(),
            start_new_session=True,
        )
        theirs.close()
        self.steps: list[str] = []  # of loading
        self.tell({"do": "settings", "engine": 1}, pickle.dumps(chosen))

    def tell(self, body: dict[str, Any], content: bytes) -> None:
        file = memory_file("test", content)
        assert self.channel.send(body, [file])
        os.close(file)

    def said(self) -> Message:
        """What it says next; `steps` holds what it said of loading before."""
        while (message := self.channel.receive()) is not None:
            if message.body["did"] != "loading":
                return message
            self.steps.append(message.body["step"])
        raise AssertionError("the engine has ended")

    def facts(self) -> ModelFacts:
        """Those that it tells when it has loaded."""
        message = self.said()
        assert message.body["did"] == "loaded"
        facts: ModelFacts = pickle.loads(read_memory_file(message.files[0]))  # noqa: S301 - from a process of ours
        assert message.body["model"] == facts.told
        return facts

    def connect(self, worker: int = 1) -> socket.socket:
        """A worker's end of a connection."""
        ours, theirs = socket.socketpair()
        with theirs:
            assert self.channel.send({"do": "connect", "worker": worker}, [theirs.fileno()])
        return ours

    def memory_files(self) -> int:
        """Arenas that the process holds open."""
        folder = f"/proc/{self.process.pid}/fd"
        return sum("glimpse-arena" in _link(f"{folder}/{name}") for name in os.listdir(folder))  # noqa: PTH208

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return ""


class HeldNetwork:
    """Answers each image with its first pixel's value, when it is let to."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.error: Exception | None = None

    def __call__(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        self.batches.append([int(each) for each in pixels[:, 0, 0, 0]])
        self.begun.release()
        assert self.go.acquire(timeout=WAIT)
        if self.error is not None:
            raise self.error
        values = np.repeat(pixels[:, 0, 0, :1].astype(np.float32), CLASSES, axis=1)
        return {name: values + 1000 * (name == LOGITS) for name in outputs}


class Bench:
    """A host over a held network, in this process; queues connect to it as workers do."""

    def __init__(
        self, *, capacity: int = 64, slots: int = 64, sizes: tuple[int, ...] = (1, 2, 4), **device: Any
    ) -> None:
        bundle = sources.resolve(sources.ModelSource(weights="cifar10"))
        self.network = HeldNetwork()
        self.facts = ModelFacts(
            bundle=bundle,
            network=NetworkSummary("", (), 0, 0),
            runtime="held",
            device="cpu",
            precision="float32",
            batch_sizes=sizes,
            output_shapes={LOGITS: (CLASSES,), PROBABILITIES: (CLASSES,)},
        )
        self.slots = slots
        self.batcher = Batcher(
            self.network,
            input_shape=bundle.recipe.pixels_shape,
            batch_sizes=sizes,
            capacity=capacity,
            observer=LateObserver(),
            outputs=frozenset({LOGITS, PROBABILITIES}),
            **device,
        )
        self.batcher.start()
        self.host = Host(self.batcher, self.facts.layout)
        self.host.start()
        self.queues: list[RemoteQueue] = []

    def worker(self, **options: Any) -> RemoteQueue:
        """Another worker's queue, connected; on the event loop."""
        queue = RemoteQueue(self.facts, slots=self.slots, **options)
        self.connect(queue)
        self.queues.append(queue)
        return queue

    async def connected(self) -> None:
        """Wait until the host reads what all these workers say."""
        await until(lambda: self.host.workers == len(self.queues))

    def connect(self, queue: RemoteQueue) -> None:
        ours, theirs = socket.socketpair()
        self.host.add(theirs)
        queue.connect(ours, self.facts)

    def image(self, value: int) -> NDArray[np.uint8]:
        return np.full(self.facts.layout.pixels_shape, value, np.uint8)

    def let(self, batches: int = 1) -> None:
        self.network.go.release(batches)

    async def begun(self) -> None:
        """Wait until one more batch is on the device."""
        assert await asyncio.to_thread(self.network.begun.acquire, timeout=WAIT)

    def close(self) -> None:
        self.network.go.release(10_000)
        for queue in self.queues:
            queue.close(0.0)
        self.host.close()
        assert self.batcher.close(WAIT)


def run(scene: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    """A scene on an event loop, with a bench that is closed at its end."""

    async def whole() -> None:
        bench = Bench(**options)
        try:
            await scene(bench)
        finally:
            bench.close()

    asyncio.run(asyncio.wait_for(whole(), WAIT))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes about by itself."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.002)


async def value(future: Future[Answer], name: str = PROBABILITIES) -> int:
    """What the held network has made of an image."""
    answer = await asyncio.wrap_future(future)
    return int(answer.outputs[name][CLASSES - 1])


__all__ = ["DEFAULT_OUTPUTS", "Bench", "EngineProcess", "HeldNetwork", "plain_settings", "run", "until", "value"]
