"""KServe's Python server: the Open Inference Protocol on gRPC, a photo as a tensor of bytes.

It puts no requests together: its batcher is another program, which speaks HTTP alone. So there are as many networks as
processors, and each request is computed by one that is free.
"""

from __future__ import annotations

import asyncio
import json
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kserve

from .work import Classifier, Options


class Photos(kserve.Model):
    """The model; KServe calls it once for each request."""

    def __init__(self, options: Options) -> None:
        """Load a network for each request that is computed at the same time."""
        super().__init__("photos")
        self._pool = ThreadPoolExecutor(options.workers)
        self._free: queue.SimpleQueue[Classifier] = queue.SimpleQueue()
        for _ in range(options.workers):
            self._free.put(Classifier(options))
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> kserve.InferResponse:
        """A request; in a thread, so that the server goes on reading others."""
        photos = [bytes(photo) for photo in payload.inputs[0].as_numpy().flat]
        answers = await asyncio.get_running_loop().run_in_executor(self._pool, self._classify, photos)
        output = kserve.InferOutput("answer", [len(answers)], "BYTES", answers)
        return kserve.InferResponse(payload.id or "", self.name, [output])

    def _classify(self, photos: list[bytes]) -> list[bytes]:
        classifier = self._free.get()
        try:
            return [json.dumps(answer).encode() for answer in classifier(photos)]
        finally:
            self._free.put(classifier)


if __name__ == "__main__":
    chosen = Options.read()
    kserve.ModelServer(http_port=chosen.port + 1, grpc_port=chosen.port, workers=1, enable_latency_logging=False).start(
        [Photos(chosen)]
    )
