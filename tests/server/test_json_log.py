"""Where the log is JSON, every line on standard error is, whoever wrote it and in whatever phase."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from glimpse.server import build
from glimpse.server.processes import standard_error
from glimpse.v1 import classifier_pb2 as pb
from glimpse.v1.classifier_pb2_grpc import ImageClassifierStub
from tests.conftest import CACHE, ROOT, RunningServer
from tests.server.conftest import TIMEOUT, metrics_of

Start = Callable[..., RunningServer]
# Whatever can be written past the log, between its beginning and its end.
PROGRAM = """
import os, subprocess, sys, threading, warnings
from glimpse.server import logs
from glimpse.server.processes import standard_error
captured = standard_error.Captured()
logs.configure("info", "json")
{}
captured.close()
os._exit(3)
"""


def program(code: str, *, level: str = "info") -> list[dict[str, Any]]:
    """The lines that a program with `code` has written to standard error, all of which are JSON."""
    text = PROGRAM.replace('"info"', f'"{level}"').format(code)
    ended = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    return [json.loads(line) for line in ended.stderr.splitlines()]


def details(code: str) -> list[tuple[str, str]]:
    return [(line["level"], line["detail"]) for line in program(code)]


def test_what_is_written_past_the_log_is_a_log_line() -> None:
    assert details('os.write(2, b"from C\\n")') == [("warning", "from C")]
    assert details('print("from Python", file=sys.stderr)') == [("warning", "from Python")]
    assert details('subprocess.run(["sh", "-c", "echo from a child >&2"])') == [("warning", "from a child")]
    assert details('os.write(2, b"no end")') == [("warning", "no end")]
    assert details('os.write(2, b"\\xff {\\n\\n")') == [("warning", "\\xff {")]


LIBRARIES = """
import logging
for name in ("jax._src.dispatch", "asyncio", "glimpse.server.loading.loading"):
    logging.getLogger(name).debug("compiles")
    logging.getLogger(name).info("has compiled")
"""


@pytest.mark.parametrize(
    ("level", "libraries", "ours"),
    [
        ("info", ["has compiled"], ["has compiled"]),
        ("debug", ["has compiled"], ["compiles", "has compiled"]),
        ("all", ["compiles", "has compiled"], ["compiles", "has compiled"]),
    ],
)
def test_debug_is_for_our_own_messages_and_all_for_those_of_libraries_too(
    level: str, libraries: list[str], ours: list[str]
) -> None:
    assert [line["event"] for line in program(LIBRARIES, level=level)] == [*libraries, *libraries, *ours]


def test_lines_of_abseil_keep_their_severity() -> None:
    said = (
        b"I0000 00:00:1700000000.123456   77 port.cc:153] oneDNN\n"
        b"E1126 12:00:00.123456 7 a.cc:1] bad\n"
        b"2026-01-01 12:00:00.123456: W tensorflow/core/a.cc:1] odd\n"
    )
    told = details(f"os.write(2, {said!r})")
    assert [level for level, _ in told] == ["info", "error", "warning"]
    assert told[0][1].endswith("oneDNN")
    assert program(f"os.write(2, {said!r})", level="error")[0]["level"] == "error"


def test_what_looks_like_a_log_line_is_told_as_what_was_written_past_the_log() -> None:
    line = json.dumps({"event": "converted", "level": "info"})
    assert details(f"os.write(2, b'''{line}\\n''')") == [("warning", line)]


def test_10_000_lines_that_are_written_just_before_the_end_are_all_there() -> None:
    lines = program('[os.write(2, b"%d\\n" % n) for n in range(10_000)]')
    assert [line["detail"] for line in lines] == [str(number) for number in range(10_000)]


def test_exceptions_that_nobody_catches_and_warnings_are_one_line_each() -> None:
    (thread,) = program("each = threading.Thread(target=lambda: 1 / 0, name='t'); each.start(); each.join()")
    assert (thread["event"], thread["in_thread"]) == ("uncaught exception", "t")
    assert "ZeroDivisionError" in thread["exception"]
    (warned,) = program("warnings.warn('careful')")
    assert "careful" in warned["event"]
    (main,) = program("1 / 0")
    assert (main["event"], main["level"]) == ("uncaught exception", "critical")
    code = "class Bad:\n def __del__(self): 1 / 0\nBad()"
    (ignored,) = program(code)
    assert "ZeroDivisionError" in ignored["exception"]


def test_a_crash_is_told_though_it_is_no_json() -> None:
    text = PROGRAM.format("import ctypes; ctypes.string_at(0)")
    ended = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode < 0
    assert "Fatal Python error: Segmentation fault" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "form"),
    [
        (["--log-format=json"], {"GLIMPSE_LOG_FORMAT": "text"}, "json"),
        (["--log-format", "text"], {"GLIMPSE_LOG_FORMAT": "json"}, "text"),
        (["prepare", "--port=x"], {"GLIMPSE_LOG_FORMAT": "json"}, "json"),
        ([], {"glimpse_log_format": "text"}, "text"),
        (["--log-format"], {}, "json"),  # nothing is known: as auto, which is no terminal here
        ([], {"GLIMPSE_LOG_FORMAT": "yaml"}, "json"),
    ],
)
def test_the_form_of_the_log_is_known_before_the_settings_are(
    arguments: list[str], environment: dict[str, str], form: str
) -> None:
    assert standard_error.form(arguments, environment) == form


def test_the_form_of_the_log_is_found_in_the_file_of_settings_too(tmp_path: Path) -> None:
    file = tmp_path / "glimpse.toml"
    file.write_text('log_format = "text"\nport = "x"\n')
    assert standard_error.form(["--config", str(file)], {}) == "text"
    assert standard_error.form([f"--config={file}"], {}) == "text"
    assert standard_error.form([], {"GLIMPSE_CONFIG": str(file)}) == "text"
    file.write_text("log_format = ")
    assert standard_error.form([], {"GLIMPSE_CONFIG": str(file)}) == "json"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--port=x"], 2),
        (["--no-such-flag"], 2),
        (["--config=/nowhere.toml"], 2),
        (["--weights=/nowhere"], 4),
        (["prepare", "--weights=/nowhere"], 4),
        (["prepare", "--port=x"], 2),
    ],
)
def test_every_line_of_a_start_that_fails_is_json(arguments: list[str], code: int) -> None:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("GLIMPSE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "glimpse.server", *arguments, "--metrics-port=0", "--log-format=json"],
        cwd=ROOT,
        env={**ours, **CACHE, "GLIMPSE_PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == code
    assert all("event" in line for line in lines)
    assert lines
    assert ended.stdout == ""


def test_settings_errors_are_text_where_the_log_is() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "glimpse.server", "--port=x", "--log-format=text"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("The settings are invalid:\n  port: ")


def test_the_version_is_told_when_asked_for_and_in_the_first_line(start_server: Start) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "glimpse.server", "--version"], cwd=ROOT, capture_output=True, check=False
    )
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, f"glimpse {build.VERSION}\n".encode(), b"")
    running = start_server("--weights=/nowhere")
    assert running.exit_code() == 4
    first = running.log[0]
    assert (first["event"], first["version"]) == ("starting", build.VERSION)
    assert first["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


def test_the_versions_are_a_metric(server: RunningServer) -> None:
    found = [name for name in metrics_of(server) if name.startswith("glimpse_build_info{")]
    assert len(found) == 1
    assert f'version="{build.VERSION}"' in found[0]
    assert 'openvino="20' in found[0]


def test_a_refused_call_is_logged_with_its_own_status_and_reason(start_server: Start) -> None:
    running = start_server("--max-message-bytes=1000000", "--max-image-bytes=500000")
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        stub = ImageClassifierStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.Classify(pb.ClassifyRequest(), timeout=TIMEOUT)
        # What gRPC refuses by itself is known by its haste, which a busy machine may lack.
        for _ in range(20):
            with pytest.raises(grpc.RpcError):
                stub.Classify(pb.ClassifyRequest(images=[pb.Image(encoded=bytes(2_000_000))]), timeout=TIMEOUT)
            if any('grpc_code="RESOURCE_EXHAUSTED"' in name for name in metrics_of(running)):
                break
    running.terminate()
    assert running.exit_code() == 0
    calls = [(line["code"], line["reason"]) for line in running.log if line["event"] == "rpc"]
    assert calls[0] == ("INVALID_ARGUMENT", "NO_IMAGES")
    assert ("RESOURCE_EXHAUSTED", None) in calls
    assert running.stray == []


def test_probes_and_watches_of_the_health_are_no_news_however_they_end(start_server: Start) -> None:
    running = start_server("--log-calls")
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        stub = HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        next(watch)
        watch.cancel()
        with pytest.raises(grpc.RpcError):
            list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=0.2))
    running.terminate()
    assert running.exit_code() == 0
    assert [line for line in running.log if line["event"] == "rpc"] == []


@pytest.mark.parametrize("flag", ["--log-calls", "--no-log-calls"])
def test_calls_that_go_well_are_logged_where_that_is_asked_for(
    start_server: Start, picture: Callable[[int], pb.Image], flag: str
) -> None:
    running = start_server(flag)
    running.wait_for("serving")
    with grpc.insecure_channel(running.target) as channel:
        ImageClassifierStub(channel).Classify(pb.ClassifyRequest(images=[picture(1), picture(2)]), timeout=TIMEOUT)
    running.terminate()
    assert running.exit_code() == 0
    calls = [(line["code"], line["images"], line["level"]) for line in running.log if line["event"] == "rpc"]
    assert calls == ([("OK", 2, "info")] if flag == "--log-calls" else [])
