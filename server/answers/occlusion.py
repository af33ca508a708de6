"""Where in an image the score of a class comes from, of any network: cover a part, and see what is lost.

Zeiler and Fergus (arXiv:1311.2901, section 4.2): the drop of the class's score where a square of one colour covers that
part of the network's input. The network is computed once for each square, so there are few: `SIDE` x `SIDE`, each twice
as wide and high as the cell of the map in whose centre it is, so that neighbours overlap. The colour is the mean of the
image's own, because black would be an edge that was not there.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glimpse.models.outputs import LOGITS
from glimpse.server.batching.batch_queue import Answer

if TYPE_CHECKING:
    from glimpse.server.batching.model_queue import ModelQueue
    from glimpse.server.decoding.pool import DecodePool
    from glimpse.server.domain import Caller

SIDE = 7  # rows and columns of a map
COPIES = SIDE * SIDE  # that the network is computed for, besides the image itself
_LOGITS = frozenset({LOGITS})


async def occluded(
    pixels: NDArray[np.uint8], depth: int, caller: Caller, queue: ModelQueue, decoders: DecodePool
) -> NDArray[np.float32]:
    """The logits of an image with each part covered, float32 ``[SIDE, SIDE, classes]``.

    Args:
        pixels: the network's input, uint8 ``[H, W, C]``.
        depth: channels of it that are colours; the others stay.
        caller: who asks, and until when.
        queue: computes the copies, as images of this caller.
        decoders: make the copies, in the caller's turn.

    Raises:
        ServiceError: expected; the copies cannot be computed.
    """
    answers: list[Future[Answer]] = [Future() for _ in range(COPIES)]

    def submit() -> None:
        place = 0
        try:
            colour = pixels[..., :depth].mean(axis=(0, 1)).round().astype(np.uint8)
            for place, answer in enumerate(answers):
                if not answer.cancelled():
                    copy = covered(pixels, colour, divmod(place, SIDE))
                    queue.submit(copy, lane=caller.lane, deadline=caller.deadline, future=answer, outputs=_LOGITS)
        except BaseException as error:  # noqa: BLE001 - it is told where the answers are waited for
            for answer in answers[place:]:  # the queue has those before, and may be computing them
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(error)

    waiting = [asyncio.wrap_future(answer) for answer in answers]
    task = decoders.submit(caller.lane, submit, COPIES * pixels.shape[0] * pixels.shape[1])
    try:
        found = await asyncio.gather(*waiting)
    except BaseException:
        task.cancel()
        for each in waiting:
            each.cancel()
        # What has failed besides is told once.
        await asyncio.gather(*waiting, return_exceptions=True)
        raise
    return np.stack([each.outputs[LOGITS] for each in found]).reshape(SIDE, SIDE, -1)


def covered(pixels: NDArray[np.uint8], colour: NDArray[np.uint8], cell: tuple[int, int]) -> NDArray[np.uint8]:
    """A copy of an image ``[H, W, C]`` whose square around that row and column of the map has this colour."""
    copy = pixels.copy()
    rows, columns = (
        slice(max(0, round((place - 0.5) * side / SIDE)), round((place + 1.5) * side / SIDE))
        for place, side in zip(cell, pixels.shape[:2], strict=True)
    )
    copy[rows, columns, : len(colour)] = colour
    return copy
