"""Triton, with its Python side from PyTriton: gRPC, a photo as a tensor of bytes, Triton's own dynamic batcher."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from .work import Classifier, Options


def main() -> None:
    """Serve until killed."""
    options = Options.read()
    # Triton's interpreter reads no PYTHONPATH; what it does see is the environment that we run in.
    own = Path(__file__).with_name("triton_sitecustomize.py")
    shutil.copyfile(own, Path(sysconfig.get_path("purelib")) / "sitecustomize.py")
    # So that `with` stops Triton, which otherwise leaves its shared memory behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())

    def instance() -> Any:
        classifier = Classifier(options)

        @batch
        def classify(photo: NDArray[Any]) -> dict[str, NDArray[Any]]:
            answers = [json.dumps(answer).encode() for answer in classifier([bytes(data) for data in photo[:, 0]])]
            return {"answer": np.array(answers, np.bytes_)[:, np.newaxis]}

        return classify

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=options.port + 1,
        grpc_address="127.0.0.1",
        grpc_port=options.port,
        metrics_address="127.0.0.1",
        metrics_port=options.port + 2,
        exit_timeout_secs=1,
    )
    with Triton(config=config, workspace=Path.cwd() / "triton") as triton:
        triton.bind(
            model_name="photos",
            # As many batches under way: instances are threads, each with a network of its own.
            infer_func=[instance() for _ in range(options.workers)],
            inputs=[Tensor(name="photo", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=options.max_batch,
                batcher=DynamicBatcher(max_queue_delay_microseconds=round(options.wait_ms * 1000)),
            ),
            strict=True,
        )
        triton.serve()


if __name__ == "__main__":
    main()
