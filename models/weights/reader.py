"""The program that reads a weights file in a separate process; `models.weights.isolated` runs it.

It is run as ``python -m glimpse.models.weights.reader WHAT SIZE SECONDS PATH`` with the file as standard input: WHAT is
``weights`` or ``model``, SIZE the bytes of the file and of those beside it, by which its memory is limited, SECONDS the
computing that it may take. It opens no other file but those that lie beside an ONNX model and are named after it, and
writes its answer (`models.weights.response`) to standard output.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from glimpse.models.weights import formats, isolated, limits, response
from glimpse.models.weights.errors import WeightsError

_MESSAGE = 2000  # characters of an error


def main() -> int:
    """Read the file and write the response.

    Returns:
        The exit code: 0 if there is a response, which may be an error.
    """
    what, size, seconds, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    limits.enforce(size, seconds)
    path = Path(name)
    with open(0, "rb", closefd=False) as file, os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whatever a library prints
        try:
            data = formats.memory_map(file) if os.fstat(0).st_size else None
            writer = response.ResponseWriter(out, data, limits.decoded(size))
            try:
                if what == "model":
                    writer.model(formats.saved_model(file, path))
                else:
                    writer.contents(formats.contents(file, path, data))
            except WeightsError as error:
                writer.error(str(error)[:_MESSAGE])
            except limits.TooLargeError as error:
                writer.error(f"{path} contains {error}, more than a file of its size can explain. Save it again.")
        except MemoryError:
            return isolated.OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # nothing has to be done at its end, and to free what it holds takes time
