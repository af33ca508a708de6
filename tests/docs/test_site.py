"""The site builds without a warning, broken links being warnings, and asks nobody for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow

MKDOCS = ROOT / ".cache" / "docs" / "bin" / "mkdocs"
# What a browser fetches by itself.
FETCHED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not MKDOCS.exists():
        pytest.skip("mkdocs is not installed; `make docs` brings it")
    built = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", built],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "DOCS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stderr
    return built


class Fetches(HTMLParser):
    """Addresses that a page fetches."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(FETCHED.get(tag, ""))
        if address:
            self.found.append(address)


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        for address in Fetches(page.read_text(encoding="utf-8")).found:
            assert not re.match(r"(https?:)?//", address), f"{page.name} fetches {address}"
            # 404.html is shown for any address, so that its own are those from the root.
            folder = site if address.startswith("/") else page.parent
            assert (folder / address.partition("?")[0].lstrip("/")).exists(), address


def test_no_style_sheet_fetches_anything_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


def test_the_pages_are_complete(site: Path) -> None:
    secure = (site / "how-to" / "secure.html").read_text(encoding="utf-8")
    assert "<code>GLIMPSE_TLS_CERTIFICATE</code>" in secure
    assert "<!-- settings" not in secure
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")  # not the note for a clone
    assert "<code>GLIMPSE_TLS_CERTIFICATE</code>" in settings
    assert "classify_many" in (site / "reference" / "python-client.html").read_text(encoding="utf-8")
    assert "se_resnet20" in (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert (site / "proto" / "classifier.proto").read_text(encoding="utf-8") == (
        ROOT / "proto" / "glimpse" / "v1" / "classifier.proto"
    ).read_text(encoding="utf-8")
    assert not list(site.rglob("*.py"))


def test_every_table_became_one(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.search(r"^\| ?-{3,}", page.read_text(encoding="utf-8"), re.MULTILINE), page.name
