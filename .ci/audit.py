#!/usr/bin/env python3
"""Ask whether a known vulnerability is in what the locks install: `audit.py PIP_AUDIT LOCKS [OPTION...]`.

Exit 0: none is known, or the question could not be asked, which a line says. Exit 1: one is known, or pip-audit cannot
read the locks. A network that is away, or a service that is ill, must not stop a change that has nothing to do with it.

pip-audit itself exits 1 for both, and 0 where a mirror of the registry knows none of the packages. What it found is in
its report, so that is what is looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# The oldest versions that the client allows, which a test alone installs.
LEFT_OUT = {"client-oldest"}
# How pip-audit ends where it could not ask: the errors of its services, and of the library beneath them.
UNASKED = (
    "pip_audit._service.interface.ServiceError",
    "pip_audit._service.interface.ConnectionError",
    "requests.exceptions.",
)


def worth_asking(folder: Path) -> list[Path]:
    """The locks that hold what no other one does."""
    pins = {
        lock: frozenset(line.split()[0] for line in lock.read_text().splitlines() if line[:1].isalnum())
        for lock in sorted(folder.glob("*.txt"))
        if lock.stem not in LEFT_OUT
    }
    return [lock for lock, held in pins.items() if not any(held < others for others in pins.values())]


def main(program: str, locks: str, *options: str) -> int:
    """Ask about each lock of the folder."""
    if not Path(program).exists():
        print("Could not ask about known vulnerabilities: pip-audit is not installed")
        return 0
    code = 0
    for lock in worth_asking(Path(locks)):
        asked = subprocess.run(
            [
                *(program, "--requirement", str(lock), "--disable-pip", "--format", "json", "--desc", "off"),
                *("--vulnerability-service", "osv", "--progress-spinner", "off", "--timeout", "10", *options),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        name = lock.name
        try:
            packages = json.loads(asked.stdout)["dependencies"]
        except (ValueError, KeyError):
            reason = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
            if not any(word in reason for word in UNASKED):
                print(f"{name}: pip-audit failed: {reason}", file=sys.stderr)
                return 1
            print(f"{name}: could not ask about known vulnerabilities: {reason[:200]}")
            return code  # the next lock would wait for the same
        known = [(each, found) for each in packages for found in each.get("vulns", [])]
        for each, found in known:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{name}: {each['name']} {each['version']}: {found['id']}, fixed in {fixed}", file=sys.stderr)
        skipped = [each["name"] for each in packages if "skip_reason" in each]
        if skipped:
            print(f"{name}: could not ask about {len(skipped)} of {len(packages)} packages: {', '.join(skipped[:5])}")
        if known:
            code = 1
        elif len(skipped) < len(packages):
            print(f"{name}: no vulnerability is known in {len(packages) - len(skipped)} packages")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
