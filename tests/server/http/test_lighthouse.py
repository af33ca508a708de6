"""Lighthouse's audits of the pages, as a phone and as a desktop computer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.server.conftest import TIMEOUT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LIGHTHOUSE = ROOT / ".cache" / "lighthouse" / "node_modules" / ".bin" / "lighthouse"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
    pytest.mark.skipif(
        not LIGHTHOUSE.exists(), reason="there is no Lighthouse: npm install --prefix .cache/lighthouse lighthouse"
    ),
]
# No performance, which depends on how busy the machine is.
CATEGORIES = "accessibility,best-practices,seo"


@pytest.mark.parametrize("device", ["phone", "desktop"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_lighthouse_finds_nothing_wrong_with_a_page(http_port: int, path: str, device: str, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    options = [
        "--quiet",
        "--output=json",
        f"--output-path={told}",
        f"--only-categories={CATEGORIES}",
        "--chrome-flags=--headless=new --no-sandbox --disable-gpu",
        *(["--preset=desktop"] if device == "desktop" else []),
    ]
    command = [str(LIGHTHOUSE), f"http://127.0.0.1:{http_port}{path}", *options]
    environment = {**os.environ, "CHROME_PATH": str(CHROMIUM)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(told.read_text("utf-8"))
    found = {name: audit["title"] for name, audit in report["audits"].items() if audit["score"] not in {None, 1}}
    assert found == {}
    assert {name: each["score"] for name, each in report["categories"].items()} == dict.fromkeys(
        CATEGORIES.split(","), 1
    )
