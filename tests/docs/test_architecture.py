"""ARCHITECTURE.md shows the whole on a page: it stays short, and every file that it names is there."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import DOCS, ROOT

PAGE = ROOT / "ARCHITECTURE.md"
INSIDE = sorted((DOCS / "explanation").glob("inside-*.md"))
_FILE = re.compile(r"`((?:client|models|server|tests)/[\w/]+(?:\.py|/))`")
# Lines of a section; a printed page has about 60.
LONGEST = {"The way of a request": 60, "Loading a model": 30}


@pytest.mark.parametrize("section", LONGEST)
def test_the_way_of_a_request_is_a_page_and_loading_half_of_one(section: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {section}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert len(body.splitlines()) <= LONGEST[section]


@pytest.mark.parametrize("page", [PAGE, *INSIDE], ids=lambda page: page.name)
def test_the_files_that_a_page_about_the_code_names_are_there(page: object) -> None:
    named = _FILE.findall(ROOT.joinpath(str(page)).read_text(encoding="utf-8"))
    assert named
    assert [file for file in named if not (ROOT / file).exists()] == []
