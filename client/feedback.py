"""Feedback: what images that were answered really show. Nothing here loads gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glimpse.client.results import ImageResult

if TYPE_CHECKING:
    from glimpse.v1 import classifier_pb2 as pb

# What one call may have: its images, and somewhat less than its bytes.
_MOST_IMAGES, _MOST_BYTES = 64, 4000
_COUNTED = frozenset(("first", "among_five", "other"))


@dataclass(frozen=True, slots=True)
class TrueClass:
    """What one image really shows."""

    answer: ImageResult | str  # the result of `classify`, or the request's id
    true_class: str  # by its label, a synonym, its class id or its index
    image: int = 0  # its number, where the request had several images
    new_class: bool = False  # the model has no such class yet

    @property
    def request_id(self) -> str:
        """Of the request that was answered.

        Raises:
            ValueError: the server that has answered takes no feedback.
        """
        found = self.answer if isinstance(self.answer, str) else self.answer.request_id
        if not found:
            raise ValueError("This answer has no request id: the server takes no feedback, see GLIMPSE_FEEDBACK.")
        return found


@dataclass(frozen=True, slots=True)
class FeedbackResult:
    """What became of the true class of one image."""

    # Where the class was in the answer: "first", "among_five" (second to fifth) or "other"; or why it was not counted:
    # "unknown_request", "unknown_class" or "repeated"; of a newer server perhaps something else, "unspecified".
    outcome: str
    sampled: bool  # the server has kept the image as a sample, which has its true class now

    @property
    def counted(self) -> bool:
        """Whether it counts for the accuracy of the model."""
        return self.outcome in _COUNTED


def to_requests(classes: Iterable[TrueClass]) -> Iterator[pb.FeedbackRequest]:
    """As many to a request as it may have.

    Raises:
        ValueError: an answer has no id.
    """
    from glimpse.v1 import classifier_pb2 as pb

    request, size = pb.FeedbackRequest(), 0
    for each in classes:
        told = pb.TrueClass(
            request_id=each.request_id, image=each.image, true_class=each.true_class, new_class=each.new_class
        )
        adds = told.ByteSize() + 4
        if request.images and (size + adds > _MOST_BYTES or len(request.images) >= _MOST_IMAGES):
            yield request
            request, size = pb.FeedbackRequest(), 0
        request.images.append(told)
        size += adds
    if request.images:
        yield request


def from_response(response: pb.FeedbackResponse) -> Sequence[FeedbackResult]:
    """The results, in the order of the request."""
    from glimpse.v1 import classifier_pb2 as pb

    outcomes = pb.FeedbackOutcome.DESCRIPTOR.values_by_number
    return [
        # A newer server may have more of them.
        FeedbackResult(
            outcomes.get(each.outcome, outcomes[0]).name.removeprefix("FEEDBACK_OUTCOME_").lower(), each.sampled
        )
        for each in response.results
    ]
