"""The engine as a process of its own, with the small model: as a supervisor and workers meet it."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client import Metric

from glimpse.models.child_environment import child_environment
from glimpse.models.outputs import LOGITS, PROBABILITIES
from glimpse.server import settings
from glimpse.server.engine.model_facts import ModelFacts
from glimpse.server.engine.remote_queue import RemoteQueue
from glimpse.server.errors import UnavailableError
from glimpse.server.loading.loading import load_model
from glimpse.server.loading.options import LoadOptions, model_source
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.nouns import noun
from glimpse.server.processes.control_channel import Message, read_memory_file
from tests.server.engine.engines import WAIT, EngineProcess, plain_settings, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

BOTH = frozenset({PROBABILITIES, LOGITS})


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(plain_settings()) as made:
        yield made


def test_its_answers_are_those_of_one_process_and_its_facts_make_a_model(engine: EngineProcess) -> None:
    facts = engine.facts()
    chosen = settings.load([])
    local = load_model(model_source(chosen), LoadOptions.of(chosen), Metrics().of)
    shape = local.bundle.recipe.pixels_shape
    images = [np.random.default_rng(i).integers(0, 255, shape, np.uint8) for i in range(5)]

    async def scene() -> None:
        queue = RemoteQueue(facts, slots=8)
        queue.connect(engine.connect(), facts)
        remote = facts.loaded(queue)
        for field in ("identity", "network", "runtime", "device", "precision", "batch_sizes", "outputs", "agreement"):
            assert getattr(remote, field) == getattr(local, field)
        for pixels in images:
            found = await asyncio.wrap_future(remote.batcher.submit(pixels, outputs=BOTH))
            expected = local.batcher.submit(pixels, outputs=BOTH).result(WAIT)
            for name in BOTH:
                np.testing.assert_array_equal(found.outputs[name], expected.outputs[name])
        assert await asyncio.to_thread(remote.close, WAIT)

    asyncio.run(scene())
    assert local.close(WAIT)


def test_pings_metrics_and_signals_while_it_serves(engine: EngineProcess) -> None:
    """Images count once they come from workers, not before; signals do not end it, the order does."""
    facts = engine.facts()

    async def scene() -> None:
        queue = RemoteQueue(facts, slots=8)
        queue.connect(engine.connect(), facts)
        pixels = np.zeros(facts.layout.pixels_shape, np.uint8)
        for _ in range(3):
            await asyncio.wrap_future(queue.submit(pixels))
        for number in (signal.SIGTERM, signal.SIGINT):
            engine.process.send_signal(number)
        engine.channel.send({"do": "ping", "number": 4})
        engine.channel.send({"do": "metrics", "number": 5})
        assert (await asyncio.to_thread(engine.said)).body == {"did": "pong", "number": 4}
        message = await asyncio.to_thread(engine.said)
        assert message.body == {"did": "metrics", "number": 5}
        samples = [each for metric in _loads(message) for each in metric.samples]
        assert [each.value for each in samples if each.name == "glimpse_batch_size_sum"] == [3]
        queue.close(0.0)

    asyncio.run(scene())
    engine.channel.send({"do": "end"})
    assert engine.process.wait(WAIT) == 0


def test_it_says_each_step_of_loading(engine: EngineProcess) -> None:
    """Among them each size of batches: whoever watches it sees where it hangs."""
    sizes = engine.facts().batch_sizes
    assert engine.steps[0] == "find the weights"
    assert {f"compute batches of {size} {noun(size, 'image')}" for size in sizes} <= set(engine.steps)


@pytest.mark.ci
def test_killing_it_fails_what_is_in_flight_and_another_one_goes_on(engine: EngineProcess) -> None:
    facts = engine.facts()

    async def scene() -> None:
        queue = RemoteQueue(facts, slots=64)
        queue.connect(engine.connect(), facts)
        pixels = np.ones(facts.layout.pixels_shape, np.uint8)
        expected = await asyncio.wrap_future(queue.submit(pixels))
        engine.process.send_signal(signal.SIGSTOP)  # so that it has answered none of them
        futures = [queue.submit(pixels) for _ in range(64)]
        await asyncio.sleep(0)
        engine.process.kill()
        for future in futures:
            with pytest.raises(UnavailableError, match="being replaced"):
                await asyncio.wrap_future(future)
        with EngineProcess(plain_settings()) as other:
            again = await asyncio.to_thread(other.facts)
            queue.connect(other.connect(), again)
            answers = await asyncio.gather(*(asyncio.wrap_future(queue.submit(pixels)) for _ in range(64)))
            for answer in answers:
                np.testing.assert_allclose(answer.outputs[PROBABILITIES], expected.outputs[PROBABILITIES], atol=0.01)
        queue.close(0.0)

    asyncio.run(scene())


def _loads(message: Message) -> list[Metric]:
    found: list[Metric] = pickle.loads(read_memory_file(message.files[0]))  # noqa: S301 - from a process of ours
    return found


_WORKER = """
import asyncio, pickle, socket, sys
import numpy as np
from glimpse.server.engine.remote_queue import RemoteQueue

async def work():
    facts = pickle.loads(sys.stdin.buffer.read())
    queue = RemoteQueue(facts, slots=32)
    queue.connect(socket.socket(fileno=int(sys.argv[1])), facts)
    pixels = np.zeros(facts.layout.pixels_shape, np.uint8)
    await asyncio.wrap_future(queue.submit(pixels))
    print("served", flush=True)
    while True:
        await asyncio.gather(*(asyncio.wrap_future(queue.submit(pixels)) for _ in range(32)))

asyncio.run(work())
"""


@pytest.mark.ci
def test_a_worker_that_is_killed_leaves_nothing_and_disturbs_nobody(engine: EngineProcess) -> None:
    facts = engine.facts()

    async def scene() -> None:
        queue = RemoteQueue(facts, slots=8)
        queue.connect(engine.connect(), facts)
        pixels = np.zeros(facts.layout.pixels_shape, np.uint8)
        await asyncio.wrap_future(queue.submit(pixels))
        before = engine.memory_files()
        assert before == 1
        for _ in range(2):
            await asyncio.to_thread(_killed_while_it_works, engine, facts)
            await asyncio.wrap_future(queue.submit(pixels))
        await until(lambda: engine.memory_files() == before)
        queue.close(0.0)
        await asyncio.sleep(0)
        await until(lambda: engine.memory_files() == 0)

    asyncio.run(scene())


def _killed_while_it_works(engine: EngineProcess, facts: ModelFacts) -> None:
    with (
        engine.connect(2) as ours,
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(ours.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[ours.fileno()],
            env=child_environment(),
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(pickle.dumps(facts))
            worker.stdin.close()
            assert worker.stdout.readline() == b"served\n"
            assert engine.memory_files() >= 2
        finally:
            worker.kill()


@pytest.mark.ci
def test_it_ends_at_once_when_its_supervisor_does(engine: EngineProcess) -> None:
    """Even while it is loading."""
    engine.channel.close()
    assert engine.process.wait(WAIT) == 0


@pytest.mark.ci
def test_a_model_that_cannot_be_loaded_is_told_with_its_exit_code() -> None:
    with EngineProcess(plain_settings("--weights=/nowhere/at/all")) as engine:
        said = engine.said().body
        assert (said["did"], said["exit"]) == ("failed", 4)
        assert "/nowhere/at/all" in said["detail"]


@pytest.mark.ci
def test_a_worker_that_comes_too_early_is_sent_away(engine: EngineProcess) -> None:
    with engine.connect() as early:
        early.settimeout(WAIT)
        assert early.recv(1) == b""
    assert engine.facts().runtime
    assert engine.process.poll() is None
