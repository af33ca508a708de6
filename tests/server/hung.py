"""A server whose conversion never ends: ``python -m tests.server.hung``, with the flags of a server."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    if Path(sys.argv[1]).is_dir():  # the process that converts, into this folder
        time.sleep(1000)
    from glimpse.server import __main__ as program
    from glimpse.server.runtime import conversion_process

    conversion_process._MODULE = "tests.server.hung"
    # It is begun without the current folder on its path, and the tests are in no package that is installed.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    sys.exit(program.main())
