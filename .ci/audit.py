#!/usr/bin/env python3
"""Ask whether a known vulnerability is in what the locks install: `audit.py PIP_AUDIT LOCKS [--require] [OPTION...]`.

Exit 0: none is known, or the question could not be asked. Exit 1: one is known, or pip-audit cannot read the locks. A
network that is away, or a service that is ill, must not stop a change that has nothing to do with it. With `--require`,
or AUDIT_REQUIRE=1, exit 2: about a package nobody was asked. Other options go to pip-audit.

"Nothing is known" and "nothing was asked" are two answers: the last line says which one it is, of how many packages.
pip-audit itself says "No known vulnerabilities found" to both, and exits 0, where a mirror of the registry knows none
of the packages; it exits 1 for a vulnerability and for a question that failed. What it found is in its report, so that
is what is looked at.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The oldest versions that the client allows, which a test alone installs.
LEFT_OUT = {"client-oldest"}
# How pip-audit ends where it could not ask: the errors of its services, and of the library beneath them.
UNASKED = (
    "pip_audit._service.interface.ServiceError",
    "pip_audit._service.interface.ConnectionError",
    "requests.exceptions.",
)
REQUIRE = "--require"


@dataclass
class Answers:
    """What was asked, over all locks, and what is known."""

    asked: set[str] = field(default_factory=set)  # packages
    unasked: set[str] = field(default_factory=set)
    known: int = 0

    def add(self, name: str, packages: list[dict[str, Any]]) -> None:
        """Take pip-audit's report of a lock, and say what is known."""
        for each in packages:
            if "skip_reason" in each:
                self.unasked.add(normal(each["name"]))
                continue
            self.asked.add(normal(each["name"]))
            for found in each.get("vulns", []):
                self.known += 1
                fixed = ", ".join(found["fix_versions"]) or "no version yet"
                print(f"{name}: {each['name']} {each['version']}: {found['id']}, fixed in {fixed}", file=sys.stderr)

    def summary(self) -> str:
        """Which of the answers it is."""
        missing = sorted(self.unasked - self.asked)
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        if not self.asked:
            return (
                f"NOTHING WAS ASKED: whether the {len(missing)} locked packages have known vulnerabilities is not "
                f"known. {REQUIRE} makes that an error."
            )
        total = len(self.asked | self.unasked)
        found = "no vulnerability is known" if not self.known else f"{self.known} vulnerabilities are known, see above"
        text = f"Asked about {len(self.asked)} of {total} locked packages: {found}."
        return text if not missing else f"{text} NOT ASKED about {len(missing)}: {names}."


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> dict[str, str]:
    """By what is pinned, its line: the markers of platforms stand in it."""
    lines = [line for line in lock.read_text().splitlines() if line[:1].isalnum()]
    return {line.split()[0]: line for line in lines}


def worth_asking(folder: Path) -> list[Path]:
    """The locks that hold what no other one does."""
    held = {lock: frozenset(pins(lock)) for lock in sorted(folder.glob("*.txt")) if lock.stem not in LEFT_OUT}
    return [lock for lock, mine in held.items() if not any(mine < others for others in held.values())]


def must_be_asked(lock: Path) -> set[str]:
    """The packages of a lock that every platform installs: of the others, pip-audit asks about those of this one."""
    return {normal(re.split(r"[=\[ ;]", pin)[0]) for pin, line in pins(lock).items() if ";" not in line}


def main(program: str, locks: str, *options: str) -> int:
    """Ask about each lock of the folder."""
    required = REQUIRE in options or os.environ.get("AUDIT_REQUIRE", "") not in {"", "0"}
    passed_on = [option for option in options if option != REQUIRE]
    answers = Answers()
    reason = "" if Path(program).exists() else "pip-audit is not installed"
    for lock in worth_asking(Path(locks)):
        answers.unasked |= must_be_asked(lock)
        if reason:  # it would be the same for every lock
            continue
        asked = subprocess.run(
            [
                *(program, "--requirement", str(lock), "--disable-pip", "--format", "json", "--desc", "off"),
                *("--vulnerability-service", "osv", "--progress-spinner", "off", "--timeout", "10", *passed_on),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            answers.add(lock.name, json.loads(asked.stdout)["dependencies"])
        except (ValueError, KeyError, TypeError):
            said = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
            if not any(word in said for word in UNASKED):
                print(f"{lock.name}: pip-audit failed: {said}", file=sys.stderr)
                return 1
            reason = said[:200]
    if reason:
        print(f"Could not ask about known vulnerabilities: {reason}")
    print(answers.summary())
    if answers.known:
        return 1
    return 2 if required and answers.unasked - answers.asked else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
