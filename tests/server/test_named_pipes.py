"""A named pipe in the place of a file that a setting names is told at once, and nobody waits for who might write it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glimpse.server import settings
from glimpse.server.access.audit import Audit
from glimpse.server.access.rates import Allowance
from glimpse.server.access.tokens import Tokens
from glimpse.server.processes import standard_error
from glimpse.server.processes.startup import CredentialsError, StartupError
from tests.conftest import ROOT

USUAL = Allowance(0.0, 64)
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_pipe_as_credentials_is_no_file(pipe: Path) -> None:
    with pytest.raises(CredentialsError, match=r"pipe cannot be read: it is a named pipe, not a file"):
        Tokens(pipe, USUAL)


def test_a_device_as_credentials_is_no_file_either() -> None:
    with pytest.raises(CredentialsError, match="it is a device"):
        Tokens(Path("/dev/zero"), USUAL)


def test_a_pipe_as_config_file_is_no_file(pipe: Path) -> None:
    assert standard_error.form([f"--config={pipe}"], {}) == standard_error.form([], {})
    with pytest.raises(FileNotFoundError, match="is not a file"):
        settings.load([f"--config={pipe}"])


def test_an_audit_log_that_is_a_pipe_which_nobody_reads_is_told(pipe: Path) -> None:
    with pytest.raises(StartupError, match="pipe cannot be opened"):
        Audit(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    Audit(pipe).close()
    os.close(reader)


def test_a_server_whose_settings_name_pipes_ends_with_its_exit_code(pipe: Path) -> None:
    for setting, code in (("CONFIG", 2), ("TOKENS", 7)):
        command = [sys.executable, "-m", "glimpse.server", "--port=0", "--metrics-port=0"]
        environment = {**os.environ, f"GLIMPSE_{setting}": str(pipe)}
        ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, timeout=120, check=False)
        assert ended.returncode == code, ended.stderr
        assert b"Traceback" not in ended.stderr
