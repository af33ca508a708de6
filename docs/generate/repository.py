"""Pages that stand in the repository already, with links that lead to the same places on the site."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

ROOT = Path(__file__).parents[2]
# By page of the site, the file that it is.
INCLUDED = {
    "explanation/architecture.md": "ARCHITECTURE.md",
    "explanation/cifar10-model.md": "models/bundles/se_resnet20_cifar10/MODEL_CARD.md",
    "explanation/measured.md": "tools/bench/README.md",
    "explanation/load.md": "tools/load/README.md",
    "explanation/security.md": "SECURITY.md",
    "how-to/deploy.md": "deploy/README.md",
    "how-to/typescript.md": "examples/typescript/README.md",
    "how-to/ruby.md": "examples/ruby/README.md",
    "how-to/go.md": "examples/go/README.md",
    "how-to/pages.md": "examples/web/README.md",
    "how-to/ray.md": "examples/ray/README.md",
    "how-to/spark.md": "examples/spark/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
# By a file that a page of ours may link to, so that the link works in a clone, too: where the site has it.
PAGE_OF = {file: page for page, file in INCLUDED.items()} | {
    "proto/glimpse/v1/classifier.proto": "proto/classifier.proto",
}
# Where files went that are not pages of their own.
_ELSEWHERE = {
    "README.md": "index.md",
    "README.md#settings": "reference/settings.md",
    "models/prestem/recipe.py": "reference/recipe.md",
    "proto/glimpse/v1/classifier.proto": "proto/classifier.proto",
}
_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<file>[^):\s]+)\)")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


def include(page: str) -> str:
    """The file behind a page of the site."""
    source = INCLUDED[page]
    pages = {file: name for name, file in INCLUDED.items()} | _ELSEWHERE

    def relink(link: re.Match[str]) -> str:
        target = link["target"]
        if "://" in target or target.startswith("#"):
            return link[0]
        path, hash_, fragment = target.partition("#")
        file = normpath(PurePosixPath(source).parent / path)
        if file.startswith("docs/"):
            pages[file] = file.removeprefix("docs/")
        there = pages.get(f"{file}#{fragment}") or (pages[file] + hash_ + fragment if file in pages else None)
        if there is None:  # a file that the site does not have: its name says where it is
            return link["text"]
        return f"[{link['text']}]({relpath(there, PurePosixPath(page).parent)})"

    return _LINK.sub(relink, (ROOT / source).read_text(encoding="utf-8"))


def images() -> dict[str, str]:
    """Pictures that these pages show from beside their files: by their place on the site, the file."""
    found = {}
    for page, source in INCLUDED.items():
        for image in _IMAGE.finditer((ROOT / source).read_text(encoding="utf-8")):
            file = normpath(PurePosixPath(source).parent / image["file"])
            if not file.startswith("docs/"):
                found[normpath(PurePosixPath(page).parent / image["file"])] = file
    return found
