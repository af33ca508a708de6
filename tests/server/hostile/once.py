"""`python -m tests.server.hostile.once FILE ...`: decode files in a fresh process; a JSON line each on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path

from tests.server.hostile import tell
from tests.server.hostile.__main__ import outcome
from tests.server.hostile.memory import forget_peak, peak, resident
from tests.server.hostile.mutants import LIMITS, RECIPES, Mutant
from tests.server.hostile.seeds import seeds

if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"PIL\.")  # as the server does
    pid = os.getpid()
    for data in seeds().values():  # what is loaded at the first use is loaded now
        outcome(Mutant("", data, RECIPES[0], LIMITS[0]))
    for name in sys.argv[1:]:
        mutant = Mutant("", Path(name).read_bytes(), RECIPES[0], LIMITS[0])
        forget_peak(pid)
        before, begun = resident(pid), time.thread_time()
        result = outcome(mutant)
        tell(json.dumps({"result": result, "grown": peak(pid) - before, "seconds": time.thread_time() - begun}))
