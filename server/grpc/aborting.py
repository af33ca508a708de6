"""Ending a gRPC call with a status, so that nothing of the call is left in memory for the garbage collector to find."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio


async def abort(
    context: Any, code: grpc.StatusCode, message: str, *errors: BaseException, trailers: Sequence[tuple[str, Any]] = ()
) -> None:
    """End a call with a status, because of `errors`, which nobody looks at afterwards.

    Raises:
        AbortError: always; gRPC ends the call with it.
    """
    try:
        await context.abort(code, message, trailers)
    except grpc.aio.AbortError as aborted:
        # gRPC keeps this exception with the call, and its traceback leads back to the call: a circle that only a look
        # for garbage would end. In a flood of refusals that is thousands of calls. Since Python 3.12 a frame knows its
        # caller, and so a refusal's own traceback leads to a frame that holds the refusal.
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(partial(_let_go, (aborted, *errors)))
        raise


def _let_go(errors: tuple[BaseException, ...], _: object) -> None:
    """Have exceptions of a call that is over, and those that they come from, hold on to nothing.

    A frame of theirs may hold the message, which is megabytes.
    """
    waiting, seen = list(errors), set[int]()
    while waiting:
        error = waiting.pop()
        if id(error) in seen:  # a group that one of its own comes from
            continue
        seen.add(id(error))
        waiting += [each for each in (error.__context__, error.__cause__) if each is not None]
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        error.__traceback__ = error.__context__ = error.__cause__ = None
