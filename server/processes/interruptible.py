"""Long work in a thread, such as loading a model, that is given up at once when the server is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from glimpse.models import published
from glimpse.server.processes.cleanup import Cleanup, within

T = TypeVar("T")


async def run_until_stopped(stop: asyncio.Event, do: Callable[[], T]) -> T | None:
    """What `do` returns, run in a thread; None where `stop` is set first, and then nothing of it goes on or is left.

    The thread itself may go on for a while: it cannot be interrupted in a library's code. Nobody waits for it.
    """
    started, loop = Cleanup(), asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(how: Callable[[Any], None], what: object) -> None:
        if not done.done():
            how(what)

    def work() -> None:
        with within(started), contextlib.suppress(RuntimeError):  # the loop has closed: nobody wants to know
            try:
                result = do()
            except BaseException as error:  # noqa: BLE001 - is raised where it is waited for
                loop.call_soon_threadsafe(tell, done.set_exception, error)
            else:
                loop.call_soon_threadsafe(tell, done.set_result, result)

    # Not one of asyncio's own threads, each of which is waited for at the end.
    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="loading", daemon=True).start()
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((done, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not stop.is_set():
        return await done
    await asyncio.to_thread(started.end)
    await asyncio.to_thread(published.abandon)
    if done.done():
        done.exception()  # looked at: nobody is to be told
    done.cancel()
    return None
