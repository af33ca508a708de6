"""The rows of runtimes and precisions: complete, true to what they name, and what the settings offer."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import get_args

import pytest

from glimpse.server.runtimes import PRECISIONS, REFERENCE, RUNTIMES, Precision, RuntimeName
from glimpse.server.settings.kinds import PrecisionChoice, RuntimeChoice


def test_settings_offer_auto_and_every_row() -> None:
    assert set(get_args(RuntimeName)) == set(RUNTIMES)
    assert set(get_args(Precision)) == set(PRECISIONS)
    assert set(get_args(RuntimeChoice)) == {"auto", *RUNTIMES}
    assert set(get_args(PrecisionChoice)) == {"auto", *PRECISIONS}


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_a_row_names_is_there(name: str) -> None:
    """Found without being imported: not every framework is installed."""
    row = RUNTIMES[name]
    for reference, kind in ((row.implementation, ast.ClassDef), (row.gpu_probe, ast.FunctionDef)):
        if reference is None:
            continue
        module, _, attribute = reference.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text())
        assert attribute in {node.name for node in tree.body if isinstance(node, kind)}


def test_a_converted_network_takes_less_memory_to_load() -> None:
    assert [name for name, row in RUNTIMES.items() if row.reads_converted] == ["openvino"]
    for row in RUNTIMES.values():
        assert row.copies_converted is None or row.copies_converted < row.copies


def test_a_reduced_precision_is_allowed_to_differ_by_more() -> None:
    reference = PRECISIONS[REFERENCE].tolerance
    assert all(row.tolerance > reference for name, row in PRECISIONS.items() if name != REFERENCE)
