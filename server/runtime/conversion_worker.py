"""From a bundle to the files that OpenVINO reads, in a process of its own.

``python -m glimpse.server.runtime.conversion_worker FOLDER SECONDS`` is run by `server.runtime.conversion_process`.

Keras and TensorFlow take seconds to import and hundreds of megabytes that nothing gives back. Here they go with the
process, and the server itself never loads them.

On standard input comes the bundle, pickled, and nothing after it: when that input ends, the server has gone, and so
does this process. The last line of standard output is a JSON object: ``network``, what was converted; or ``error``, one
of `server.runtime.conversion.ERRORS`, and ``message``. Standard error is read by the server.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # The server decides when this process ends, also where a signal goes to every process at once. Before the imports
    # below, which take seconds.
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, signal.SIG_IGN)

import json
import os
import pickle
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from glimpse.models.bundle import Bundle
from glimpse.models.keras_files import scores
from glimpse.models.messages import lacks_memory, short
from glimpse.models.outputs import PROBABILITIES
from glimpse.models.serving import by_name, load_bundle, serving_outputs
from glimpse.server import logs
from glimpse.server.runtime import UnsupportedNetworkError, errors_as_unsupported, process_limits
from glimpse.server.runtime.openvino import convert, probabilities
from glimpse.server.runtime.tensorflow import limit_threads, with_values
from glimpse.server.runtimes import PRECISIONS, REFERENCE


def main() -> None:
    """Convert one bundle and exit; with 0 when there is an answer on standard output, be it an error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints
        bundle: Bundle = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server, which began this process
        process_limits.enforce(bundle, float(sys.argv[2]))
        threading.Thread(target=_end_with_the_server, daemon=True).start()
        json.dump(_answer(bundle, Path(sys.argv[1])), answers)
    # Neither framework has anything to do at its end that is worth waiting for.
    os._exit(0)


def _answer(bundle: Bundle, folder: Path) -> dict[str, Any]:
    try:
        assembly = load_bundle(bundle)
        limit_threads()
        model = serving_outputs(assembly, bundle.recipe, bundle.temperature)
        with errors_as_unsupported("openvino cannot convert this network"):
            graph = with_values(model)
        converted = convert(graph, folder)
        if not bundle.architecture:
            _compare(model, bundle, converted)
    except UnsupportedNetworkError as error:
        return {"error": "unsupported", "message": str(error)}
    except MemoryError as error:
        return {"error": "memory", "message": str(error)}
    except (ValueError, OSError) as error:
        # A plain ValueError may be a framework's, which shows whole configurations.
        return {"error": "refused", "message": short(error) if type(error) is ValueError else str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it was: an exception that ends the process ends it without its cause
        return {"error": "memory" if lacks_memory(error) else "failed", "message": short(error)}
    return {"network": asdict(assembly.summary)}


def _compare(model: keras.Model, bundle: Bundle, converted: Path) -> None:
    """Refuse a network of a user's own that OpenVINO understands otherwise; those of the library have their tests.

    Raises:
        UnsupportedNetworkError: its answers are not Keras'.
    """
    pixels = scores.pictures(bundle.recipe)
    # Two at a time: Keras keeps what every operation gives until the last has.
    pairs = (pixels[start : start + 2] for start in range(0, len(pixels), 2))
    expected = np.concatenate(
        [keras.ops.convert_to_numpy(by_name(model, model(pair, training=False))[PROBABILITIES]) for pair in pairs]
    )
    found = probabilities(converted, pixels)
    difference = float(np.abs(found - expected).max())
    most = PRECISIONS["bfloat16" if scores.half(model) else REFERENCE].tolerance
    if not difference <= most:  # nor is it where either is no number
        raise UnsupportedNetworkError(
            "openvino and Keras compute different results for this network: a probability differs by "
            f"{difference:.3g}, and {most} is allowed"
        )


def _end_with_the_server() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    logs.configure("warning", "json")  # which the server takes into its own
    main()
