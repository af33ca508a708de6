"""What a caller may say with a request, or with one of its outputs, besides its tensors.

The protocol lets a server ignore parameters that it does not know, and clients send some of their own, so these are not
refused; one of those below that is of another type or out of range is.
"""

from __future__ import annotations

from dataclasses import dataclass

from glimpse.server.errors import InvalidRequestError, Reason, shown
from glimpse.server.fair_queue import PRIORITIES, USUAL_PRIORITY
from glimpse.server.open_inference.messages import Parameters

CLASSIFICATION = "classification"
_SHARED_MEMORY = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class Options:
    """What the parameters of a request say."""

    top_k: int | None = None
    min_probability: float = 0.0
    geometry: str = ""
    priority: int = USUAL_PRIORITY  # from 1, which is first
    timeout: float | None = None  # seconds
    novelty: bool = False  # tell of each image whether it shows any of the model's classes


def options(parameters: Parameters) -> Options:
    """Read the parameters of a request.

    Raises:
        InvalidRequestError: expected; INVALID_PARAMETER.
    """
    if not parameters.values:
        return _NONE
    priority = _whole(parameters, "priority") or USUAL_PRIORITY
    timeout = _whole(parameters, "timeout")
    return Options(
        top_k=_whole(parameters, "top_k"),
        min_probability=_number(parameters, "min_probability"),
        geometry=_text(parameters, "geometry"),
        priority=priority if priority <= PRIORITIES else USUAL_PRIORITY,
        timeout=timeout / 1e6 if timeout else None,
        novelty=_flag(parameters, "novelty"),
    )


def classes(parameters: Parameters) -> int:
    """How many classes an output is to be told as, instead of as numbers; 0: as numbers.

    Raises:
        InvalidRequestError: expected; INVALID_PARAMETER.
    """
    check_not_shared(parameters)
    return _whole(parameters, CLASSIFICATION) or 0


def check_not_shared(parameters: Parameters) -> None:
    """Refuse a tensor that is in memory shared with the caller.

    Raises:
        InvalidRequestError: expected; INVALID_PARAMETER.
    """
    if _SHARED_MEMORY in parameters.values:
        raise InvalidRequestError(
            Reason.INVALID_PARAMETER,
            "This server has no shared memory with its callers. Send and receive tensors in the messages.",
            field=parameters.where(_SHARED_MEMORY),
        )


_NONE = Options()


def _whole(parameters: Parameters, name: str) -> int | None:
    """A number of things, from 0; None where there is none."""
    if name not in parameters.values:
        return None
    value = parameters.values[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(parameters, name, "an integer from 0")
    return value


def _number(parameters: Parameters, name: str) -> float:
    value = parameters.values.get(name, 0.0)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(parameters, name, "a number")
    return float(value)


def _flag(parameters: Parameters, name: str) -> bool:
    value = parameters.values.get(name, False)
    if not isinstance(value, bool):
        raise _wrong(parameters, name, "true or false")
    return value


def _text(parameters: Parameters, name: str) -> str:
    value = parameters.values.get(name, "")
    if not isinstance(value, str):
        raise _wrong(parameters, name, "a string")
    return value


def _wrong(parameters: Parameters, name: str, wanted: str) -> InvalidRequestError:
    value = parameters.values[name]
    received = (
        "no value of a type that parameters have"
        if value is None
        else shown(value)
        if isinstance(value, str)
        else repr(value)
    )
    return InvalidRequestError(
        Reason.INVALID_PARAMETER,
        f"The parameter {name} must be {wanted}. Received: {received}.",
        field=parameters.where(name),
    )
