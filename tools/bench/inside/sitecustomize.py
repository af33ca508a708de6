"""Inside each process of a service that is measured: threads get the names that Python gives them, and are sampled.

Python finds this file by PYTHONPATH and runs it before anything else. Names make the CPU time that the kernel counts by
thread readable from outside. With BENCH_SAMPLES, a folder, the main thread, which has the event loop, looks at what it
is doing after every few milliseconds of CPU time, and keeps the CPU seconds by part in a file of that folder.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

_SET_NAME = 15  # PR_SET_NAME
_EVERY = 0.005  # seconds of the process's CPU time
_KEEP = 50  # samples between two writes
_RUNNER = f"asyncio{os.sep}runners.py"
_SERVER = f"{os.sep}server{os.sep}"
# Where a file of the server belongs; what is in none of these reads, checks and admits a request.
_PARTS = {
    "batching": "hand over",
    "engine": "hand over",
    "fair_queue.py": "hand over",
    "decoding": "decode",
    "answers": "answer",
}
_ANSWERS = ("response", "reply", "answer", "result", "prediction")  # in names of functions that make the answer


def part(frame: FrameType | None) -> str:
    """What a thread is doing whose innermost frame is this one.

    What C code has done without a frame of its own, as most of gRPC, counts for the frame in which Python goes on.
    """
    while frame is not None:
        path = frame.f_code.co_filename
        if path.endswith(_RUNNER) or frame.f_code.co_name == "_run_once":
            break  # what is outside of the loop's turn is the start of the server, whatever the loop does
        if f"glimpse{_SERVER}" in path:
            first = Path(path.rpartition(_SERVER)[2]).parts[0]
            if first in _PARTS:
                return _PARTS[first]
            return "answer" if any(word in frame.f_code.co_name for word in _ANSWERS) else "receive"
        frame = frame.f_back
    return "gRPC and event loop"


def _name_threads() -> None:
    library = ctypes.CDLL(None)
    run = threading.Thread.run

    def named(self: threading.Thread) -> None:
        library.prctl(_SET_NAME, self.name.encode()[:15], 0, 0, 0)
        run(self)

    threading.Thread.run = named  # type: ignore[method-assign]


def _sample(folder: Path) -> None:
    spent: dict[str, float] = {}
    last = looks = 0.0
    file = folder / f"{os.getpid()}.json"

    def look(_: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return
        nonlocal last, looks
        now = time.thread_time()
        what = part(frame)
        spent[what] = spent.get(what, 0.0) + now - last  # next to nothing, if it was another thread that worked
        last = now
        looks += 1
        if looks % _KEEP == 0:
            file.write_text(json.dumps(spent), encoding="utf-8")

    owner = os.getpid()
    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)
    # As Python ends it takes its handlers away, and the signal would end the process.
    atexit.register(signal.setitimer, signal.ITIMER_PROF, 0)


_name_threads()
if "BENCH_SAMPLES" in os.environ:
    _sample(Path(os.environ["BENCH_SAMPLES"]))
