"""Ray Serve: a photo as the body of an HTTP request, batched inside a replica by `serve.batch`."""

from __future__ import annotations

import asyncio
import threading

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from .work import Answer, Classifier, Options

OPTIONS = Options.read()


class Photos:
    """A replica."""

    def __init__(self) -> None:
        """Load the network."""
        self.classifier = Classifier(OPTIONS)

    @serve.batch(max_batch_size=OPTIONS.max_batch, batch_wait_timeout_s=OPTIONS.wait_ms / 1000)
    async def classify(self, photos: list[bytes]) -> list[Answer]:
        """A batch; in a thread, so that the replica goes on reading requests."""
        return await asyncio.to_thread(self.classifier, photos)

    async def __call__(self, request: Request) -> JSONResponse:
        """One request."""
        return JSONResponse(await self.classify(await request.body()))


def main() -> None:
    """Serve until killed."""
    # Ray keeps a core for each replica, and answers no request itself without one to spare.
    ray.init(
        num_cpus=OPTIONS.workers + 1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000
    )
    serve.start(http_options={"host": "127.0.0.1", "port": OPTIONS.port}, logging_config={"enable_access_log": False})
    deploy = serve.deployment(
        num_replicas=OPTIONS.workers,
        max_ongoing_requests=4 * OPTIONS.max_batch,
        logging_config={"enable_access_log": False},
    )
    serve.run(deploy(Photos).bind())
    threading.Event().wait()


if __name__ == "__main__":
    main()
