"""What the image's health check asks, by the settings that the server in the container has."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client.scripted import ScriptedServer

PROBE = Path(__file__).parents[2] / "deploy" / "image" / "probe.py"


@pytest.fixture(scope="module")
def probe() -> dict[str, Any]:
    return runpy.run_path(str(PROBE))


@pytest.mark.parametrize(
    ("environment", "target"),
    [
        ({}, "127.0.0.1:50051"),
        ({"GLIMPSE_PORT": "6000"}, "127.0.0.1:6000"),
        ({"GLIMPSE_PORT": "6000", "GLIMPSE_HEALTH_PORT": "50052"}, "127.0.0.1:50052"),
        ({"GLIMPSE_HOST": "0.0.0.0"}, "127.0.0.1:50051"),  # noqa: S104 - as the server's setting has it
        ({"GLIMPSE_HOST": "10.1.2.3"}, "10.1.2.3:50051"),
        ({"GLIMPSE_HOST": "fd00::1", "GLIMPSE_HEALTH_PORT": "50052"}, "[fd00::1]:50052"),
    ],
)
def test_it_asks_where_the_settings_have_health_checks_answered(
    probe: dict[str, Any], environment: dict[str, str], target: str
) -> None:
    assert probe["default_target"](environment) == target


def test_its_exit_code_is_the_answer(
    probe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer() as running:
        monkeypatch.setattr(sys, "argv", ["probe.py"])
        monkeypatch.setenv("GLIMPSE_HEALTH_PORT", str(running.port))
        monkeypatch.delenv("GLIMPSE_HOST", raising=False)
        assert probe["main"]() == 0
        running.serving(yes=False)
        assert probe["main"]() == 1
    assert capsys.readouterr().err.splitlines() == [f"{running.target} is SERVING", f"{running.target} is NOT_SERVING"]


def test_where_the_port_speaks_tls_it_says_which_setting_helps(
    probe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["probe.py", "--target", "127.0.0.1:1", "--timeout", "1"])
    monkeypatch.setenv("GLIMPSE_TLS_CERTIFICATE", "/etc/glimpse/tls/tls.crt")
    monkeypatch.delenv("GLIMPSE_HEALTH_PORT", raising=False)
    assert probe["main"]() == 1
    assert "set GLIMPSE_HEALTH_PORT" in capsys.readouterr().err
