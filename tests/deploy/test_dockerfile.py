"""The Dockerfile, by the tools that read Dockerfiles; tests/deploy/test_image.py builds it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glimpse.server.settings import Settings
from tests.deploy.tools import ROOT, run, tool

DOCKERFILE = ROOT / "Dockerfile"


@pytest.mark.slow
def test_hadolint_finds_nothing() -> None:
    ended = run(tool("hadolint"), "--failure-threshold", "style", str(DOCKERFILE))
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


@pytest.mark.slow
def test_hadolint_sees_what_is_wrong() -> None:
    ended = run(tool("hadolint"), "-", stdin="FROM python:latest\nRUN cd /tmp && pip install x\n")
    assert ended.returncode == 1


@pytest.mark.slow
def test_checkov_finds_nothing() -> None:
    ended = run(
        *(tool("checkov"), "--skip-download", "--framework", "dockerfile", "--compact", "--quiet"),
        *("--file", str(DOCKERFILE)),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"Passed checks: [1-9]\d*, Failed checks: 0", ended.stdout), ended.stdout


def test_the_base_is_pinned_by_digest() -> None:
    assert re.search(
        r"^ARG BASE=python:3\.1[123]\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$", DOCKERFILE.read_text(), re.MULTILINE
    )


def test_every_package_that_is_installed_is_locked_with_hashes() -> None:
    installs = re.findall(r"pip .*install (.*)", DOCKERFILE.read_text())
    assert len(installs) == 3
    assert [each for each in installs if "--require-hashes" not in each] == []
    for lock in re.findall(r"locks/\w+\.txt", DOCKERFILE.read_text()):
        pinned = re.findall(r"^[\w.-]+==.*\\\n    --hash=sha256:", Path(ROOT / lock).read_text(), re.MULTILINE)
        assert len(pinned) > 10, lock


def test_the_ports_are_the_servers() -> None:
    ports = [Settings.model_fields[name].default for name in ("port", "metrics_port")]
    assert f"EXPOSE {ports[0]} {ports[1]}\n" in DOCKERFILE.read_text()
