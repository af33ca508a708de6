"""Waiting for a server: what it says meanwhile, what ends it, and what it does not wait for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer

from glimpse.client import Client, Code, UnavailableError
from glimpse.client.commands import waiting
from glimpse.client.commands.waiting import wait_until_serving
from glimpse.client.health import Health, Serving
from tests.client.conftest import CLI, Glimpse
from tests.client.scripted import ScriptedServer

NOBODY = UnavailableError(Code.UNAVAILABLE, "", "No Glimpse server answers at host:1 (refused).")
NOT_READY = Health(Serving.SERVING, Serving.NOT_SERVING)


def waiting_for(folder: Path, *arguments: str, then: Callable[[], object]) -> subprocess.CompletedProcess[str]:
    """Run a command, and do something once it has said that it waits."""
    with subprocess.Popen(
        [sys.executable, CLI, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        said = running.stderr.readline()
        assert said.startswith("Waiting up to "), said
        then()
        stdout, stderr = running.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, running.returncode, stdout, said + stderr)


def test_a_command_waits_until_the_server_serves(scripted: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("cat")
    scripted.serving(yes=False)
    command = ("classify", "--wait", "--json", "photo.jpg", "--target", scripted.target)
    ended = waiting_for(tmp_path, *command, then=lambda: scripted.serving(yes=True))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["predictions"][0]["label"] == "cat"
    assert f"seconds for {scripted.target}: " in ended.stderr
    assert "it answers, and is not serving yet" in ended.stderr


def test_health_waits_and_says_what_it_waited_for(nowhere: str, tmp_path: Path) -> None:
    servers = []

    def start() -> None:
        servers.append(ScriptedServer(port=int(nowhere.rpartition(":")[2])).__enter__())

    try:
        ended = waiting_for(tmp_path, "health", "--wait", "--target", nowhere, then=start)
    finally:
        for server in servers:
            server.stop()
    assert (ended.returncode, ended.stdout) == (0, "live   SERVING\nready  SERVING\n")
    assert "nobody answers there yet" in ended.stderr


@pytest.mark.parametrize("command", [["health", "--json"], ["describe"]], ids=lambda command: command[0])
def test_who_waited_long_enough_hears_the_last_state(
    scripted: ScriptedServer, glimpse: Glimpse, command: list[str]
) -> None:
    scripted.serving(yes=False)
    ended = glimpse(*command, "--wait", "--timeout", "0.6", "--target", scripted.target)
    assert ended.returncode == 3
    if command[0] == "health":
        assert json.loads(ended.stdout) == {"live": "SERVING", "ready": "NOT_SERVING"}
    else:
        assert "is not serving after 0.6 seconds of waiting" in ended.stderr


def test_where_nobody_comes_it_ends_as_without_waiting(glimpse: Glimpse, nowhere: str) -> None:
    ended = glimpse("health", "--wait", "--timeout", "0.6", "--target", nowhere)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "nobody answers there yet" in ended.stderr
    assert f"No Glimpse server answers at {nowhere}; start one" in ended.stderr


def test_a_server_that_answered_and_is_gone_is_not_waited_for(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def echo(text: str, *, err: bool) -> None:
        assert err
        said.append(text.rpartition(": ")[2])
        scripted.stop()

    monkeypatch.setattr(typer, "echo", echo)
    monkeypatch.setattr(waiting, "_GONE_AFTER", 0.5)
    scripted.serving(yes=False)
    with Client(scripted.target) as client, pytest.raises(UnavailableError, match="without serving, and is gone now"):
        wait_until_serving(client, seconds=300)
    assert said == [
        "it answers, and is not serving yet (it loads its model, or it is shutting down).",
        "it has gone away.",
    ]


def test_a_reason_other_than_that_nobody_listens_is_told() -> None:
    error = UnavailableError(Code.UNAVAILABLE, "", "The certificate of host:1 was issued for another name (x).")
    assert waiting._Watch("host:1").state(None, error, 0.0) == "The certificate of host:1 was issued for another name"


def test_a_moment_without_an_answer_is_no_end() -> None:
    watch = waiting._Watch("host:1")
    assert watch.state(None, NOBODY, 0.0) == watch.state(None, NOBODY, 1000.0) == "nobody answers there yet"
    watch.state(NOT_READY, None, 1000.0)
    assert watch.state(None, NOBODY, 1001.0) == "it has gone away"
    watch.state(NOT_READY, None, 1004.0)
    assert watch.state(None, NOBODY, 1007.0) == watch.state(None, NOBODY, 1011.9) == "it has gone away"
    with pytest.raises(UnavailableError):
        watch.state(None, NOBODY, 1012.0)


def test_a_server_without_health_is_not_waited_for(glimpse: Glimpse, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("cat")
    with ScriptedServer(offers_health=False) as server:
        ended = glimpse("classify", "--wait", "photo.jpg", "--target", server.target)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_who_is_not_let_in_does_not_wait(glimpse: Glimpse) -> None:
    with ScriptedServer(offers_health=False) as server:
        method: Any = grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        )
        server._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),)
        )
        ended = glimpse("health", "--wait", "--target", server.target)
    assert (ended.returncode, ended.stdout) == (9, "")
    assert "Waiting" not in ended.stderr
