"""Names in the prose, too, are those that the code has."""

from __future__ import annotations

import re

import pytest

from docs.generate.__main__ import PAGES as GENERATED
from docs.generate.commands import targets
from glimpse.server.metrics import merge
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.settings import Settings
from tests.docs.blocks import PAGES, ROOT

VARIABLE = re.compile(r"\bGLIMPSE_([A-Z_]+[A-Z])\b")
TARGET = re.compile(r"(?:`|^)make ([a-z][a-z-]*)", re.MULTILINE)
ASKED_FOR = re.compile(r"<!-- settings: ([a-z_ ]+) -->")
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_is_read_by_the_server_or_the_client(page: str) -> None:
    settings = {name.upper() for name in Settings.model_fields}
    clients = {name for file in (ROOT / "client").rglob("*.py") for name in VARIABLE.findall(file.read_text("utf-8"))}
    assert set(VARIABLE.findall(text(page))) <= settings | clients | {"CACHE"}


@pytest.mark.parametrize("page", PAGES)
def test_every_metric_is_one(page: str) -> None:
    registry = Metrics().registry
    merge.processes_gauge(registry)
    merge.restarts_counter(registry)
    known = {family.name for family in registry.collect()}
    named = set(re.findall(r"\bglimpse_[a-z_]+[a-z]\b", text(page)))
    assert {re.sub(r"_(total|sum|count|bucket)$", "", name) for name in named} <= known


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_is_one(page: str) -> None:
    named = re.findall(r"`make ([a-z][a-z-]*)", text(page)) + re.findall(
        r"^make ([a-z][a-z-]*)", text(page), re.MULTILINE
    )
    assert set(named) <= set(targets())


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_that_a_page_asks_for_is_one(page: str) -> None:
    asked = {name for names in ASKED_FOR.findall(text(page)) for name in names.split()}
    assert asked <= set(Settings.model_fields)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_works_in_a_clone(page: str) -> None:
    """Pages that the site makes of files elsewhere in the repository are linked to as these files."""
    for target in LINK.findall(text(page)):
        if "://" in target or target.startswith("#"):
            continue
        assert ((ROOT / page).parent / target.partition("#")[0]).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", GENERATED)
def test_in_a_clone_a_note_says_where_a_generated_page_is(page: str) -> None:
    assert "make serve-docs" in text(f"docs/{page}")
