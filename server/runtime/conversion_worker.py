"""From a bundle to the files that OpenVINO reads, in a process of its own.

``python -m glimpse.server.runtime.conversion_worker FOLDER SECONDS`` is run by `server.runtime.conversion_process`.

Keras and TensorFlow take seconds to import and hundreds of megabytes that nothing gives back. Here they go with the
process, and the server itself never loads them. What makes the files is in `server.runtime.keras_conversion`, and for
graphs of other frameworks in `server.runtime.graph_conversion`, which needs OpenVINO alone. What makes an int8 network
of a converted one is in `server.runtime.quantising`, which needs NNCF.

On standard input comes the bundle, or the orders to quantise it, pickled, and nothing after it: when that input ends,
the server has gone, and so does this process. The last line of standard output is a JSON object: ``network``, what was
converted; or ``error``, one of `server.runtime.conversion.ERRORS`, and ``message``. Standard error is read by the
server.
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

from glimpse.models import keras_start
from glimpse.models.bundle import Bundle
from glimpse.models.messages import lacks_memory, short
from glimpse.models.spec import NetworkSummary
from glimpse.server import logs
from glimpse.server.runtime import UnsupportedNetworkError, process_limits
from glimpse.server.runtime.quantisation import Orders


def main() -> None:
    """Convert one bundle and exit; with 0 when there is an answer on standard output, be it an error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints
        orders: Bundle | Orders = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the server, which began this process
        process_limits.enforce(orders if isinstance(orders, Bundle) else orders.bundle, float(sys.argv[2]))
        threading.Thread(target=_end_with_the_server, daemon=True).start()
        json.dump(_answer(orders, Path(sys.argv[1])), answers)
    # Neither framework has anything to do at its end that is worth waiting for.
    os._exit(0)


def _answer(orders: Bundle | Orders, folder: Path) -> dict[str, Any]:
    try:
        summary = _made(orders, folder)
    except UnsupportedNetworkError as error:
        return {"error": "unsupported", "message": str(error)}
    except MemoryError as error:
        return {"error": "memory", "message": str(error)}
    except (ValueError, OSError) as error:
        # A plain ValueError may be a framework's, which shows whole configurations.
        return {"error": "refused", "message": short(error) if type(error) is ValueError else str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it was: an exception that ends the process ends it without its cause
        return {"error": "memory" if lacks_memory(error) else "failed", "message": short(error)}
    return {"network": asdict(summary)}


def _made(orders: Bundle | Orders, folder: Path) -> NetworkSummary:
    # Imported here: a graph of another framework needs neither Keras nor TensorFlow, and few networks are quantised.
    if isinstance(orders, Orders):
        from glimpse.server.runtime.quantising import quantise

        return quantise(orders, folder)
    if orders.graph:
        from glimpse.server.runtime.graph_conversion import convert_graph as convert
    else:
        keras_start.import_keras()
        from glimpse.server.runtime.keras_conversion import convert_keras as convert
    return convert(orders, folder)


def _end_with_the_server() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    logs.configure("warning", "json")  # which the server takes into its own
    main()
