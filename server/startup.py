"""Why a server cannot start, as one tree; each cause has an exit code of its own, so that a supervisor can tell them.

    StartupError
    ├── PortTakenError      3
    ├── ModelLoadError      4   weights, labels or recipe cannot be used, or no runtime can compute the network
    ├── GoldenError         5   the model loads, but does not give its recorded answers here
    ├── MemoryShortError    6   the model would not fit into the memory there is
    └── CredentialsError    7   certificate, key, authorities or tokens cannot be used

2 is for settings that cannot be, 0 for a server that was told to stop, however far it had come: what was in flight is
answered, and of a start that was not over nothing is left. `prepare` is not done then: 128 and the signal's number.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_SETTINGS = 2


class StartupError(Exception):
    """Expected: the server cannot start; the message says why and what to do."""

    exit_code: ClassVar[int] = 1


class PortTakenError(StartupError):
    """Somebody else listens on the port, or it cannot be listened on."""

    exit_code = 3


class ModelLoadError(StartupError):
    """The model cannot be loaded."""

    exit_code = 4


class GoldenError(StartupError):
    """The model does not give its recorded answers on this runtime and precision."""

    exit_code = 5


class MemoryShortError(StartupError):
    """There is not enough memory for the model."""

    exit_code = 6


class CredentialsError(StartupError):
    """A certificate, a key or the file of tokens cannot be used."""

    exit_code = 7
