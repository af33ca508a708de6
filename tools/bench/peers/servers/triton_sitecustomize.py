"""For the interpreter that Triton brings: the standard library that it finds here may be newer than its own core.

From Python 3.11.5 on `multiprocessing.resource_tracker` asks its lock how often it is held, which the older core's lock
cannot tell. The one that is written in Python can.
"""

import threading
from multiprocessing import resource_tracker

if not hasattr(threading.RLock(), "_recursion_count") and hasattr(threading, "_PyRLock"):
    setattr(resource_tracker._resource_tracker, "_lock", threading._PyRLock())  # noqa: B010 - no type tells of it
