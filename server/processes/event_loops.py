"""The event loop of the server's processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is one, which there is not for Windows: a call costs the event loop a tenth less with it."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop
