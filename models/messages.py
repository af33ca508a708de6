"""Errors of libraries: a short message for the log, and whether memory was exhausted."""

from __future__ import annotations

import re

_LONGEST = 300  # characters
# Keras wraps the cause in a message for each level of a model, with the whole configuration of that level.
_INNERMOST = "Exception encountered: "
# From here on it shows a configuration or the arguments of a call.
_PAGES = re.compile(
    r"(?:Full object config|(?:using )?config|Arguments received by [\w.]+|Received: config)\s*[:=]?\s*[{\[(].*"
    r"|Arguments received by .*",
    re.DOTALL,
)
# Where in C++ it was thrown, and which operation of a graph it was.
_PLACES = re.compile(r"(?:Exception from|Check '.*' failed at) \S+:\d*:?|\[\[\{\{.*?\}\}\]\]|\{\{.*?\}\}|\[Op:[^\]]*\]")

# By which errors of frameworks are recognised that mean that there was not enough memory.
_MEMORY_TYPES = ("ResourceExhaustedError", "OutOfMemoryError")
_MEMORY_WORDS = ("Failed to allocate", "std::bad_alloc", "RESOURCE_EXHAUSTED", "can't allocate memory")


def short(error: BaseException | str) -> str:
    """The message of an error on one line of at most about 300 characters.

    Args:
        error: the exception, or its message.
    """
    kind = "" if isinstance(error, str) else type(error).__name__
    text = str(error).rpartition(_INNERMOST)[2]
    text = " ".join(_PLACES.sub(" ", _PAGES.sub("", text)).split()).strip(" ,;:")
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 4].rsplit(' ', 1)[0]} ..."
    # The message of a KeyError is the key alone, and some have none.
    return text if " " in text else f"{kind}: {text}".strip(": ")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of any framework means that there was not enough memory."""
    named = isinstance(error, MemoryError) or type(error).__name__ in _MEMORY_TYPES
    return named or any(words in str(error) for words in _MEMORY_WORDS)
