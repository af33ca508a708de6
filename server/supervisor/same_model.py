"""Whether an engine has loaded the model that the server serves: the files of a model may change while it does.

An engine that is begun again reads them again. Where others serve, its answers have to be theirs; where none does, the
server serves what is there now, as after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog

from glimpse.server.processes.startup import ModelLoadError
from glimpse.server.supervisor.child import ChildFailedError

_log = structlog.get_logger(__name__)


class SameModel:
    """What each engine has loaded, as it says: `name`, `version`, `weights_digest` and `content`, a hash of it all."""

    def __init__(self) -> None:
        """Nothing has been loaded yet."""
        self._models: dict[int, Mapping[str, str]] = {}  # by engine
        self._last: Mapping[str, str] | None = None  # that was taken last

    def take(self, number: int, model: Mapping[str, str], serving: Iterable[int]) -> None:
        """An engine has loaded this model.

        Args:
            number: of the engine.
            model: what it says of it.
            serving: the numbers of the other engines that serve.

        Raises:
            ChildFailedError: expected; others serve another one. The message says what to do.
        """
        for other in serving:
            if (theirs := self._models[other])["content"] != model["content"]:
                raise ChildFailedError(ModelLoadError.exit_code, _refusal(number, model, other, theirs))
        if self._last is not None and self._last["content"] != model["content"]:
            _log.warning(
                "another model is served",
                engine=number,
                model=_named(model),
                before=_named(self._last),
                detail="The model's files have changed since the server was started, and an engine that was replaced "
                "has read them again.",
            )
        self._models[number] = self._last = model


def _refusal(number: int, model: Mapping[str, str], other: int, theirs: Mapping[str, str]) -> str:
    what = (
        f"{_named(model)}, and engine {other} serves {_named(theirs)}"
        if _named(model) != _named(theirs)
        else f"{_named(model)}, as engine {other} has, but with another description (labels, recipe, temperature)"
    )
    return (
        f"Engine {number} has loaded {what}: the model's files have changed since the server was started. Engine "
        f"{number} is not used, so that all answers are those of one model. Restart the server to serve the files as "
        "they are now, or put the former files back: the engine tries again by itself."
    )


def _named(model: Mapping[str, str]) -> str:
    return f"{model['name']} {model['version']} ({model['weights_digest']})"
