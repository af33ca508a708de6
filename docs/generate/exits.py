"""What the server's and the command line's exit codes mean, from where they are given."""

from __future__ import annotations

import re

from docs.generate.markdown import table
from glimpse.client.commands.exits import TABLE, Exit
from glimpse.server.processes import startup

_LINE = re.compile(r"^ +(\d+)  (.+)$", re.MULTILINE)

_ABOUT = """\
# Exit codes

Each cause has its own exit code, so that a supervisor or a script can tell what to do next.
"""


def page() -> str:
    """Both programs' codes."""
    return "\n".join(
        [
            _ABOUT,
            "## The server: `python -m glimpse.server`, `glimpse-server`\n",
            "The last line of its log states the cause as well.\n",
            table(("code", "meaning"), [[str(code), text] for code, text in startup.exit_codes().items()]),
            "## The command line: `client/cli.py`, `glimpse`\n",
            "Messages go to stderr; stdout has nothing but results.\n",
            table(("code", "meaning"), [[str(code), text] for code, text in sorted(client().items())]),
        ]
    )


def client() -> dict[int, str]:
    """By code, how a command ended.

    Raises:
        ValueError: the table that `--help` shows is not of the codes that are given.
    """
    told = {int(code): f"{text[0].upper()}{text[1:]}." for code, text in _LINE.findall(TABLE)}
    if set(told) != set(Exit):
        raise ValueError(f"client/exits.py gives {sorted(Exit)} and tells of {sorted(told)}.")
    return told
