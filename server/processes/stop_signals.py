"""SIGTERM and SIGINT as an event: the first one begins the end of the program, a second one ends it at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import structlog

_log = structlog.get_logger(__name__)


class StopEvent(asyncio.Event):
    """Set by a signal."""

    number: int = signal.SIGTERM  # of the signal


def stop_on_signals() -> StopEvent:
    """What SIGTERM and SIGINT set; a second one of them ends the process at once."""
    stop, loop = StopEvent(), asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def on_signal(number: int) -> None:
        _log.info("signal", signal=signal.Signals(number).name)
        stop.number = number
        stop.set()
        for each in numbers:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in numbers:
        try:
            loop.add_signal_handler(number, on_signal, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda each, _: loop.call_soon_threadsafe(on_signal, each))
    return stop
