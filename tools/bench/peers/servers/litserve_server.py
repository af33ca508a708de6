"""LitServe: a photo as the body of an HTTP request, batched in front of its inference workers."""
# No `from __future__ import annotations`: LitServe reads the annotation of `decode_request` as an object.

from typing import Annotated

import litserve
from fastapi import Body

from .work import Answer, Classifier, Options

Photo = Annotated[bytes, Body(media_type="application/octet-stream")]


class Photos(litserve.LitAPI):
    """Its three steps; the photos of a batch come to `predict` as a list."""

    def setup(self, device: str) -> None:
        """Called in every worker."""
        self.classifier = Classifier(Options.read())

    def decode_request(self, request: Photo) -> bytes:
        """Nothing yet: LitServe decodes the requests of a batch one after the other, `predict` does side by side."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """They stay a list; the default would make an array of them."""
        return inputs

    def predict(self, x: list[bytes]) -> list[Answer]:
        """A batch of JPEG files."""
        return self.classifier(x)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        """An answer for each request."""
        return output

    def encode_response(self, output: Answer) -> Answer:
        """LitServe makes JSON of it."""
        return output


def main() -> None:
    """Serve until killed."""
    options = Options.read()
    api = Photos(max_batch_size=options.max_batch, batch_timeout=options.wait_ms / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers, timeout=60, fast_queue=True)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
