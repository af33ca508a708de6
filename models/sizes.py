"""How large each network of the library is, without building it.

The table is `sizes.csv`; ``python -m glimpse.models.sizes`` makes it anew from the networks as they are built, and a
test holds the two equal.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from glimpse.models import standard
from glimpse.models.catalogue import rows
from glimpse.models.files import whole_files
from glimpse.models.spec import Architecture

_TABLE = Path(__file__).parent / "sizes.csv"
_COLUMNS = ("architecture", "variant", "parameters", "multiply_adds")


@dataclass(frozen=True, slots=True)
class Size:
    """Of a row of the library as it is, without options and with its own number of classes."""

    parameters: int  # trainable and not
    multiply_adds: int  # of convolutions and dense layers, for one image


def size(architecture: Architecture) -> Size | None:
    """The size of a row; None where it is not in the table."""
    return _table().get((architecture.name, architecture.variant))


def measure(architecture: Architecture) -> Size:
    """The same from the network itself, which takes seconds and loads Keras."""
    from glimpse.models.builder import assemble

    stages = assemble(architecture).stages
    return Size(sum(stage.parameters for stage in stages), sum(stage.multiply_adds for stage in stages))


@cache
def _table() -> dict[tuple[str, str], Size]:
    with _TABLE.open(newline="", encoding="utf-8") as lines:
        return {
            (each["architecture"], each["variant"]): Size(int(each["parameters"]), int(each["multiply_adds"]))
            for each in csv.DictReader(lines)
        }


def main() -> None:
    """Write the table."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for row in rows():
        found = measure(row)
        table.writerow((row.name, row.variant, found.parameters, found.multiply_adds))
    whole_files.write_text(_TABLE, text.getvalue())


if __name__ == "__main__":
    with standard.checked("models.sizes"):
        main()
