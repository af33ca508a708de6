"""Several processes write to one log and to one audit log: whole lines, and which process each is of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

PROCESSES, LINES = 3, 200
# Begins with the others, so that they write at the same time.
TOGETHER = """
import logging, os, sys, structlog
from glimpse.server import logs
from glimpse.server.processes import standard_error
number = int(sys.argv[1])
sys.stdin.read()
"""
LOGS = (
    TOGETHER
    + """
logs.configure("info", "{form}", process={{"worker": number}})
log = structlog.get_logger()
for line in range({lines}):
    (log.info if line % 2 else logging.getLogger("library").warning)("x" * (line * 37 % {longest}))
"""
)
CAPTURED = (
    TOGETHER
    + """
captured = standard_error.Captured()
logs.configure("info", "json", process={"engine": number})
os.write(2, b"from C\\n")
captured.close()
os._exit(0)
"""
)
AUDITS = (
    TOGETHER
    + """
from pathlib import Path
from glimpse.server.access.audit import Audit
from glimpse.server.access.call_context import CallContext
audit = Audit(Path(sys.argv[2]))
call = CallContext("who", "peer", "method")
call.identity, call.model = f"worker {number}", "m" * 3000
for _ in range(200):
    audit.write(call, code="OK", reason="", seconds=0.1)
audit.close()
"""
)


def written(code: str, *arguments: object, into: int) -> None:
    """Run the program in several processes at once, whose standard error is the same."""
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number), *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stderr=into,
        )
        for number in range(PROCESSES)
    ]
    for each in begun:
        assert each.stdin is not None
        each.stdin.close()
    assert [each.wait() for each in begun] == [0] * PROCESSES


def of_processes(lines: list[dict[str, Any]], field: str) -> list[int]:
    return sorted(line[field] for line in lines)


@pytest.mark.parametrize("flag", [os.O_APPEND, 0])
def test_lines_of_any_length_are_whole_in_a_file(tmp_path: Path, flag: int) -> None:
    """Whether it is open to append or not, as all processes inherit the same open file."""
    file = tmp_path / "log"
    opened = os.open(file, os.O_CREAT | os.O_WRONLY | flag)
    written(LOGS.format(form="json", lines=LINES, longest=50_000), into=opened)
    os.close(opened)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert of_processes(lines, "worker") == sorted(list(range(PROCESSES)) * LINES)


def test_lines_of_up_to_a_page_are_whole_in_a_pipe() -> None:
    source, sink = os.pipe()
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(sys.stdin.read())"], stdin=source, stdout=subprocess.PIPE
    )
    os.close(source)
    written(LOGS.format(form="json", lines=LINES, longest=3500), into=sink)
    os.close(sink)
    lines = [json.loads(line) for line in reader.communicate()[0].splitlines() if line]
    assert of_processes(lines, "worker") == sorted(list(range(PROCESSES)) * LINES)


def test_the_process_is_a_field_of_text_lines_too(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        written(LOGS.format(form="text", lines=2, longest=50), into=file.fileno())
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(line.rpartition("worker=")[2] for line in lines) == ["0", "0", "1", "1", "2", "2"]


def test_what_libraries_write_past_the_log_has_the_field(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        written(CAPTURED, into=file.fileno())
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert of_processes(lines, "engine") == list(range(PROCESSES))
    assert {line["detail"] for line in lines} == {"from C"}


def test_workers_append_whole_lines_to_one_audit_log(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    written(AUDITS, audit, into=subprocess.DEVNULL)
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert sorted(line["identity"] for line in lines) == sorted(
        [f"worker {number}" for number in range(PROCESSES)] * 200
    )
