"""MLServer: the Open Inference Protocol on gRPC, a photo as a tensor of bytes, adaptive batching."""

from __future__ import annotations

import asyncio
import json

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import Datatype, InferenceRequest, InferenceResponse, ResponseOutput

from .work import Classifier, Options


class Photos(MLModel):
    """The model; MLServer hands it whole batches."""

    async def load(self) -> bool:
        """Called in every worker."""
        self.classifier = Classifier(Options.read())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Requests that MLServer has put together: their photos are one tensor."""
        answers = await asyncio.to_thread(self.classifier, list(payload.inputs[0].data))
        output = ResponseOutput(
            name="answer",
            shape=[len(answers)],
            datatype=Datatype.BYTES,
            data=[json.dumps(answer).encode() for answer in answers],
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serve until killed."""
    options = Options.read()
    server = MLServer(
        Settings(
            host="127.0.0.1",
            grpc_port=options.port,
            http_port=options.port + 1,
            metrics_port=options.port + 2,
            # One process is the server's own: no pool of workers, which photos would have to be copied to.
            parallel_workers=options.workers if options.workers > 1 else 0,
            debug=False,
            logging_settings={"version": 1, "root": {"level": "WARNING"}},
        )
    )
    model = ModelSettings(
        name="photos",
        implementation="servers.mlserver_server.Photos",
        max_batch_size=options.max_batch,
        max_batch_time=options.wait_ms / 1000,
    )
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
