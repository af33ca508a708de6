"""The generated pages have everything that they are about."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from docs.generate import architectures, commands, contract, exits, markdown, metrics, recipe, repository, settings
from glimpse.client.commands.exits import Exit
from glimpse.models import published
from glimpse.models.catalogue import rows
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.errors import Code, Reason
from glimpse.server.metrics.metrics import Metrics
from glimpse.server.processes import startup
from glimpse.server.settings import Settings
from glimpse.server.settings.groups import GROUPS
from glimpse.v1 import classifier_pb2
from tests.docs.blocks import ROOT


def test_every_setting_is_in_one_group_and_has_a_row_with_its_text() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(Settings.model_fields), "server/settings/groups.py names each setting once"
    page = settings.page()
    for name, field in Settings.model_fields.items():
        (row,) = re.findall(rf"^\| .*`GLIMPSE_{name.upper()}`<br>.*$", page, re.MULTILINE)
        assert f"--{name.replace('_', '-')}`" in row or f"--[no-]{name.replace('_', '-')}`" in row
        assert field.description
        assert field.description.replace("|", "\\|") in row


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("port", "whole number, 0 to 65,535", "`50051`"),
        ("max_bytes_in_flight", "whole number, at least 1", "`268435456` (256 MiB)"),
        ("jpeg_reducing_gap", "number, at least 0", "`2`"),
        ("stuck_seconds", "number, above 0, at most 31,536,000", "`60`"),
        ("decode_in", "`threads`, `processes`", "`threads`"),
        ("tls_key", "path", "none"),
        ("health_port", "whole number, 0 to 65,535", "none"),
        ("serve_health", "true or false", "`true`"),
        ("options", "JSON", "`{}`"),
        ("allow_geometries", "any of `crop`, `squash`, `letterbox`, `pad`, with commas between", "none"),
    ],
)
def test_the_row_of_a_setting_says_what_it_may_be_and_what_it_is(name: str, kind: str, default: str) -> None:
    _, _, row = settings.excerpt(name).splitlines()
    assert row.split(" | ")[1:3] == [kind, default]


def test_every_metric_has_a_row_with_its_labels() -> None:
    page = metrics.page()
    for family in Metrics().registry.collect():
        assert re.search(rf"`{family.name}(_total)?` \| {family.type} \|.*{re.escape(family.documentation)}", page)
    (stages,) = re.findall(r"^.*`glimpse_stage_seconds` .*$", page, re.MULTILINE)
    assert "`stage`: admission, compute, decode, decode_wait, pre_stem, queue, receive, reply" in stages
    (model,) = re.findall(r"^.*`glimpse_model_info` .*$", page, re.MULTILINE)
    assert "`model`<br>`version`<br>`weights_digest`<br>`runtime`" in model  # of which no value is known beforehand


def test_every_reason_has_a_row_and_every_code_a_kind() -> None:
    page = contract.errors_page()
    for reason in Reason:
        assert f"`{reason}`" in page
    for code in Code:
        assert f"| {code.name} | {code.value} |" in page


def test_reasons_that_the_contract_and_the_server_do_not_share_are_refused() -> None:
    with pytest.raises(ValueError, match="QUEUE_FULL"):
        contract.reasons("| `NO_IMAGES` | INVALID_ARGUMENT | the request holds no image |\n")


def test_every_method_message_and_field_of_the_contract_is_there_and_explained() -> None:
    """Every method, message and field of the contract is on the page, with its comment."""
    page = contract.page()
    file = classifier_pb2.DESCRIPTOR
    for service in file.services_by_name.values():
        assert all(f"### {method.name}\n" in page for method in service.methods)
    for message in file.message_types_by_name.values():
        assert f"### {message.name}\n" in page
        for field in message.fields:
            start = f'<span id="{message.name}.{field.name}"></span>`{field.name}` | {field.number} | '
            (row,) = [line for line in page.splitlines() if start in line]
            assert row.rpartition(" | ")[2].strip("| "), f"{message.name}.{field.name} has no comment"
    assert "stream of [ClassifyStreamRequest](#classifystreamrequest) → stream of" in page
    assert "| optional uint32 | How many predictions to return" in page
    assert "| bytes, one of `source` |" in page
    assert "| map of string to string |" in page
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= {name.lower() for name in file.message_types_by_name}


def test_every_architecture_has_its_parameters_and_every_published_tag_a_row() -> None:
    assert not architectures.without_parameters()
    page = architectures.page()
    assert "`se_resnet20` | `cifar_wide` | 32\u00a0x\u00a032\u00a0x\u00a03 | 10 | 864,802 |" in page
    options = page.partition("## Options")[2].partition("## Papers")[0]
    assert all(f"`{option}`" in options for row in rows() for option in row.OPTIONS)
    for row in rows():
        assert f"`{row.name}` | `{row.variant}` | " in page
        for tag in published.tags(row.name, row.variant):
            assert f"| `{row.name}` | `{row.variant}` | `{tag}` | " in page


def test_every_exit_code_is_told() -> None:
    assert set(exits.client()) == set(Exit)
    causes = {cause.exit_code for cause in startup.StartupError.__subclasses__()}
    assert set(startup.exit_codes()) == {0, 1, 2, 130, 143, *causes}
    assert "| 4 | The model cannot be loaded. |" in exits.page()


def test_every_field_of_a_recipe_is_told() -> None:
    page = recipe.page()
    assert all(f"| `{field.name}` |" in page for field in fields(Recipe))
    assert '| `smaller` | `"pad"`, `"resize"` | `"pad"` |' in page


@pytest.mark.ci
def test_the_page_of_commands_has_every_option_and_target() -> None:
    page = commands.page()
    for wanted in ("`--top-k K`", "### `glimpse describe`", "--architecture NAME", "`make serve`", "`make docs`"):
        assert wanted in page
    assert "## `python -m glimpse.models describe`" in page
    assert "Exit codes:" not in page  # they have a page
    assert "\b" not in page


def test_a_file_of_the_repository_keeps_links_where_the_site_has_their_targets() -> None:
    page = repository.include("how-to/deploy.md")
    assert "(../reference/settings.md)" in page
    assert "[`prometheus-adapter-values.yaml`]" not in page
    assert "`prometheus-adapter-values.yaml`" in page
    headings = {re.sub(r"[^a-z0-9-]", "", line.lstrip("# ").lower().replace(" ", "-")) for line in page.splitlines()}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= headings


def test_the_glossary_is_short_in_order_and_without_repetition() -> None:
    terms = re.findall(r"^\| ([^|]+) \| [A-Z]", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert 10 < len(terms) <= 25
    assert terms == sorted(set(terms))


def test_a_file_of_the_repository_may_link_to_a_page_of_the_site() -> None:
    assert "[glossary](../glossary.md)" in repository.include("explanation/architecture.md")


def test_headings_go_down_and_fences_stay() -> None:
    assert markdown.deeper("# A\n```sh\n# B\n```\n## C", 1) == "## A\n```sh\n# B\n```\n### C\n"


def test_a_bar_in_a_cell_breaks_no_table() -> None:
    assert markdown.table(("a", "b"), [("x | y", "z\nw")]).splitlines()[2] == "| x \\| y | z w |"


def test_every_page_in_the_navigation_is_written_or_generated() -> None:
    from docs.generate.__main__ import PAGES

    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"[\w/-]+\.md", navigation)
    docs = ROOT / "docs"
    written = {str(path.relative_to(docs)) for path in Path(docs).rglob("*.md")}
    assert sorted(named) == sorted(written | set(PAGES) | set(repository.INCLUDED))


def test_links_of_our_pages_lead_to_what_the_site_has() -> None:
    from docs.generate.__main__ import PAGES

    docs = ROOT / "docs"
    written = {str(path.relative_to(docs)) for path in docs.rglob("*") if path.suffix in {".md", ".png", ".svg"}}
    there = {f"docs/{page}" for page in written | set(PAGES) | set(repository.INCLUDED)} | set(repository.PAGE_OF)
    for page in docs.rglob("*.md"):
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                linked = os.path.normpath(page.parent / target)
                assert os.path.relpath(linked, ROOT) in there, f"{page.name} links to {target}"


def test_pictures_beside_a_file_of_the_repository_come_with_its_page() -> None:
    found = repository.images()
    assert found["explanation/curves.png"] == "models/bundles/se_resnet20_cifar10/curves.png"
    assert all((ROOT / file).exists() for file in found.values())
