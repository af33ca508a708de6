"""`python -m glimpse.models compare`: models side by side on labelled images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.models import bundle as bundles
from glimpse.models.__main__ import main
from glimpse.models.bundle import ClassLabel
from glimpse.models.child_environment import child_environment
from glimpse.models.comparison import compare, labelled, names, plot, report
from glimpse.models.comparison.labelled import LabelledFiles, indices
from glimpse.models.comparison.process import MeasuringError, MeasuringProcess
from glimpse.models.evaluate import evaluate

ANIMALS = (
    ClassLabel("tabby, tabby cat", "n02123045"),
    ClassLabel("great_white_shark", "n01484850", ("man-eater",)),
    ClassLabel("crane", "n02012849"),
    ClassLabel("crane", "n03126707"),
)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Nine images of noise in folders of three of CIFAR-10's classes."""
    for place, name in enumerate(["cat", "dog", "ship"] * 3):
        picture(tmp_path / "data" / name / f"{place}.png", seed=place)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_PRECISION", "float32")


QUICK = ("--turns", "2", "--seconds", "0.01")


def test_a_comparison_has_the_figures_of_an_evaluation_and_speeds(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same accuracy and calibration as Keras gives, although another runtime computes; a picture, too."""
    shipped = str(bundles.EMBEDDED_DEFAULT)
    drawn = tmp_path / "models.png"
    assert main(["compare", "--data", str(folders), "--json", "--plot", str(drawn), *QUICK, "cifar10", shipped]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["models"]
    assert [each["name"] for each in found] == ["cifar10", shipped]
    expected = evaluate(bundles.read(bundles.EMBEDDED_DEFAULT), folders).metrics()
    for each in found:
        assert each["metrics"] == pytest.approx(expected, abs=1e-4)
        assert each["multiply_adds"] == 105_133_536
        assert each["parameters"] == 864_802
        assert each["precision"] == "float32"
        assert len(each["images_per_second"]) == len(each["latency_ms"]) == 2
        assert min(each["images_per_second"] + each["latency_ms"]) > 0
    assert "cifar10: classifying 9 images" in err
    with Image.open(drawn) as image:
        assert image.format == "PNG"


def test_a_list_of_files_and_indices_is_read_and_a_bad_file_skipped(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images lie in a zip file beside the list, as ImageNet's may."""
    listed = tmp_path / "listed"
    listed.mkdir()
    with zipfile.ZipFile(listed / "images.zip", "w") as archive:
        archive.write(folders / "cat" / "0.png", "one.png")
        archive.writestr("two.png", b"no image")
    (listed / "labels.txt").write_text("one.png 3\ntwo.png 3\n")
    assert main(["compare", "--data", str(listed), *QUICK, "cifar10"]) == 1
    assert "two.png cannot be decoded" in (said := capsys.readouterr().err)
    assert "--skip-unreadable" in said
    assert main(["compare", "--data", str(listed), "--skip-unreadable", *QUICK, "cifar10"]) == 0
    out, err = capsys.readouterr()
    head, line = (each.split("\t") for each in out.splitlines())
    assert dict(zip(head, line, strict=True))["parameters"] == "864,802"
    assert "skipped: two.png" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10", "cifar10"], "named more than once: cifar10"),
        (["resnet51"], "There is no model 'resnet51'.*Did you mean resnet50?"),
        (["resnet50:v9"], "resnet50 has no weights 'v9'"),
        (["resnet50", "nosuch"], "nosuch: There are no weights 'nosuch'"),
        (["resnet50:imagenet_v2"], "has classes that resnet50:imagenet_v2 does not know: cat"),
        ([":imagenet"], "must be ARCHITECTURE:WEIGHTS"),
        ([""], "name of a model is empty"),
        (["cifar10", "--plot", "models.gif"], "ends in .pdf, .png, .svg. Received: models.gif"),
        (["cifar10", "--plot", "/nowhere/models.png"], "/nowhere, does not exist"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_loaded(
    arguments: list[str], message: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--data", str(folders), *arguments]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "loading" not in err
    assert "fetching" not in err
    assert re.search(message, err)


def test_the_table_says_which_variant_was_measured(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--data", str(folders), *QUICK, "cifar10"]) == 0
    head, line = (each.split("\t") for each in capsys.readouterr().out.splitlines())
    assert dict(zip(head, line, strict=True))["variant"] == bundles.read(bundles.EMBEDDED_DEFAULT).variant


def test_classes_that_a_model_does_not_know_are_named(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(folders / "tulip" / "1.png")
    picture(folders / "rose" / "1.png")
    assert main(["compare", "--data", str(folders), "cifar10"]) == 1
    err = capsys.readouterr().err
    assert "classes that cifar10 does not know: rose, tulip. A class is named by its label" in err
    assert "loading" not in err


def test_a_plot_without_matplotlib_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"needs matplotlib.*glimpse-serve\[train\]"):
        plot.check(Path("models.png"))


def test_a_process_that_ends_is_told_with_what_it_said() -> None:
    with MeasuringProcess("mine") as process, pytest.raises(MeasuringError, match=r"^mine: .*exit code 1.*'nonsense'"):
        process.ask("nonsense")


def test_the_process_finds_the_package_and_not_its_parts_at_the_top() -> None:
    """Its path is the folder that holds the package: a folder further in would make `client` importable, too."""
    said = subprocess.run(
        [
            *(sys.executable, "-P", "-S", "-c"),
            "from importlib.util import find_spec as f; print(*map(bool, map(f, ('glimpse', 'client', 'models'))))",
        ],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == "True False False"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("n02123045", 0),
        ("tabby, tabby cat", 0),
        ("Tabby Cat", 0),
        ("great white shark", 1),
        ("Great_White_Shark", 1),
        ("Man-Eater", 1),
        ("n03126707", 3),
    ],
)
def test_a_class_is_found_by_its_id_label_or_synonym(name: str, place: int) -> None:
    data = LabelledFiles(Path("data"), Path("data"), ((f"{name}/1.png", name),))
    assert indices(data, ANIMALS, "model") == {name: place}


def test_a_label_that_several_classes_have_is_refused() -> None:
    data = LabelledFiles(Path("data"), Path("data"), (("crane/1.png", "crane"),))
    with pytest.raises(
        ValueError, match=r"share: crane \(n02012849 crane, n03126707 crane\)\. Name each by its class id"
    ):
        indices(data, ANIMALS, "model")


def test_an_evaluation_refuses_a_folder_that_may_be_two_classes(folders: Path) -> None:
    """It finds classes as a comparison does, and before it decodes an image."""
    loaded = bundles.read(bundles.EMBEDDED_DEFAULT)
    twins = (ClassLabel("tabby", "n1", ("cat",)), ClassLabel("tiger cat", "n2", ("cat",)), *loaded.labels[2:])
    (folders / "ship" / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"share: cat \(n1 tabby, n2 tiger cat\)"):
        evaluate(replace(loaded, labels=tuple(each for each in twins if each.label != "cat")), folders)


def test_numbers_that_are_labels_are_no_indices() -> None:
    """Labels that are sorted as texts, as those of a training are, have another order than their numbers."""
    labels = [ClassLabel(name) for name in sorted(map(str, range(1, 12)))]
    data = LabelledFiles(Path("data"), Path("data"), (("1.png", "2"), ("2.png", "10")), indexed=True)
    assert indices(data, labels, "model") == {"2": 3, "10": 1}
    mixed = LabelledFiles(Path("data"), Path("data"), (("1.png", "0"), ("2.png", "10")), indexed=True)
    with pytest.raises(ValueError, match=r"only some are labels of model: 10\. So it is not clear"):
        indices(mixed, labels, "model")


def test_an_index_beyond_the_classes_is_refused() -> None:
    data = LabelledFiles(Path("data"), Path("data"), (("1.png", "3"), ("2.png", "4")), indexed=True)
    with pytest.raises(ValueError, match=r"does not know: 4\. Its 4 classes have the indices 0 to 3"):
        indices(data, ANIMALS, "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one.png\n", "line 1 must be 'FILE CLASS'"),
        ("one.png 3\none.png 3\n", "more than once"),
        ("one.png 3\nnone.png 3\n", "not in .*: none.png"),
        ("same.png 3\n", "of which there are several: a/same.png, b/same.png"),
        ("\n", "names no image"),
    ],
)
def test_a_list_of_images_that_cannot_be_used_is_refused(text: str, message: str, tmp_path: Path) -> None:
    for name in ("one.png", "a/same.png", "b/same.png"):
        picture(tmp_path / name)
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        labelled.find(tmp_path)


def test_names_with_spaces_are_separated_from_the_class_by_a_tab(tmp_path: Path) -> None:
    picture(tmp_path / "my photo.png")
    (tmp_path / "labels.txt").write_text("my photo.png\tgreat white shark\n")
    found = labelled.find(tmp_path)
    assert found.files == (("my photo.png", "great white shark"),)
    assert not found.indexed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: picture(data / "stray.png"), "stray.png is not in a folder"),
        (lambda data: data.mkdir(), "no images in folders"),
        (lambda data: data.write_bytes(b"no zip"), "neither a folder nor a valid zip file"),
        (lambda data: None, "does not exist"),
    ],
)
def test_data_without_labelled_images_is_refused(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    with pytest.raises((ValueError, OSError), match=message):
        labelled.find(tmp_path / "data")


def test_a_name_means_what_the_settings_of_a_server_would(tmp_path: Path) -> None:
    shutil.copytree(bundles.EMBEDDED_DEFAULT, tmp_path / "resnet50:odd")
    assert names.source("resnet50").weights == "imagenet"
    assert names.source("se_resnet20").weights == "cifar10"
    assert (names.source("vgg16:a/b.pth").architecture, names.source("vgg16:a/b.pth").weights) == ("vgg16", "a/b.pth")
    assert (names.source("vgg16:random:7").architecture, names.source("vgg16:random:7").weights) == (
        "vgg16",
        "random:7",
    )
    assert (names.source("random:7").architecture, names.source("random:7").weights) == ("", "random:7")
    assert names.source(str(tmp_path / "resnet50:odd")).weights == str(tmp_path / "resnet50:odd")


def test_a_folder_that_is_no_bundle_hides_no_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a server: somebody may keep images or results in a folder called ``resnet50``."""
    monkeypatch.chdir(tmp_path)
    Path("resnet50").mkdir()
    assert (names.source("resnet50").architecture, names.source("resnet50").weights) == ("resnet50", "imagenet")
    shutil.copytree(bundles.EMBEDDED_DEFAULT, "vgg16")
    assert (names.source("vgg16").architecture, names.source("vgg16").weights) == ("", "vgg16")


def test_models_take_turns_and_none_always_comes_first() -> None:
    assert list(compare._in_turns(3, 3)) == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def test_the_table_shows_medians() -> None:
    result = compare.Result(
        name="mine",
        variant="keras",
        model="mine",
        weights_digest="sha256:0",
        runtime="openvino",
        device="cpu",
        precision="float32",
        parameters=1000,
        multiply_adds=2000,
        input_shape=(8, 8, 3),
        batch_size=4,
        images=3,
        left_out=(),
        metrics={"top1": 2 / 3, "top1_low": 0.2, "top1_high": 0.9, "ece": 0.125},
        images_per_second=(1000.0, 10.0, 1234.5),
        latency_ms=(2.0, 1.2345, 9.0),
    )
    row = dict(zip(report.COLUMNS, report.row(result), strict=True))
    assert row["images/s"] == "1,000"
    assert row["ms"] == "2"
    assert row["top-1"] == "66.7%"
    assert not row["top-5"]
