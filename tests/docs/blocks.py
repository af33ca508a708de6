"""The fenced blocks of a page, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# What people read: the site's own pages, and those that it takes from elsewhere in the repository.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        ROOT / "deploy" / "README.md",
        ROOT / "tools" / "bench" / "README.md",
        *DOCS.rglob("*.md"),
    )
)
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two fences."""

    page: str  # path from the repository's root
    line: int  # of the opening fence
    language: str
    title: str  # name of the file that it is; "" where it is none
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a block, as a shell would read it."""

    text: str  # with its continuations on one line
    environment: dict[str, str]  # set in front of it
    words: tuple[str, ...]  # without these and without a comment

    @property
    def program(self) -> str:
        """What is run, with its arguments; for patterns to be matched with."""
        return " ".join(self.words)


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page.

    Raises:
        ValueError: a fence is not closed.
    """
    found: list[Block] = []
    opened: re.Match[str] | None = None
    start, inside = 0, list[str]()
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, start, inside = fence, number, []
        elif opened is not None and fence and fence["fence"] == opened["fence"] and not fence["info"].strip():
            info = opened["info"].strip()
            title = _TITLE.search(info)
            language = info.split()[0] if info else ""
            found.append(Block(page, start, language, title[1] if title else "", "\n".join(inside) + "\n"))
            opened = None
        elif opened is not None:
            inside.append(line.removeprefix(opened["indent"]))
    if opened is not None:
        raise ValueError(f"{page}:{start}: this fence is not closed.")
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a shell block, one a line or several lines that end in a backslash."""
    found = []
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        words = shlex.split(line, comments=True)
        environment = {}
        while words and (given := re.fullmatch(r"([A-Z_]+)=(.*)", words[0], re.DOTALL)):
            environment[given[1]] = given[2]
            words.pop(0)
        if words:
            found.append(Command(line, environment, tuple(words)))
    return found
