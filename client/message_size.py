"""What one run of bulk work learns of how large a message its server takes: one that takes less refuses a whole stream.

A server whose limit is lower than the client's ends the stream on which a larger message comes. The image in it would
end one stream after the other, and all others would be sent again each time; so it fails alone, and so does whatever
is as large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from glimpse.client.errors import GlimpseError
from glimpse.client.reading import Job
from glimpse.client.results import ImageResult
from glimpse.client.status import largest_taken
from glimpse.v1 import classifier_pb2 as pb


class MessageSize:
    """The largest message that a server takes, as far as its refusals tell."""

    def __init__(self) -> None:
        """Nothing has been refused."""
        self._most: int | None = None
        self._result: ImageResult | None = None

    def learn(self, error: grpc.RpcError, cause: GlimpseError, sent: Iterable[Job[Any]]) -> bool:
        """Learn from a refusal.

        Args:
            error: by which the server ended a stream.
            cause: what it means.
            sent: the images of that stream without an answer.

        Returns:
            Whether an image explains it. Where none was sent, nothing is learned.
        """
        largest = max(map(_bytes_of, sent), default=0)
        if not largest:
            return False
        told = largest_taken(error)
        # One of them was too large, so that the largest is for certain, whatever the server says.
        self._most = largest - 1 if told is None else min(told, largest - 1)
        self._result = ImageResult.failed(cause.code, cause.reason, cause.message)
        return True

    def refuse(self, job: Job[Any]) -> bool:
        """Give an image that is too large its result; False where it is not, as far as is known."""
        if self._most is None or _bytes_of(job) <= self._most:
            return False
        job.result, job.request = self._result, None
        return True


def _bytes_of(job: Job[Any]) -> int:
    """Of the message that carries an image."""
    return pb.ClassifyStreamRequest(id=str(job.number), request=job.request).ByteSize()
