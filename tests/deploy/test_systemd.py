"""The unit of systemd, by systemd's own checker and by what the server says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glimpse.server.processes import startup
from glimpse.server.settings import Settings, unknown_variables
from tests.deploy.tools import DEPLOY, ROOT, run, tool

UNIT = (DEPLOY / "systemd" / "glimpse.service").read_text("utf-8")


def values(key: str) -> list[str]:
    """What the unit says of a key, line by line."""
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """With the paths of this checkout."""
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    unit = tmp_path / "glimpse.service"
    unit.write_text(UNIT.replace("/opt/glimpse", str(tmp_path)))
    ended = run(tool("systemd-analyze"), "verify", "--man=no", str(unit))
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if "glimpse.service" in line]
    assert (ended.returncode, said) == (0, [])
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=gently"))
    assert "gently" in run(tool("systemd-analyze"), "verify", "--man=no", str(unit)).stderr


def test_its_variables_are_settings() -> None:
    (line,) = values("Environment")
    given = dict(each.split("=", 1) for each in line.split())
    assert not unknown_variables(given)
    assert given["GLIMPSE_CACHE"] == "/var/cache/" + values("CacheDirectory")[0]


def test_it_is_not_killed_before_it_has_drained() -> None:
    fields = Settings.model_fields
    drain = fields["drain_announce_seconds"].default + fields["drain_seconds"].default
    assert float(values("TimeoutStopSec")[0]) >= drain + 20


@pytest.mark.parametrize("code", [2, 4, 5, 7])
def test_what_another_start_does_not_change_ends_it(code: int) -> None:
    assert code in startup.exit_codes()
    assert str(code) in values("RestartPreventExitStatus")[0].split()
