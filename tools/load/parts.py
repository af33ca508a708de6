"""The processes that a server of several is made of, from /proc (Linux)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tools.bench import machine

Kind = Literal["worker", "engine"]


def of(pid: int, kind: Kind) -> set[int]:
    """Those of a kind that the server with this supervisor has and that have not ended."""
    module = f"glimpse.server.{kind}_process"
    return {each for each in machine.tree(pid)[1:] if module in machine.command(each) and not gone(each)}


def gone(pid: int) -> bool:
    """Whether a process has ended, whether or not its parent has noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in {"Z", "X"}
    except OSError:
        return True
