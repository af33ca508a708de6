"""How the limits of a server are divided among its workers.

Every limit is divided by the number of workers and rounded up, so that the workers together have the whole, or a little
more where a part would be too small: a worker can always admit one request of the largest size, receive one message of
the largest size, and has a few streams and uploads.

The kernel chooses the worker of each connection at random, so that some get more of them than others: each may hold
what is above its part by chance once in a thousand times. The connections of all workers together may so be somewhat
more than the limit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glimpse.server.settings import Settings

# Streams and uploads that a worker has in any case, unless the whole server has fewer: one connection leads to one
# worker, and its caller is not to be left with a single one.
_FEW = 8
_CHANCE = 3.0  # standard deviations that the connections of a worker may be above the mean


def parts(whole: Settings, workers: int) -> dict[str, int]:
    """By the name of the setting, what one of so many workers may hold; one worker has the whole.

    Args:
        whole: of the server.
        workers: how many there are, from 1.
    """
    if workers == 1:
        return {}
    return {
        # A request may take three quarters of them.
        "max_images_in_flight": _part(whole.max_images_in_flight, workers, _with_a_third(whole.max_images_per_request)),
        "max_bytes_in_flight": _part(whole.max_bytes_in_flight, workers, _with_a_third(whole.max_message_bytes)),
        "max_pixels_in_flight": _part(whole.work_in_flight, workers, 1),
        "max_receiving_bytes": _part(whole.max_receiving_bytes, workers, whole.max_message_bytes),
        "max_streams": _part(whole.max_streams, workers, _FEW),
        "max_uploads": _part(whole.max_uploads, workers, _FEW),
        "max_connections": _by_chance(whole.max_connections, workers),
        "max_connections_per_address": _by_chance(whole.connections_per_address, workers),
        "decode_threads": _part(whole.decoders, workers, 1),
        "samples_per_minute": _part(whole.samples_per_minute, workers, 1),
        "feedback_images": _part(whole.feedback_images, workers, 1),
    }


def _part(whole: int, workers: int, least: int) -> int:
    return min(whole, max(least, -(-whole // workers)))


def _with_a_third(request: int) -> int:
    """The least of which three quarters, rounded down, hold such a request."""
    return -(-4 * request // 3)


def _by_chance(whole: int, workers: int) -> int:
    mean = whole / workers
    return min(whole, math.ceil(mean + _CHANCE * math.sqrt(mean)))
