"""The table of the sizes of kernels is what the networks have."""

from __future__ import annotations

import csv
import json

import pytest

from glimpse.models.catalogue import Architecture, find, rows
from glimpse.models.weights import identification
from tests.variations import mostly_in_ci


def _table() -> dict[tuple[str, str, str], list[str]]:
    with identification.SIZES.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    return {(name, variant, options): numbers for name, variant, options, *numbers in lines}


def _check(row: Architecture) -> None:

    own = identification.measure(row, {})
    for options in identification.option_sets(row):
        found = identification.measure(row, options)
        counted = [found.count, found.total, found.squares, found.inputs, found.inputs_squares]
        expected = _table().get((row.name, row.variant, json.dumps(options)))
        if expected is None:  # an option that changes no kernel
            assert counted == [own.count, own.total, own.squares, own.inputs, own.inputs_squares]
        else:
            assert list(map(str, counted)) == expected, (
                "python -m glimpse.models.weights.identification makes the table again"
            )


def test_every_network_of_the_library_is_in_the_table() -> None:
    assert {(row.name, row.variant, "{}") for row in rows()} <= _table().keys()


@pytest.mark.parametrize("name", mostly_in_ci(("resnet20", "mobilenet", "squeezenet1_1"), "squeezenet1_1"))
def test_the_table_says_what_a_network_has(name: str) -> None:
    _check(find(name))


@pytest.mark.slow
def test_the_table_says_what_all_networks_have() -> None:
    for row in rows():
        _check(row)
