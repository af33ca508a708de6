"""What the server's and the command line's exit codes mean, from where they are given."""

from __future__ import annotations

import re
import signal

from docs.generate.markdown import table
from glimpse.client.exits import TABLE, Exit
from glimpse.server import startup, stopping

_LINE = re.compile(r"^ +(\d+)  (.+)$", re.MULTILINE)

_ABOUT = """\
# Exit codes

A cause has a code of its own, so that a supervisor or a script can tell what to do next.
"""


def page() -> str:
    """Both programs' codes."""
    return "\n".join(
        [
            _ABOUT,
            "## The server: `python -m glimpse.server`, `glimpse-server`\n",
            "It says the cause on the last line of its log as well.\n",
            table(("code", "meaning"), [[str(code), text] for code, text in sorted(server().items())]),
            "## The command line: `client/cli.py`, `glimpse`\n",
            "The message is on stderr; stdout has data alone.\n",
            table(("code", "meaning"), [[str(code), text] for code, text in sorted(client().items())]),
        ]
    )


def server() -> dict[int, str]:
    """By code, what ended the server."""
    causes = {each.exit_code: (each.__doc__ or "").strip() for each in startup.StartupError.__subclasses__()}
    return {
        0: "It was told to stop, and what was in flight was answered; or before it served. `prepare`: it is prepared.",
        startup.EXIT_SETTINGS: "The settings cannot be used.",
        **causes,
        stopping.exit_code(signal.SIGINT, prepares=True): "`prepare` was told to stop by SIGINT before it was done.",
        stopping.exit_code(signal.SIGTERM, prepares=True): "`prepare` was told to stop by SIGTERM before it was done.",
    }


def client() -> dict[int, str]:
    """By code, how a command ended.

    Raises:
        ValueError: the table that `--help` shows is not of the codes that are given.
    """
    told = {int(code): f"{text[0].upper()}{text[1:]}." for code, text in _LINE.findall(TABLE)}
    if set(told) != set(Exit):
        raise ValueError(f"client/exits.py gives {sorted(Exit)} and tells of {sorted(told)}.")
    return told
