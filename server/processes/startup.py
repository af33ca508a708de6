"""Why a server cannot start, as one tree. Each cause has its own exit code, so that a supervisor can tell them apart.

StartupError
├── PortTakenError      3
├── ModelLoadError      4   weights, labels or recipe cannot be used, or no runtime can compute the network
├── GoldenError         5   the model loads, but does not reproduce its recorded answers here
├── MemoryShortError    6   the model would not fit into the available memory
└── CredentialsError    7   certificate, key, authorities or tokens cannot be used
"""

from __future__ import annotations

import signal
from typing import ClassVar

from glimpse.server.processes import stopping

EXIT_SETTINGS = 2


class StartupError(Exception):
    """Expected: the server cannot start; the message says why and what to do."""

    exit_code: ClassVar[int] = 1


class PortTakenError(StartupError):
    """The server cannot listen on the address and port, most often because another program uses the port."""

    exit_code = 3


class ModelLoadError(StartupError):
    """The model cannot be loaded."""

    exit_code = 4


class GoldenError(StartupError):
    """The model does not reproduce its recorded answers with this runtime and precision."""

    exit_code = 5


class MemoryShortError(StartupError):
    """There is not enough memory for the model."""

    exit_code = 6


class CredentialsError(StartupError):
    """A certificate, a key or the token file cannot be used."""

    exit_code = 7


def exit_codes() -> dict[int, str]:
    """By exit code, what ended the server."""
    causes = {each.exit_code: (each.__doc__ or "").strip() for each in StartupError.__subclasses__()}
    codes = {
        stopping.STOPPED: "The server was told to stop; calls still in flight after --drain-seconds were aborted. "
        "`prepare`: the model is prepared.",
        StartupError.exit_code: "Another error; the log says which.",
        EXIT_SETTINGS: "The settings are invalid.",
        **causes,
        stopping.exit_code(signal.SIGINT, prepares=True): "`prepare` was stopped by SIGINT before it was done.",
        stopping.exit_code(signal.SIGTERM, prepares=True): "`prepare` was stopped by SIGTERM before it was done.",
    }
    return dict(sorted(codes.items()))
