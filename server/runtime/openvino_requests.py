"""The places of a compiled network of OpenVINO in which batches are computed."""

from __future__ import annotations

import queue

import numpy as np
from numpy.typing import NDArray

from glimpse.models.messages import lacks_memory
from glimpse.models.outputs import Outputs
from glimpse.server.runtime.openvino_library import openvino


class Requests:
    """OpenVINO's places for a batch, each for one thread at a time."""

    def __init__(self, compiled: openvino.CompiledModel, number: int, *, threads: int) -> None:
        """Make places for `number` batches of a network that was compiled for `threads` threads."""
        self.number, self._compiled, self._threads = number, compiled, threads
        # With a single thread `infer` does not raise what went wrong, a lack of memory above all, and leaves the answer
        # to the batch before where ours should be. What is waited for does raise it.
        self._alone = threads == 1
        self._index = indices(compiled)
        self._free: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(number):
            self._free.put(compiled.create_infer_request())

    def more(self) -> Requests:
        """As many places again of the same network."""
        return Requests(self._compiled, self.number, threads=self._threads)

    def infer(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        """The outputs of these names of uint8 pixels ``[N, H, W, C]``; waits for a free place."""
        request = self._free.get()
        try:
            # Shared, not copied; what OpenVINO may not write to, it does not take, though it only reads.
            ours = np.require(pixels, requirements=("C", "W"))
            try:
                answers = self._run(request, ours, outputs)
            except Exception as error:
                if lacks_memory(error):
                    raise
                answers = None
            if answers is None or any(len(each) != len(ours) for each in answers.values()):
                # A stream on which a batch did not fit into memory fails, or goes on with that one, when the next is as
                # large as the last that did fit. One image more is another size.
                answers = self._run(request, np.concatenate([ours, ours[:1]]), outputs)
                answers = {name: each[:-1] for name, each in answers.items()}
            return answers
        finally:
            self._free.put(request)

    def _run(self, request: openvino.InferRequest, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        request.set_input_tensor(openvino.Tensor(pixels, shared_memory=True))
        if self._alone:
            request.start_async()
            request.wait()
        else:
            request.infer()
        # Copies, for the request writes its next answer to the same place.
        return {name: request.get_output_tensor(self._index[name]).data.copy() for name in outputs}


def indices(compiled: openvino.CompiledModel | openvino.Model) -> dict[str, int]:
    """The places of its outputs by their names."""
    return {name: index for index, output in enumerate(compiled.outputs) for name in output.get_names()}
