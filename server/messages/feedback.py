"""Feedback from protobuf and JSON to plain values, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glimpse.server.access.call_context import CallContext
from glimpse.server.errors import InvalidRequestError, PermissionDeniedError, Reason
from glimpse.server.labelling.feedback import MOST_AT_ONCE, Told, TrueClass
from glimpse.server.nouns import noun
from glimpse.server.service import Service
from glimpse.v1 import classifier_pb2 as pb


async def give(service: Service, call: CallContext, classes: Sequence[TrueClass]) -> list[Told]:
    """Give feedback, if the server takes any.

    Raises:
        PermissionDeniedError: expected; the server takes none, or none of this caller.
        InvalidRequestError: expected; NO_IMAGES, TOO_MANY_IMAGES.
    """
    feedback = None if service.labelling is None else service.labelling.feedback
    if feedback is None:
        raise PermissionDeniedError(
            Reason.NOT_PERMITTED,
            "This server takes no feedback: GLIMPSE_FEEDBACK is not set. Ask the operator.",
        )
    call.detail = f"true classes of {len(classes)} {noun(len(classes), 'image')}"
    if not classes:
        raise InvalidRequestError(Reason.NO_IMAGES, "Send the true class of at least one image.", field="images")
    if len(classes) > MOST_AT_ONCE:
        raise InvalidRequestError(
            Reason.TOO_MANY_IMAGES,
            f"The true classes of at most {MOST_AT_ONCE} images may be told at once. Received: {len(classes)}. Send "
            "several requests.",
            field="images",
        )
    return await feedback.give(call, classes)


def of_message(request: pb.FeedbackRequest) -> list[TrueClass]:
    """What a message says."""
    return [TrueClass(each.request_id, each.image, each.true_class, each.new_class) for each in request.images]


def message(told: Sequence[Told]) -> pb.FeedbackResponse:
    """What is answered."""
    return pb.FeedbackResponse(
        results=[pb.FeedbackResult(outcome=f"FEEDBACK_OUTCOME_{each.outcome.name}", sampled=each.kept) for each in told]
    )


def as_json(told: Sequence[Told]) -> dict[str, Any]:
    """The same in JSON."""
    return {"results": [{"outcome": each.outcome.value, "sampled": each.kept} for each in told]}
