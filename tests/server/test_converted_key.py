"""The key of a converted network covers the code that makes it, and no other code of the runtimes."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest

from glimpse.models import bundle as bundles
from glimpse.server import runtimes
from glimpse.server.runtime import converted_key, kept_measurements
from glimpse.server.runtime.converted_key import CONVERTS

BUNDLE = bundles.read(bundles.EMBEDDED_DEFAULT)
FOLDER = Path(converted_key.__file__).parent
_RUNTIME = "glimpse.server.runtime"
# They start the process that converts, and are not imported by it.
_AROUND = {"conversion", "conversion_process"}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere in it, and what may be one."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def reached(module: str) -> dict[str, Path]:
    """The modules of the server that a module imports, by way of others, too, with their files."""
    found: dict[str, Path] = {}
    wanted = [module]
    while wanted:
        name = wanted.pop()
        inside = FOLDER.parents[1].joinpath(*name.split(".")[1:])
        file = next((each for each in (inside.with_suffix(".py"), inside / "__init__.py") if each.is_file()), None)
        if not name.startswith("glimpse.server.") or name in found or file is None:
            continue
        found[name] = file
        wanted += [name.rpartition(".")[0], *imported(file)]
    return found


def test_the_key_covers_all_code_of_the_runtimes_that_converts() -> None:
    """Of the models all code is part of it, and so is the table of runtimes."""
    found = reached(f"{_RUNTIME}.conversion_worker")
    names = {path.stem for name, path in found.items() if name.startswith(_RUNTIME) and path.parent == FOLDER}
    assert {*CONVERTS} == names | _AROUND
    # What is imported by a name that is made at run time would not be seen.
    for path in found.values():
        assert not {"import_module", "resolve_name", "__import__"} & {*_names(path)}, path


def _names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of runtimes, of which the hashes are made."""
    folder = tmp_path / "server" / "runtime"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models").mkdir()
    table = shutil.copy(FOLDER.parent / "runtimes.py", tmp_path / "server")
    monkeypatch.setattr(converted_key, "_PACKAGE", tmp_path)
    monkeypatch.setattr(converted_key, "__file__", str(folder / "converted_key.py"))
    monkeypatch.setattr(runtimes, "__file__", str(table))
    return folder


def hashes(copied: Path, changed: str = "") -> tuple[str, object]:
    """The key of a network and what its measurements follow from, after a change to a file."""
    if changed:
        (copied / f"{changed}.py").write_text("# changed")
    converted_key._code.cache_clear()
    converted_key.measuring.cache_clear()
    try:
        network = converted_key.identity(BUNDLE)
        facts = kept_measurements.facts(network=network, runtime="openvino", processor="p", precision="float32")
    finally:
        converted_key._code.cache_clear()
        converted_key.measuring.cache_clear()
    return network, facts


@pytest.mark.parametrize("changed", ["stream_rates", "openvino", "serving", "batch_rates", "agreement"])
def test_a_change_to_what_serves_or_measures_keeps_the_networks(copied: Path, changed: str) -> None:
    """What was measured is measured again."""
    before, after = hashes(copied), hashes(copied, changed)
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("changed", ["openvino_graphs", "keras_conversion", "quantising", "converted_cache"])
def test_a_change_to_what_converts_makes_networks_anew(copied: Path, changed: str) -> None:
    assert hashes(copied)[0] != hashes(copied, changed)[0]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('{"floatx": "float32", "epsilon": 1e-07, "backend": "jax", "image_data_format": "channels_first"}', True),
        ("{}", True),
        ("broken", True),
        ('{"floatx": "float16"}', False),
        ('{"epsilon": 0.01}', False),
    ],
)
def test_settings_of_keras_that_change_a_network_make_it_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, *, same: bool
) -> None:
    """Keras itself is not loaded for it, and writes the file with its defaults when it is loaded first."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    before = converted_key.identity(BUNDLE)
    (tmp_path / "keras.json").write_text(text)
    assert (converted_key.identity(BUNDLE) == before) is same
    assert "keras" not in sys.modules


def test_settings_that_keras_was_given_since_it_is_loaded_count() -> None:
    before = converted_key.identity(BUNDLE)
    keras.config.set_epsilon(0.01)
    try:
        assert converted_key.identity(BUNDLE) != before
    finally:
        keras.config.set_epsilon(1e-7)
    assert converted_key.identity(BUNDLE) == before
