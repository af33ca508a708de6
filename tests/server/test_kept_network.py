"""What a runtime has made of a network is kept, and a later start takes it instead of building the network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from numpy.typing import NDArray

from glimpse.models import sources
from glimpse.models.bundle import Bundle
from glimpse.models.files import digests
from glimpse.models.map_rows import Head
from glimpse.models.outputs import DEFAULT_OUTPUTS, PROBABILITIES, Outputs
from glimpse.models.spec import NetworkSummary, StageSummary
from glimpse.server.processes import cleanup
from glimpse.server.runtime import OneStream, golden_check, importing, kept_network, serving
from glimpse.server.runtime.kept_network import KeptNetwork
from glimpse.server.runtimes import RUNTIMES, Precision

STAGE = StageSummary("stem", "convolution", 1, output_shape=(8, 8, 3), parameters=2, multiply_adds=3)
SUMMARY = NetworkSummary(paper="a paper", stages=(STAGE,), parameters=4, trainable_parameters=3, maps=(8, 8))


class Constant(OneStream):
    """Gives every picture the same answer: the class that is in its file."""

    name, device, outputs = "jax", "cpu", DEFAULT_OUTPUTS
    able = True  # to be kept
    made: list[object]

    def __init__(self, network: object, precision: Precision) -> None:
        self.precision = precision
        type(self).made.append(network)
        self._class = int((network.folder / "class").read_text()) if isinstance(network, KeptNetwork) else 7
        if self._class > 9:
            raise ValueError("there are ten classes")

    @classmethod
    def resolve(cls, precision: str) -> str:
        return "float32" if precision == "auto" else precision

    def _compute(self, pixels: NDArray[np.uint8], outputs: frozenset[str]) -> Outputs:
        answer = np.zeros((len(pixels), 10), np.float32)
        answer[:, self._class] = 1
        return dict.fromkeys(outputs, answer)

    def save(self, folder: Path) -> dict[str, Any] | None:
        (folder / "class").write_text(str(self._class))
        return {"names": [PROBABILITIES]} if self.able else None


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Constant:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    monkeypatch.setattr(Constant, "made", [], raising=False)
    return Constant(None, "float32")


@pytest.fixture
def bundle() -> Bundle:
    return sources.resolve(sources.ModelSource(weights="cifar10"))


def test_what_is_kept_is_found_with_all_that_is_told_of_it(runtime: Constant, bundle: Bundle) -> None:
    assert kept_network.keep("a", runtime, bundle, SUMMARY)
    found = kept_network.find("a")
    assert found is not None
    found.check()
    assert (found.summary, dict(found.facts), list(found.hashes)) == (SUMMARY, {"names": [PROBABILITIES]}, ["class"])
    assert {file.stat().st_mode & 0o777 for file in found.folder.iterdir()} == {0o644}
    assert [each.name for each in found.folder.parent.iterdir()] == ["a"]


def test_nothing_is_found_where_nothing_is_kept(runtime: Constant) -> None:
    assert kept_network.find("a") is None


def test_a_file_that_has_changed_since_is_noticed(runtime: Constant, bundle: Bundle) -> None:
    kept_network.keep("a", runtime, bundle, SUMMARY)
    found = kept_network.find("a")
    assert found is not None
    (found.folder / "class").write_text("3")
    with pytest.raises(ValueError, match="class has changed since it was stored"):
        found.check()


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("facts"),
        lambda values: values.update(files={"../class": "sha256:0"}),
        lambda values: values["network"].update(stages=7),
    ],
    ids=["without facts", "files elsewhere", "no stages"],
)
def test_a_broken_description_is_told_and_not_used(
    runtime: Constant, bundle: Bundle, change: Callable[[Any], object], tmp_path: Path
) -> None:
    kept_network.keep("a", runtime, bundle, SUMMARY)
    path = tmp_path / "networks" / "a" / "network.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with structlog.testing.capture_logs() as logs:
        assert kept_network.find("a") is None
    assert [each["event"] for each in logs] == ["kept network cannot be used"]


def test_a_network_that_cannot_be_kept_leaves_nothing(
    runtime: Constant, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Constant, "able", False)
    assert not kept_network.keep("a", runtime, bundle, SUMMARY)
    assert list((tmp_path / "networks").iterdir()) == []


def test_a_network_for_which_there_is_no_room_leaves_nothing(
    runtime: Constant, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(_: Constant, folder: Path) -> dict[str, Any]:
        (folder / "arrays").mkdir()  # where the file is to be, as a full disk is not to be had
        kept_network.save_arrays({"kernel": np.ones(3, np.float32)}, folder / "arrays")
        return {}

    monkeypatch.setattr(Constant, "save", save)
    with structlog.testing.capture_logs() as logs:
        assert not kept_network.keep("a", runtime, bundle, SUMMARY)
    assert "arrays cannot be written" in logs[-1]["detail"]
    assert list((tmp_path / "networks").iterdir()) == []


def test_what_another_server_has_kept_meanwhile_stays(runtime: Constant, bundle: Bundle, tmp_path: Path) -> None:
    kept_network.keep("a", runtime, bundle, SUMMARY)
    before = (tmp_path / "networks" / "a" / "class").stat().st_ino
    assert kept_network.keep("a", runtime, bundle, SUMMARY)
    assert (tmp_path / "networks" / "a" / "class").stat().st_ino == before


def test_what_is_broken_is_replaced(runtime: Constant, bundle: Bundle, tmp_path: Path) -> None:
    kept_network.keep("a", runtime, bundle, SUMMARY)
    (tmp_path / "networks" / "a" / "class").write_text("3")
    assert kept_network.keep("a", runtime, bundle, SUMMARY)
    assert (tmp_path / "networks" / "a" / "class").read_text() == "7"


def test_a_start_that_is_told_to_end_keeps_nothing(runtime: Constant, bundle: Bundle, tmp_path: Path) -> None:
    with cleanup.within(cleanup.Cleanup()):
        cleanup.current().end()
        with pytest.raises(cleanup.StoppedError):
            kept_network.keep("a", runtime, bundle, SUMMARY)
    assert not (tmp_path / "networks").exists()


def served(bundle: Bundle, built: list[str]) -> serving.ServedModel:
    """As a start does it, but that Keras has nothing to build."""
    row = dataclasses.replace(RUNTIMES["jax"], implementation=f"{__name__}:Constant")

    def build() -> Any:
        built.append("built")
        return "a model"

    imported = dataclasses.replace(importing.import_model(bundle, row), form=build)
    golden = golden_check.load(bundle, "off")
    return serving.serve(imported, golden, precision="float32", largest=2)


@pytest.fixture
def no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network is told to be, without building it."""
    monkeypatch.setattr(importing._Built, "summary", SUMMARY)


@pytest.mark.usefixtures("no_keras")
def test_the_second_start_builds_no_network(runtime: Constant, bundle: Bundle) -> None:
    built: list[str] = []
    runtime.made.clear()
    first, second = served(bundle, built), served(bundle, built)
    assert built == ["built"]
    assert [type(each) for each in runtime.made] == [str, KeptNetwork]
    pixels = np.zeros((2, *bundle.recipe.pixels_shape), np.uint8)
    assert np.array_equal(first.runtime(pixels)[PROBABILITIES], second.runtime(pixels)[PROBABILITIES])


@pytest.mark.usefixtures("no_keras")
@pytest.mark.parametrize("damage", ["3", "11"], ids=["changed", "unreadable"])
def test_a_kept_network_that_is_of_no_use_is_built_again(
    runtime: Constant, bundle: Bundle, damage: str, tmp_path: Path
) -> None:
    built: list[str] = []
    served(bundle, built)
    (file,) = tmp_path.glob("networks/*/class")
    file.write_text(damage)
    if damage == "11":  # what its runtime cannot read, although it is what was kept
        description = file.parent / "network.json"
        values = json.loads(description.read_text())
        values["files"]["class"] = digests.digest(file)
        description.write_text(json.dumps(values))
    with structlog.testing.capture_logs() as logs:
        served(bundle, built)
    assert built == ["built", "built"]
    assert "kept network cannot be used" in [each["event"] for each in logs]
    assert runtime.made[-1] == "a model"
    served(bundle, built)  # for it has been kept anew
    assert built == ["built", "built"]
    assert isinstance(runtime.made[-1], KeptNetwork)


@pytest.mark.usefixtures("no_keras")
def test_a_device_without_room_for_what_is_kept_says_so(
    runtime: Constant, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the network is built, and it stays kept: the next start may have more memory."""
    served(bundle, [])

    def full(*_: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")  # as XLA says it

    monkeypatch.setattr(Constant, "__init__", full)
    with pytest.raises(MemoryError, match="RESOURCE_EXHAUSTED"):
        served(bundle, [])
    assert list(tmp_path.glob("networks/*/class"))


@pytest.mark.usefixtures("no_keras")
def test_a_network_is_kept_for_each_precision(runtime: Constant, bundle: Bundle) -> None:
    row = dataclasses.replace(RUNTIMES["jax"], implementation=f"{__name__}:Constant")
    imported = importing.import_model(bundle, row)
    importing.keep(imported, Constant(None, "float32"))
    again = importing.import_model(bundle, row)
    assert again.kept("float32") is not None
    assert again.kept("bfloat16") is None


@pytest.mark.parametrize("head", [None, Head(None, None), Head(np.ones((4, 10), np.float32), np.zeros(10, np.float32))])
def test_the_outputs_of_a_network_are_read_as_they_were_saved(tmp_path: Path, head: Head | None) -> None:
    facts = kept_network.save_outputs(["logits", PROBABILITIES], head, tmp_path)
    names, found = kept_network.read_outputs(KeptNetwork(tmp_path, SUMMARY, facts, {}))
    assert names == ("logits", PROBABILITIES)
    assert (found is None) is (head is None)
    for name in ("kernel", "bias") if head is not None else ():
        np.testing.assert_equal(getattr(found, name), getattr(head, name))


@pytest.mark.parametrize(
    ("raised", "told"), [(KeyError("names"), ValueError), (OSError(5, "x"), OSError), (MemoryError(), MemoryError)]
)
def test_only_broken_files_are_told_as_broken(raised: Exception, told: type[Exception]) -> None:
    """What another start may read is not: a kept network that is broken is removed."""
    with pytest.raises(told), kept_network.reading():
        raise raised
    with pytest.raises(RuntimeError), kept_network.reading(RuntimeError):
        raise RuntimeError("the framework has no memory")
