"""SECURITY.md names a test for every promise, and the scan that `make check` runs does what it says."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.variations import mostly_in_ci

ROOT = Path(__file__).parent.parent
AUDITOR = ROOT / ".cache" / "audit" / "bin" / "pip-audit"
needs_auditor = pytest.mark.skipif(not AUDITOR.exists(), reason="pip-audit is not installed; `make audit` installs it")
_PROOF = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows(text: str) -> list[list[str]]:
    """The cells of the table of threats, line by line, without its head."""
    section = text.split("## Threats", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip() for line in section.splitlines() if line.strip().startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def functions_in(path: Path) -> set[str]:
    """The names of the functions of a file, tests among them, without running it."""
    if not path.is_file():
        return set()
    found = ast.walk(ast.parse(path.read_text()))
    return {each.name for each in found if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def wrong_with(text: str) -> list[str]:
    """What is wrong with the table of a text."""
    wrong = []
    for threat, held, proofs in rows(text):
        named = _PROOF.findall(proofs)
        if not threat or not held or not named:
            wrong.append(f"not whole: {threat}")
        wrong += [f"no such test: {path}::{name}" for path, name in named if name not in functions_in(ROOT / path)]
    return wrong


def test_every_threat_has_what_holds_it_and_a_test_that_there_is() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert len(rows(text)) > 10
    assert wrong_with(text) == []


def test_a_proof_that_there_is_not_is_seen() -> None:
    head = "## Threats\n\n| Threat | Held by | Proof |\n|---|---|---|\n"
    proof = "`tests/test_security.py::test_a_proof_that_there_is_not_is_seen`"
    assert wrong_with(f"{head}| a | b | {proof} |\n") == []
    assert wrong_with(f"{head}| a | b | {proof}, `tests/test_security.py::test_nothing` |\n") == [
        "no such test: tests/test_security.py::test_nothing"
    ]
    assert wrong_with(f"{head}| a | b | `tests/no_file.py::test_a` |\n") == ["no such test: tests/no_file.py::test_a"]
    assert wrong_with(f"{head}| a | b | |\n") == ["not whole: a"]


class Service(BaseHTTPRequestHandler):
    """Answers as the database of vulnerabilities does."""

    bad = ""  # the package that has one
    status = 200

    def do_POST(self) -> None:
        """Say what is known of one package."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = asked["package"]["name"], asked["version"]
        affected = {"package": {"name": name, "ecosystem": "PyPI"}, "versions": [version]}
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999"}]}]
        found = {"id": "TEST-1", "modified": "2026-01-01T00:00:00Z", "details": "for a test", "affected": [affected]}
        body = json.dumps({"vulns": [found]} if name == self.bad else {}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[Callable[[type[Service]], str]]:
    """Serve on this machine; gives the address to ask."""
    serving: list[ThreadingHTTPServer] = []

    def serve(kind: type[Service]) -> str:
        serving.append(ThreadingHTTPServer(("127.0.0.1", 0), kind))
        threading.Thread(target=serving[-1].serve_forever).start()
        return f"http://127.0.0.1:{serving[-1].server_port}/v1/query"

    yield serve
    for each in serving:
        each.shutdown()
        each.server_close()


Audit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """What `make audit` runs, for the smallest of the locks."""
    locks = tmp_path / "locks"
    locks.mkdir()
    shutil.copy(ROOT / "locks" / "client.txt", locks)

    def run(program: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / ".ci" / "audit.py"), str(program), str(locks), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@needs_auditor
@pytest.mark.parametrize(("bad", "code"), mostly_in_ci([("", 0), ("grpcio", 1), ("no-such-package", 0)], ("grpcio", 1)))
def test_a_known_vulnerability_fails_the_scan(
    audit: Audit, service: Callable[[type[Service]], str], bad: str, code: int
) -> None:
    url = service(type("Known", (Service,), {"bad": bad}))
    ended = audit(AUDITOR, f"--osv-url={url}")
    assert ended.returncode == code, ended
    assert ("grpcio" in ended.stderr and "TEST-1, fixed in 999" in ended.stderr) == bool(code)
    assert "could not ask" not in ended.stdout.lower()
    assert "NOT" not in ended.stdout
    assert re.search(r"Asked about (\d+) of \1 locked packages", ended.stdout)


@needs_auditor
@pytest.mark.parametrize("status", mostly_in_ci([429, 500, 503], 503))
def test_a_service_that_is_ill_does_not_fail_the_scan_and_is_told(
    audit: Audit, service: Callable[[type[Service]], str], status: int
) -> None:
    ended = audit(AUDITOR, f"--osv-url={service(type('Ill', (Service,), {'status': status}))}")
    assert ended.returncode == 0, ended
    assert "Could not ask" in ended.stdout
    assert "NOTHING WAS ASKED" in ended.stdout


@needs_auditor
@pytest.mark.ci
def test_without_a_network_the_scan_says_that_it_could_not_ask(audit: Audit) -> None:
    ended = audit(AUDITOR, "--osv-url=http://127.0.0.1:9/v1/query")  # where nobody listens
    assert ended.returncode == 0, ended
    assert "Could not ask" in ended.stdout
    assert "NOTHING WAS ASKED" in ended.stdout


@needs_auditor
@pytest.mark.ci
def test_a_scan_that_fails_for_another_reason_fails(audit: Audit) -> None:
    ended = audit(AUDITOR, "--no-such-option")
    assert ended.returncode == 1
    assert "pip-audit failed" in ended.stderr


def test_without_its_program_the_scan_says_that_it_could_not_ask(audit: Audit, tmp_path: Path) -> None:
    ended = audit(tmp_path / "pip-audit")
    assert ended.returncode == 0
    assert "Could not ask" in ended.stdout
    assert "NOTHING WAS ASKED" in ended.stdout


@pytest.fixture
def auditor(tmp_path: Path) -> Callable[..., Path]:
    """A program that reports what it is told to, of each package of the lock, as pip-audit does."""

    def make(*, skip: str = "nothing", leave_out: str = "nothing", bad: str = "nothing", dies: str = "") -> Path:
        program = tmp_path / "pip-audit"
        program.write_text(
            f"""#!{sys.executable}
import json, re, sys
if {dies!r}:
    sys.exit({dies!r})
lock = open(sys.argv[sys.argv.index("--requirement") + 1]).read()
found = []
for name, version in re.findall(r"^([\\w.-]+)==([\\w.]+)", lock, re.MULTILINE):
    if re.fullmatch({leave_out!r}, name):
        continue
    if re.fullmatch({skip!r}, name):
        found.append({{"name": name, "skip_reason": "Dependency not found on PyPI and could not be audited"}})
    else:
        vulns = [{{"id": "TEST-1", "fix_versions": ["999"]}}] if re.fullmatch({bad!r}, name) else []
        found.append({{"name": name, "version": version, "vulns": vulns}})
print(json.dumps({{"dependencies": found, "fixes": []}}))
print("No known vulnerabilities found", file=sys.stderr)
"""
        )
        program.chmod(0o755)
        return program

    return make


def test_a_mirror_that_knows_no_package_is_not_taken_for_no_vulnerability(
    audit: Audit, auditor: Callable[..., Path]
) -> None:
    """pip-audit skips every package, says "No known vulnerabilities found" and exits 0."""
    ended = audit(auditor(skip=".*"))
    assert ended.returncode == 0
    assert "NOTHING WAS ASKED" in ended.stdout
    assert "no vulnerability is known" not in ended.stdout
    ended = audit(auditor(skip=".*"), "--require")
    assert ended.returncode == 2


@pytest.mark.parametrize("how", ["skip", "leave_out"])
def test_a_package_that_was_not_asked_about_is_named_and_fails_if_required(
    audit: Audit, auditor: Callable[..., Path], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = auditor(**{how: "grpcio"})
    ended = audit(program)
    assert ended.returncode == 0
    assert re.search(
        r"Asked about \d+ of \d+ locked packages: no vulnerability is known\. NOT ASKED about 1: grpcio\.", ended.stdout
    )
    assert audit(program, "--require").returncode == 2
    monkeypatch.setenv("AUDIT_REQUIRE", "1")
    assert audit(program).returncode == 2
    monkeypatch.setenv("AUDIT_REQUIRE", "0")
    assert audit(program).returncode == 0


def test_where_all_was_asked_and_nothing_is_known_it_passes(audit: Audit, auditor: Callable[..., Path]) -> None:
    ended = audit(auditor(), "--require")
    assert ended.returncode == 0
    assert re.fullmatch(r"Asked about (\d+) of \1 locked packages: no vulnerability is known\.\n", ended.stdout)


def test_a_vulnerability_is_told_beside_what_was_not_asked(audit: Audit, auditor: Callable[..., Path]) -> None:
    ended = audit(auditor(bad="grpcio", skip="rich"), "--require")
    assert ended.returncode == 1
    assert "TEST-1, fixed in 999" in ended.stderr
    assert "1 vulnerabilities are known, see above. NOT ASKED about 1: rich." in ended.stdout


@pytest.mark.parametrize(
    ("said", "code", "required"),
    [
        ("pip_audit._service.interface.ConnectionError: away", 0, 2),
        ("requests.exceptions.ReadTimeout: slow", 0, 2),
        ("AssertionError: a defect", 1, 1),
    ],
)
def test_what_ends_the_question_says_so_and_fails_where_that_is_required(
    audit: Audit, auditor: Callable[..., Path], said: str, code: int, required: int
) -> None:
    assert audit(auditor(dies=said)).returncode == code
    ended = audit(auditor(dies=said), "--require")
    assert ended.returncode == required
    assert "no vulnerability is known" not in ended.stdout
