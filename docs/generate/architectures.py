"""The library of architectures, from its rows, and the published weights that it knows of."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from docs.generate.markdown import anchor, code, table
from glimpse.models import published
from glimpse.models.catalogue import rows
from glimpse.models.spec import Architecture

# Counted elsewhere than in this library, and held against what it builds by a test.
_COUNTS = Path(__file__).parents[2] / "tests" / "models" / "parameters.csv"

_ABOUT = """\
# Architectures

Choose one of these with `GLIMPSE_MODEL` and `GLIMPSE_VARIANT`; the first variant of an architecture is its default. The
numbers of parameters are those without options. The options below can be changed with `GLIMPSE_OPTIONS`
in serving and with `--option` in training.
"""

_TAGS = """\
Tags for `GLIMPSE_WEIGHTS`, with the accuracy on ImageNet that the publisher states, in percent. The weights have their
publishers' licences.
"""


def page() -> str:
    """Architectures and variants, their options and papers, and the tags of published weights."""
    counts = _parameters()
    return "\n".join(
        [
            _ABOUT,
            table(
                ("architecture", "variant", "input", "classes", "parameters"),
                [
                    [
                        f"{anchor(f'{row.name}.{row.variant}')}`{row.name}`",
                        code(row.variant),
                        "\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}".join(map(str, row.input_shape)),
                        f"{row.classes:,}",
                        _number(counts.get((row.name, row.variant))),
                    ]
                    for row in rows()
                ],
            ),
            "## Options\n",
            table(("options", "architectures"), _grouped({row: ", ".join(map(code, row.OPTIONS)) for row in rows()})),
            "## Papers\n",
            table(("paper", "architectures"), _grouped({row: row.paper for row in rows()})),
            "## Published weights\n",
            _TAGS,
            table(("architecture", "variant", "tag", "top-1", "top-5"), _checkpoints()),
        ]
    )


def _grouped(values: dict[Architecture, str]) -> Iterator[list[str]]:
    """Each value that there is, with the rows that have it."""
    of: dict[str, list[str]] = {}
    for row, value in values.items():
        of.setdefault(value, []).append(f"`{row.name}` ({row.variant})")
    for value, names in of.items():
        yield [value or "none", ", ".join(names)]


def _checkpoints() -> Iterator[list[str]]:
    for row in rows():
        for tag in published.tags(row.name, row.variant):
            found = published.find(row.name, row.variant, tag)
            yield [code(row.name), code(row.variant), code(tag), _percent(found.top1), _percent(found.top5)]


def _parameters() -> dict[tuple[str, str], int]:
    """By name and variant, the parameters of the row as it is."""
    with _COUNTS.open(newline="", encoding="utf-8") as lines:
        counted = list(csv.DictReader(lines))
    plain = {(each["architecture"], each["variant"]): each for each in counted if not each["options"]}
    full = {(each["architecture"], each["variant"]): each for each in counted if each["options"] == '{"alpha": 1.0}'}
    return {key: int(each["total_params"]) for key, each in (full | plain).items()}


def without_parameters() -> list[Architecture]:
    """Rows whose number of parameters is not known."""
    known = _parameters()
    return [row for row in rows() if (row.name, row.variant) not in known]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
