"""Called by mkdocs: puts the generated pages among the others, and tables of settings where a page asks for them.

In a clone, a short note stands in the place of each page of the reference, so that links lead somewhere.

A page's links to files elsewhere in the repository, which work in a clone, lead to the pages that the site has of them.

The pages are made by the project's own Python, which has what the code needs; the one that runs this has mkdocs. The
variable DOCS_PYTHON names another than that of .venv.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_SETTINGS = re.compile(r"<!-- settings: (?P<names>[a-z_ ]+) -->")
_LINK = re.compile(r"(?P<text>\[[^\]]+\])\((?P<path>[^)\s#:]+)(?P<fragment>#[^)\s]*)?\)")
_made: dict[str, Any] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages.

    Raises:
        PluginError: they cannot be made; the message says why.
    """
    python = os.environ.get("DOCS_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
    ended = subprocess.run(
        [python, "-m", "docs.generate"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise PluginError(f"The pages of the reference cannot be made:\n{ended.stderr}")
    _made.update(json.loads(ended.stdout))
    for name, text in _made["pages"].items():
        if (note := files.get_file_from_path(name)) is not None:  # for readers of a clone, who have no such page
            files.remove(note)
        files.append(File.generated(config, name, content=text))
    for name, image in _made["images"].items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / image)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put a table in the place of `<!-- settings: name name -->`, and links to pages in the place of those to files.

    Raises:
        PluginError: there is no such setting.
    """

    def table(asked: re.Match[str]) -> str:
        lines: list[str] = []
        for name in asked["names"].split():
            if name not in _made["settings"]:
                raise PluginError(f"{page.file.src_uri} asks for the setting {name}, which there is not.")
            head, rule, row = _made["settings"][name]
            lines += [row] if lines else [head, rule, row]
        return "\n".join(["", *lines, ""])  # a table begins and ends with an empty line

    here = posixpath.dirname(page.file.src_uri)

    def relink(link: re.Match[str]) -> str:
        there = _made["files"].get(posixpath.normpath(posixpath.join("docs", here, link["path"])))
        if there is None:
            return link[0]
        return f"{link['text']}({posixpath.relpath(there, here or '.')}{link['fragment'] or ''})"

    return _LINK.sub(relink, _SETTINGS.sub(table, markdown))
