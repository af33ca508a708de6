"""`python -m glimpse.models calibrate`: any weights are calibrated by labelled images, as a server loads them."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from glimpse.models import bundle as bundles
from glimpse.models import calibration_pictures, golden, sources
from glimpse.models.__main__ import main
from glimpse.models.bundle import ClassLabel
from glimpse.models.calibration import computing
from glimpse.models.novelty import novelty
from glimpse.models.sources import ModelSource
from glimpse.models.train.calibrate import fit_temperature
from tests.models.graph_makers import details, onnx_model, saved

RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and twenty pieces of photographs, in folders of three of CIFAR-10's classes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, photo in {"cat": skimage.data.chelsea(), "airplane": skimage.data.rocket()}.items():
        image = Image.fromarray(photo)
        (folder / name).mkdir()
        for number in range(60):
            side = int(rng.integers(120, 280))
            left, top = int(rng.integers(image.width - side)), int(rng.integers(image.height - side))
            image.resize((48, 48), box=(left, top, left + side, top + side)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, and some in a folder that is named like one of CIFAR-10's classes."""
    folder = tmp_path_factory.mktemp("noise")
    for number in range(40):
        path = folder / ("dog" if number < 5 else "static") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_PRECISION", "float32")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A bundle of the user's own, without a threshold."""
    folder = tmp_path / "mine"
    shutil.copytree(bundles.EMBEDDED_DEFAULT, folder)
    path = folder / bundles.DESCRIPTION
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in {"novelty", "drift"}}))
    return folder


@pytest.mark.ci
def test_a_bundle_is_calibrated_where_it_lies(
    mine: Path, photos: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a diagram; its card gets a section, one however often it is done; its recorded answers stay true."""
    before = bundles.read(mine)
    recorded = golden.read(before)
    drawn = tmp_path / "reliability.svg"
    arguments = ["calibrate", "--data", str(photos), "--foreign", str(foreign), "--plot", str(drawn), str(mine)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "fitted on 60 images, measured on 60 others" in out
    assert re.search(r"calibration error \(ECE\) +\d+\.\d\d% +\d+\.\d\d%", out)
    assert "left out, because they are classes of the model: dog" in err
    assert drawn.read_text().startswith("<?xml")

    after = bundles.read(mine)
    logits = computed_logits(mine, photos)
    half = np.random.default_rng(0).permutation(len(logits[0]))[:60]
    assert after.temperature == pytest.approx(fit_temperature(logits[0][half], logits[1][half]), abs=1e-3)
    assert after.temperature != before.temperature
    assert after.novelty is not None
    assert after.drift is not None
    assert after.drift.bins.keys() == {
        *("brightness", "sharpness", "colour", "size"),
        *("top_probability", "margin", "entropy", "novelty"),
    }
    assert "ece" not in after.metrics
    assert after.metrics["top1"] == before.metrics["top1"]
    for old, new in zip(recorded, golden.read(after), strict=True):
        powers = old.probabilities.astype(np.float64) ** (before.temperature / after.temperature)
        np.testing.assert_allclose(new.probabilities, powers / powers.sum(), rtol=1e-4, atol=1e-7)

    (mine / calibration_pictures.FILE).write_bytes(b"of an earlier calibration")
    arguments = ["calibrate", "--data", str(photos), "--keep-temperature", "--without-pictures", "--score", "logistic"]
    assert main([*arguments, "--foreign", str(foreign / "static"), "--foreign-test", str(foreign), str(mine)]) == 0
    assert not calibration_pictures.there(after)
    again = bundles.read(mine)
    assert again.temperature == after.temperature
    assert again.novelty is not None
    assert again.novelty.logistic is not None
    assert (again.novelty.logistic.features, again.novelty.logistic.known, again.novelty.logistic.foreign) == (
        112,
        30,
        18,
    )
    assert again.drift is not None
    assert again.drift.bins["novelty"] != after.drift.bins["novelty"]
    assert f"{foreign.name} (not fitted)" in capsys.readouterr().out
    card = (mine / "MODEL_CARD.md").read_text()
    assert card.startswith("# se_resnet20_cifar10")
    assert card.count("## Calibrated") == card.count(f"## Calibrated on {photos.name}") == 1


def computed_logits(model: Path, photos: Path) -> tuple[np.ndarray, np.ndarray]:
    """As Keras gives them, in the order of the command."""
    from glimpse.models import serving
    from glimpse.models.comparison import labelled
    from glimpse.models.train.reading import network_input

    bundle = bundles.read(model)
    data = labelled.find(photos)
    index = labelled.indices(data, bundle.labels, "")
    pixels = np.stack([network_input((photos / file).read_bytes(), bundle.recipe) for file, _ in data.files])
    network = serving.logits_model(serving.load_bundle(bundle), bundle.recipe)
    return serving.logits(network, pixels), np.array([index[name] for _, name in data.files])


def test_a_bundle_is_made_of_weights_that_are_in_none(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the shipped bundle a copy is made; the shipped one stays as it is."""
    out = tmp_path / "made"
    assert main(["calibrate", "--data", str(photos), "--out", str(out), "--json", "cifar10"]) == 0
    told = json.loads(capsys.readouterr().out)
    made = bundles.read(out)
    made.check_digest()
    assert made.temperature == told["temperature"] != bundles.read(bundles.EMBEDDED_DEFAULT).temperature
    assert made.novelty is not None
    assert made.novelty.to_dict() == {key: told["novelty"][key] for key in made.novelty.to_dict()}
    assert golden.read(made)


@pytest.mark.ci
def test_a_bundle_is_made_of_weights_and_computes_the_same(photos: Path, tmp_path: Path) -> None:
    """Of random weights, which are in a file and in no bundle; their classes are named by what the command is told."""
    untrained = sources.resolve(ModelSource(weights="random", architecture="se_resnet20"))
    data = tmp_path / "data"
    for label, folder in zip(untrained.labels[:2], sorted(photos.iterdir()), strict=True):
        shutil.copytree(folder, data / label.label)
    out = tmp_path / "made"
    assert main(["calibrate", "--data", str(data), "--out", str(out), "se_resnet20:random"]) == 0
    made = bundles.read(out)
    made.check_digest()
    assert made.weights_digest == untrained.weights_digest
    assert (made.labels, made.recipe, made.architecture) == (untrained.labels, untrained.recipe, "se_resnet20")
    assert made.novelty is not None
    assert sources.resolve(ModelSource(weights=str(out))).temperature == made.temperature
    again, _ = computed_logits(out, data)
    scored = novelty.score(made.novelty.score, again)
    assert (scored <= made.novelty.threshold + 1e-3).mean() > 0.8


@pytest.mark.ci
def test_a_graph_is_calibrated_by_a_file_beside_it(
    tmp_path: Path, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No bundle is made of it; the server computes its probabilities with the temperature from then on.

    Its embedding is enough for a score that is fitted on foreign images, and its inner layers are not looked at.
    """
    graph = saved(onnx_model(), tmp_path / "graph")
    details(graph.parent)
    labels = sources.resolve(ModelSource(weights=str(graph))).labels
    for number in range(120):
        path = tmp_path / "data" / labels[number % len(labels)].label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    arguments = ["calibrate", "--data", str(tmp_path / "data"), str(graph)]
    assert main([*arguments, "--out", str(tmp_path / "made")]) == 1
    assert "leave --out away" in capsys.readouterr().err
    arguments += ["--foreign", str(foreign / "static"), "--score", "logistic"]
    assert main([*arguments, "--layer", "stem"]) == 1
    assert "or leave --layer and --trained-on away" in capsys.readouterr().err
    assert main(arguments) == 0, capsys.readouterr().err
    found = sources.resolve(ModelSource(weights=str(graph)))
    assert found.temperature != 1
    assert found.novelty is not None
    assert found.novelty.logistic is not None
    assert found.drift is not None
    assert f"temperature {' ' * 16}" in (out := capsys.readouterr().out)
    assert f"{graph.name}.calibration.json" in out


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda data: (data / "cat").rename(data / "tulip"), [], "does not know: tulip"),
        (
            lambda data: [each.unlink() for each in sorted(data.rglob("*.png"))[1:]],
            [],
            "has 1 image. Calibrating needs",
        ),
        (lambda data: None, ["--out", "{data}"], "--out must name a folder that is empty"),
        (
            lambda data: None,
            ["--foreign", "{data}"],
            "has no images but those of the model's own classes: airplane, cat",
        ),
        (lambda data: None, ["--foreign", "nowhere"], "nowhere does not exist"),
        (lambda data: None, ["--score", "logistic"], "name a folder of them with --foreign"),
        (lambda data: None, ["--layer", "stem_act"], "--layer and --trained-on are for --score feature_distance and"),
        (lambda data: None, ["--plot", "diagram.gif"], "ends in .pdf, .png, .svg"),
        (lambda data: None, [], "cifar10 has no folder of yours"),
    ],
)
def test_what_cannot_be_calibrated_is_said_before_anything_is_loaded(  # noqa: PLR0917
    change: Callable[[Path], object],
    arguments: list[str],
    message: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    change(data)
    given = [each.format(data=data) for each in arguments]
    out = [] if "no folder" in message or "--out" in given else ["--out", str(tmp_path / "made")]
    assert main(["calibrate", "--data", str(data), *given, *out, "cifar10"]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "loading" not in err
    assert not (tmp_path / "made").exists()


@pytest.mark.ci
def test_an_image_that_cannot_be_read_is_named_and_may_be_skipped(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a zip file."""
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for path in sorted(photos.rglob("*.png")):
            made.write(path, path.relative_to(photos))
        made.writestr("cat/broken.png", b"no image")
    assert main(["calibrate", "--data", str(archive), "--dry-run", "cifar10"]) == 1
    assert "cat/broken.png cannot be decoded" in capsys.readouterr().err
    assert main(["calibrate", "--data", str(archive), "--dry-run", "--skip-unreadable", "cifar10"]) == 0
    assert "skipped: cat/broken.png" in capsys.readouterr().err


def test_folders_of_the_models_own_classes_are_not_foreign(foreign: Path) -> None:
    found = computing.find_foreign(foreign, bundles.read(bundles.EMBEDDED_DEFAULT).labels)
    assert found.known == ("dog",)
    assert len(found.files) == 35


def test_a_folder_whose_name_several_classes_share_is_not_foreign(tmp_path: Path) -> None:
    for name in ("Crane", "mural"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    labels = (ClassLabel("crane", "n02012849"), ClassLabel("crane", "n03126707"), ClassLabel("dog"))
    found = computing.find_foreign(tmp_path, labels)
    assert (found.known, found.files) == (("Crane",), ("mural/1.png",))
