"""Numbers of a tensor of UINT8 that were sent as the protocol's typed contents, by array operations.

To read them one by one from the parsed message would hold the event loop for 0.1 microseconds each, of which an image
has 150,000.
"""

from __future__ import annotations

import numpy as np

from glimpse.server.errors import InvalidRequestError, Reason

_MORE = 0x80  # the bit of a varint's byte that says that it has another one


def small_numbers(field: bytes, where: str) -> bytes:
    """The numbers of a packed field, each as one byte.

    Args:
        field: the whole field as it is serialized: its tag of one byte, its length, its numbers.
        where: the field in the message.

    Raises:
        InvalidRequestError: expected; INVALID_TENSOR: one is above 255.
    """
    at = 1
    while field[at] & _MORE:
        at += 1
    packed = np.frombuffer(field, np.uint8, offset=at + 1)
    ends = np.flatnonzero(packed < _MORE)
    values = packed[ends]
    lengths = np.diff(ends, prepend=-1)
    two = np.flatnonzero(lengths == 2)
    last = ends[two]
    if (lengths > 2).any() or (packed[last] > 1).any():
        raise InvalidRequestError(
            Reason.INVALID_TENSOR, "An element of a tensor of UINT8 must be from 0 to 255.", field=where
        )
    values[two] = (packed[last - 1] & (_MORE - 1)) | (packed[last] << 7)
    return values.tobytes()
