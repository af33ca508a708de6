"""The manual page says what the commands say, in a form that man can read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from glimpse.client.commands import exits
from tests.client.conftest import ROOT, Glimpse


@pytest.fixture(scope="module")
def page() -> str:
    command = [sys.executable, "-m", "glimpse.client.manual"]
    path = f"{ROOT}:{ROOT / 'src'}"
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd="/", env={"PYTHONPATH": path, "PATH": ""}
    ).stdout


def test_groff_has_nothing_to_complain_about(page: str) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    ended = subprocess.run([groff, "-man", "-ww", "-Tutf8"], input=page, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    assert "EXIT STATUS" in re.sub(r".\x08|\x1b\[[0-9]*m", "", ended.stdout)


def test_sections_are_those_of_a_manual_page(page: str) -> None:
    assert page.startswith(".TH GLIMPSE 1 ")
    assert re.findall(r"^\.SH (.*)$", page, re.MULTILINE) == [
        "NAME",
        "SYNOPSIS",
        "OPTIONS",
        "COMMANDS",
        "OPTIONS THAT FIND THE SERVER",
        "EXAMPLES",
        "EXIT STATUS",
        "FILES",
    ]


def test_every_option_and_exit_code_is_there(page: str, glimpse: Glimpse) -> None:
    commands = re.findall(r"^  ([a-z]+)  ", glimpse("--help").stdout, re.MULTILINE)
    assert commands == re.findall(r"^\.SS (.*)$", page, re.MULTILINE)
    shown = page.replace(r"\-", "-")
    for command in commands:
        options = re.findall(r"^  (--[a-z-]+|-[a-z], --[a-z-]+)", glimpse(command, "--help").stdout, re.MULTILINE)
        assert options, command
        for option in options:
            assert option == "-h, --help" or f"\\fB{option}" in shown, f"{command} {option}"
    for code in exits.Exit:
        assert f".TP\n\\fB{int(code)}\\fR\n" in page
