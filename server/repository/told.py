"""What an engine tells its workers of the models of a repository, and how it is said.

Over a control channel (`server/processes/control_channel.py`) between an engine (`served`) and each of its workers
(`remote`):

model     `serial`, and whether it is `asleep` + [stream socket whose other end the engine's queue of this model has,
          pickled `ModelFacts`]: a model that may be named from now on
wait      `number` -> told, with the same `number`, once the worker has taken the models before it: more are to come
state     `number` + [pickled `Told`] -> told, with the same `number`, once the worker answers by it
          -> counted, with `rollout`: what the worker has counted of a canary or shadow since it said so last
          -> released, with `serial`: no request of the worker uses this model any more
          -> ask, with `number`, `what`, `name`, `version` and `alias`: see `Repository`; with `rollout` where that is
             what is asked for, see `RolloutCommands`; with `serial` where a model is to be woken, which is answered
             after `awake`
          -> left, with `number`: nobody waits for that answer any more
rest      `number`, `serial`: the model is about to be put to sleep; send it nothing more, if no request uses it
          -> rests, with the same `number`, and `rests`: whether that is so
awake     `serial`: the model answers, and may be sent images
answer    `number`, and `name`, `version` and `kept`, or `error`; + [pickled `RolloutReport`s] where they are asked for
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glimpse.server.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    Reason,
    ServiceError,
    UnavailableError,
    defect,
)
from glimpse.server.registry import ModelStatus
from glimpse.server.repository.rollout import RolloutReport

_LONGEST = 4000  # characters of an error's message
_ERRORS: dict[str, type[ServiceError]] = {
    each.__name__: each
    for each in (
        FailedPreconditionError,
        InvalidRequestError,
        ModelNotFoundError,
        OverloadedError,
        PermissionDeniedError,
        UnavailableError,
    )
}


@dataclass(frozen=True, slots=True)
class Told:
    """The models of a repository at one moment; a model is named by its serial number in this engine."""

    number: int  # of the moment
    began: bool  # all that was found first has been loaded, or has failed
    ready: bool  # every required model answers
    names: dict[str, bool]  # every model by name, and whether it answers
    versions: dict[str, dict[str, int]]  # by name of the model: version -> serial number, the newest version last
    aliases: dict[str, dict[str, str]]
    default: str | None
    statuses: tuple[tuple[ModelStatus, int | None], ...]  # each without its model, and the serial number of that
    coming: frozenset[int]  # that are about to answer, for which everybody has to be prepared
    rollouts: tuple[RolloutReport, ...] = ()  # their terms; what is counted of them is not told


def error_to_say(error: BaseException) -> dict[str, Any]:
    """An error as it is said; one that no caller is to see becomes a defect of ours."""
    told = error if isinstance(error, ServiceError) and type(error).__name__ in _ERRORS else defect()
    return {
        "kind": type(told).__name__,
        "reason": told.reason.value,
        "message": told.message[:_LONGEST],
        "field": told.field,
        "retry_after": told.retry_after,
    }


def error_said(said: dict[str, Any]) -> ServiceError:
    """The error that `error_to_say` was given."""
    made = _ERRORS.get(said["kind"])
    if made is None:
        return InternalError(said["message"])
    return made(Reason(said["reason"]), said["message"], field=said["field"], retry_after=said["retry_after"])
