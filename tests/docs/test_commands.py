"""What the pages show is run. What cannot be run here is listed, with the reason, and checked as far as it can be."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from glimpse.models import beside
from glimpse.models.groups import GROUPS, groups_of
from glimpse.models.published import labels
from glimpse.server.repository import rollout_file
from glimpse.server.repository.model_file import ListedModel, ModelFile
from glimpse.server.settings import Settings
from tests.conftest import RunningServer
from tests.docs.blocks import PAGES, Block, Command, blocks, commands
from tests.docs.listed import LISTED, Listed, listed, syntax
from tests.docs.running import Folder, assert_said, clone

RUN = {"sh", "python"}
READ = {"toml"}
# Shown, and neither run nor read: output, drawings, and manifests, which kubectl alone can read.
SHOWN = {"", "Dockerfile", "text", "yaml"}
WITH_BLOCKS = [page for page in PAGES if any(block.language in RUN | READ for block in blocks(page))]


@pytest.fixture
def folder(tmp_path: Path, default_server: RunningServer) -> Folder:
    return clone(
        tmp_path, target=default_server.target, metrics_url=default_server.metrics_url, http=default_server.http
    )


# Pages whose commands take seconds, building wheels, measuring, converting or training; those commands have tests of
# their own. .ci/run runs these pages.
_LONG = {
    "CONTRIBUTING.md",
    "docs/how-to/choose.md",
    "docs/how-to/folders.md",
    "docs/how-to/graphs.md",
    "docs/how-to/load.md",
    "docs/how-to/published-weights.md",
    "docs/how-to/python.md",
    "docs/tutorials/own-model.md",
}
# Run as a whole, with servers of its own, by test_tutorial.py.
_OWN = "docs/tutorials/feedback.md"
# Pages whose programs need a package that the server and our client do without.
_NEED = {"docs/how-to/open-inference.md": "tritonclient"}


def marks(page: str) -> list[pytest.MarkDecorator]:
    needed = _NEED.get(page)
    found = [pytest.mark.ci] if page in _LONG else []
    if needed is not None:
        missing = importlib.util.find_spec(needed) is None
        found.append(pytest.mark.skipif(missing, reason=f"{needed} is not installed; `make test` installs it"))
    return found


@pytest.mark.parametrize("page", [pytest.param(each, marks=marks(each)) for each in WITH_BLOCKS if each != _OWN])
def test_what_a_page_shows_works(page: str, folder: Folder) -> None:
    output: str | None = None  # of the block before; None: it was not run
    for block in blocks(page):
        try:
            if block.language == "text" and output is not None:
                assert_said(block, output)
                output = None
            elif block.language == "python":
                output = folder.python(block)
            elif block.language == "toml":
                read(block, folder.path)
            elif block.language == "sh":
                output = run(block, folder)
            else:
                output = None
        except Exception as error:
            error.add_note(f"In the block at {block}.")
            raise


def run(block: Block, folder: Folder) -> str | None:
    """Run the commands that can be run, check the others; returns what those said, None where there are none."""
    to_run = []
    for command in commands(block):
        if entry := listed(command):
            entry.check(command, folder.path)
        else:
            to_run.append(command.text)
    return folder.run("\n".join(to_run)) if to_run else None


def read(block: Block, folder: Path) -> None:
    """Write the file that a block is, and read it as the server would."""
    assert block.title, f"{block}: which file is this? Give it a title."
    values = tomllib.loads(block.text)
    (folder / block.title).parent.mkdir(exist_ok=True)
    (folder / block.title).write_text(block.text, encoding="utf-8")
    if block.title.endswith("recipe.toml"):
        beside.read_recipe(folder / block.title)
        beside.read_head(folder / block.title, 3)
    elif block.title.endswith("rollout.toml"):
        assert len(rollout_file.read((folder / block.title).parent).rollouts) == len(values)
    elif block.title.endswith("model.toml"):
        ModelFile.model_validate(values)
    elif block.title.endswith("models.toml"):
        assert all(map(ListedModel.model_validate, values.values()))
    elif block.title.endswith(GROUPS):  # of ImageNet's classes
        assert [each.name for each in groups_of((folder / block.title).parent, labels("imagenet1000"))] == [*values]
    else:
        Settings(**values)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_run_read_or_only_shown(page: str) -> None:
    assert {block.language for block in blocks(page)} <= RUN | READ | SHOWN
    assert page.startswith("deploy/") or "yaml" not in {block.language for block in blocks(page)}


def all_commands() -> list[Command]:
    return [
        command for page in PAGES for block in blocks(page) if block.language == "sh" for command in commands(block)
    ]


@pytest.mark.parametrize("entry", LISTED, ids=[entry.pattern for entry in LISTED])
def test_the_list_has_no_entry_that_no_page_needs(entry: Listed) -> None:
    assert any(re.match(entry.pattern, command.program) for command in all_commands())


def test_most_commands_of_our_own_programs_are_run() -> None:
    ours = [command for command in all_commands() if command.words[0] == "client/cli.py"]
    assert len(ours) > 5
    # Those for a repository of models have a server of their own, in test_roll_out.py.
    elsewhere = re.compile(r"jq|--tls|cli\.py models|--model cifar")
    assert not [command.text for command in ours if listed(command) and not elsewhere.search(command.text)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("make serve-it", "serve-it", id="a target that there is not"),
        pytest.param("GLIMPSE_MODLE=resnet50 make serve", "GLIMPSE_MODEL", id="a misspelt setting"),
        pytest.param("GLIMPSE_MODEL=resnet51 make serve", "resnet50", id="an architecture that there is not"),
        pytest.param("GLIMPSE_MODEL=resnet50 GLIMPSE_WEIGHTS=v9 make serve", "v9", id="a tag that there is not"),
        pytest.param('make train ARGS="--data a.zip --epoch 3"', "--epoch", id="an option that there is not"),
    ],
)
def test_the_check_of_a_listed_command_finds_a_mistake(text: str, complaint: str, tmp_path: Path) -> None:
    (command,) = commands(Block("page", 1, "sh", "", text + "\n"))
    entry = listed(command)
    assert entry is not None
    with pytest.raises(Exception, match=complaint):  # whatever it raises
        entry.check(command, tmp_path)


def test_a_command_that_bash_cannot_read_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unexpected EOF"):
        syntax(Command('kubectl apply -k "deploy', {}, ()), tmp_path)


def test_output_that_differs_from_what_a_page_shows_is_found() -> None:
    shown = Block("page", 1, "text", "", "photo.jpg\n  cat ... 98\n")
    assert_said(shown, "photo.jpg\n  cat      ####  98.2%\n")
    with pytest.raises(AssertionError, match="98"):
        assert_said(shown, "photo.jpg\n  cat      ####  12.2%\n")
