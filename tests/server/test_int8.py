"""int8: which pictures judge it, and what it has to show before it is taken."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import bundle as bundles
from glimpse.models import calibration_pictures, heads
from glimpse.models.calibration_pictures import UNKNOWN
from glimpse.models.spec import NetworkSummary
from glimpse.server.runtime import builder, converted_cache, memory_budget, quantisation, speeds
from glimpse.server.runtime.agreement import Agreement
from glimpse.server.runtime.importing import ImportedModel
from glimpse.server.runtime.int8_trial import Given, Trial
from glimpse.server.runtime.memory_budget import MemoryBudget
from glimpse.server.runtime.openvino import OpenVINORuntime
from glimpse.server.runtime.quantisation import Pictures
from glimpse.server.runtimes import RUNTIMES
from tests.server.patches import noise

EMBEDDED = bundles.read(bundles.EMBEDDED_DEFAULT)


def folder_of(number: int, path: Path, *folders: str) -> Path:
    for place, pixels in enumerate(noise(number)):
        file = path / folders[place % len(folders)] / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return path


def test_without_better_pictures_other_photographs_judge_than_calibrate() -> None:
    found = quantisation.pictures(EMBEDDED, None)
    assert (found.source, len(found.pixels), len(found.held_out)) == ("photographs", 100, 0)
    assert found.photographs
    compared = [*islice(found.series(EMBEDDED.recipe), 100)]
    seen = {each.tobytes() for each in found.pixels}
    assert not any(each.tobytes() in seen for each in compared)
    assert quantisation.pictures(EMBEDDED, None).digest == found.digest


def test_pictures_of_a_folder_have_the_classes_of_their_folders(tmp_path: Path) -> None:
    path = folder_of(153, tmp_path, "cat", "no class of it", ".")
    (path / "broken.jpg").write_bytes(b"nothing")
    found = quantisation.pictures(EMBEDDED, path)
    cat = [label.label for label in EMBEDDED.labels].index("cat")
    assert (found.source, len(found.pixels), len(found.held_out)) == ("folder", 51, 102)
    assert set(found.classes) == {cat, UNKNOWN}
    compared = [*islice(found.series(EMBEDDED.recipe), 120)]
    np.testing.assert_array_equal(compared[:102], found.held_out)
    calibrates = {each.tobytes() for each in found.pixels}
    assert not any(each.tobytes() in calibrates for each in compared)


def test_a_folder_with_too_few_images_is_refused(tmp_path: Path) -> None:
    path = folder_of(3, tmp_path, ".")
    with pytest.raises(ValueError, match=r"has 3 images that can be read, and at least 150 are needed"):
        quantisation.pictures(EMBEDDED, path)


def test_a_bundle_s_own_pictures_come_before_those_of_a_folder(tmp_path: Path) -> None:
    own = bundles.read(Path(shutil.copytree(EMBEDDED.folder, tmp_path / "bundle")))
    assert calibration_pictures.write(own.folder, noise(150), np.arange(150) % 10, own.recipe)
    found = quantisation.pictures(own, tmp_path / "none")
    assert (found.source, len(found.pixels), len(found.held_out)) == ("bundle", 50, 100)
    assert quantisation.key(own, found, careful=True) != quantisation.key(own, found, careful=False)


def test_what_gains_least_is_its_speed() -> None:
    now = [0.0]

    def taking(seconds: dict[int, float]) -> speeds.Compute:
        def compute(size: int) -> None:
            now[0] += seconds[size] * (3 if int(now[0] * 1000) % 2 else 1)  # another process computes now and then

        return compute

    found = speeds.ratio(taking({1: 0.1, 8: 0.5}), taking({1: 0.2, 8: 0.6}), (1, 8), clock=lambda: now[0])
    assert 1.1 < found < 1.3


@pytest.mark.parametrize(
    ("found", "sufficient", "told"),
    [
        (Agreement("int8", 198, 200, 0, 200, 1, 1.2, "float32"), True, "1.20 times as fast as float32; 1.15 times"),
        (Agreement("int8", 198, 200, 0, 200, 1, 1.1, "bfloat16"), False, "1.10 times as fast as bfloat16"),
        (Agreement("int8", 197, 200, 0, 200, 0, 2.0, "float32"), False, "197 of 200 pictures, 98.5%; 99% are required"),
        (Agreement("int8", 200, 200, 0, 200, 2, 2.0, "float32"), False, "2 fewer right; at most 1 may be lost"),
        (Agreement("int8", 200, 200, 0, 1000, 5, 2.0, "float32"), True, "5 fewer right; at most 5"),
        (Agreement("int8", 200, 200, 0, 1000, -9, 2.0, "float32"), True, "0 fewer right"),
    ],
)
def test_int8_has_to_be_as_accurate_and_faster(found: Agreement, sufficient: bool, told: str) -> None:  # noqa: FBT001
    assert found.sufficient == sufficient
    assert told in str(found)


def test_other_runtimes_than_openvino_refuse_int8() -> None:
    from glimpse.server.runtime.tensorflow import TensorFlowRuntime

    assert OpenVINORuntime.resolve("int8") == "int8"
    with pytest.raises(ValueError, match="tensorflow does not compute in int8; openvino does, on CPUs"):
        TensorFlowRuntime.resolve("int8")


@pytest.mark.parametrize("moved", [0.02, 0.5])
def test_int8_of_labels_is_judged_by_the_labels_that_it_tells(moved: float) -> None:
    """The most probable label stays the same here, and a folder's class is no class of several."""
    bundle = replace(EMBEDDED, head=heads.multi_label(len(EMBEDDED.labels)))
    right = np.array([0.95, 0.2, *[0.05] * 8], np.float32)
    changed = right + np.array([0, moved, *[0] * 8], np.float32)

    class Computes:
        def answer(self, precision: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.tile(right if precision == "float32" else changed, (len(pixels), 1))

        def faster(self, *_: str) -> float:
            return 2.0

        def take(self, quantised: Path) -> None:
            raise AssertionError(quantised)

    pixels = np.zeros((150, *bundle.recipe.pixels_shape), np.uint8)
    pictures = Pictures("folder", "", pixels[:50], pixels[50:], np.full(100, 3, np.int64), ())
    summary = NetworkSummary(paper="", stages=(), parameters=1, trainable_parameters=1)
    model = ImportedModel(bundle, summary, RUNTIMES["openvino"], lambda: None)
    trial = Trial(model, Computes(), Given(), against="float32", processor="", largest=0)
    found = trial._measured(pictures, 100)
    assert (found.share, found.labelled, found.sufficient) == ((1, 0, True) if moved < 0.1 else (0, 0, False))


def test_a_network_that_has_earned_its_place_is_taken_without_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder with which it was made may be gone by the time the model is loaded again."""
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    made, taken = tmp_path / "made", list[Path]()
    made.mkdir()
    for name in ("network.xml", "network.bin"):
        (made / name).write_bytes(b"quantised")
    (tmp_path / "networks").mkdir()
    summary = NetworkSummary(paper="", stages=(), parameters=1, trainable_parameters=1)
    assert converted_cache.store(made, summary, tmp_path / "networks" / "key") is not None
    model = ImportedModel(EMBEDDED, summary, RUNTIMES["openvino"], lambda: None)
    judged = Agreement("int8", 200, 200, 0, speed=2.0, faster_than="float32", network="key")
    computes: Any = SimpleNamespace(take=taken.append)
    given = Given(tmp_path / "gone", judged=judged)
    trial = Trial(model, computes, given, against="float32", processor="", largest=0)
    assert trial.run() == judged
    assert taken == [tmp_path / "networks" / "key" / "network.xml"]


def test_with_other_pictures_a_network_that_is_not_kept_is_tried_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier one was like says nothing of the one that these pictures make."""
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    monkeypatch.setattr(quantisation, "check_installed", lambda: None)
    summary = NetworkSummary(paper="", stages=(), parameters=1, trainable_parameters=1)
    model = ImportedModel(EMBEDDED, summary, RUNTIMES["openvino"], lambda: None)
    judged = Agreement("int8", 200, 200, 0, speed=2.0, faster_than="float32", network="key")
    trial = Trial(model, SimpleNamespace(), Given(judged=judged), against="float32", processor="", largest=0)
    tried: list[bool] = []

    def found(_: Pictures, *, careful: bool) -> Agreement:
        tried.append(careful)
        return replace(judged, network="another")

    monkeypatch.setattr(trial, "_tried", found)
    assert trial.run().network == "another"
    assert tried == [False]


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_speeds_are_compared_only_with_memory_for_two_networks(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What let the model in has counted one of them."""
    summary = NetworkSummary(paper="", stages=(), parameters=1, trainable_parameters=1)
    model = ImportedModel(EMBEDDED, summary, RUNTIMES["openvino"], lambda: None)
    computes = builder._Builder(model, 0, Given())
    made: list[str] = []

    def make(precision: str) -> Any:
        made.append(precision)
        return SimpleNamespace(precision=precision, batch_sizes=lambda *_: (1,))

    monkeypatch.setattr(computes, "_made", make)
    monkeypatch.setattr(memory_budget, "available", lambda: MemoryBudget(free, "the memory of a test"))
    monkeypatch.setattr(speeds, "ratio", lambda *_: 2.0)
    if free:
        assert computes.faster("int8", "float32") == 2.0
        assert made == ["int8", "float32"]
    else:
        with pytest.raises(MemoryError, match=r"a second network, about \d+ MiB of memory, and 0 MiB are free"):
            computes.faster("int8", "float32")
        assert made == ["int8"]
