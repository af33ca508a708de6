"""`python -m docs.generate`: the generated pages as one JSON object on stdout, for the hook that builds the site."""

from __future__ import annotations

import json
import sys

from docs.generate import architectures, commands, contract, exits, metrics, recipe, repository, settings
from glimpse.server.settings import Settings

PAGES = {
    "reference/settings.md": settings.page,
    "reference/metrics.md": metrics.page,
    "reference/errors.md": contract.errors_page,
    "reference/contract.md": contract.page,
    "reference/command-line.md": commands.page,
    "reference/exit-codes.md": exits.page,
    "reference/architectures.md": architectures.page,
    "reference/recipe.md": recipe.page,
}


def main() -> None:
    """Write the pages, and a table for each setting that a page of ours may ask for."""
    pages = {name: make() for name, make in PAGES.items()}
    pages |= {name: repository.include(name) for name in repository.INCLUDED}
    pages["proto/classifier.proto"] = (contract.PROTO / contract.FILE).read_text(encoding="utf-8")
    rows = {name: settings.excerpt(name).splitlines() for name in Settings.model_fields}
    made = {"pages": pages, "settings": rows, "files": repository.PAGE_OF, "images": repository.images()}
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main()
