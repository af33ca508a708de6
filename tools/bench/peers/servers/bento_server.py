"""BentoML: a photo as a file of an HTTP form, batched by BentoML in front of the service's method."""
# No `from __future__ import annotations`: BentoML reads the annotations as objects.

import subprocess
import sys

import bentoml
from PIL.Image import Image

from .work import Answer, Classifier, Options

OPTIONS = Options.read()


# Without a line in the log for each request, which no other peer writes.
@bentoml.service(workers=OPTIONS.workers, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Photos:
    """The service; every worker has one."""

    def __init__(self) -> None:
        """Load the network."""
        self.classifier = Classifier(OPTIONS)

    # BentoML finds its own wait; what one sets is the latency above which it refuses.
    @bentoml.api(batchable=True, max_batch_size=OPTIONS.max_batch, max_latency_ms=round(OPTIONS.wait_ms))
    def classify(self, photos: list[Image]) -> list[Answer]:
        """A batch; BentoML has opened the photos, which decodes nothing yet."""
        return self.classifier(photos)


if __name__ == "__main__":
    command = ["bentoml", "serve", "servers.bento_server:Photos", "--host=127.0.0.1", f"--port={OPTIONS.port}"]
    sys.exit(subprocess.run([sys.executable, "-m", *command], check=False).returncode)
