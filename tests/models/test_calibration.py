"""`python -m glimpse.models calibrate`: temperature and threshold of any weights, fitted on one half of the images."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from glimpse.models import bundle as bundles
from glimpse.models import calibration_pictures, golden, novelty, sources
from glimpse.models.__main__ import main
from glimpse.models.bundle import BundleError
from glimpse.models.calibration import computing, fitting, writing
from glimpse.models.calibration.debiased import debiased_error
from glimpse.models.calibration.fitting import calibrate, debiased_by_chance, error_by_chance
from glimpse.models.sources import ModelSource
from glimpse.models.train.calibrate import fit_temperature
from tests.models.graph_makers import details, onnx_model, saved

RNG = np.random.default_rng(11)


def scores(number: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are that many times too sure, of 20 classes, and true classes drawn from what they should say."""
    logits = RNG.normal(0, 2, (number, 20)).astype(np.float32)
    powers = np.exp(logits)
    drawn = (powers.cumsum(axis=1) / powers.sum(axis=1, keepdims=True) < RNG.random((number, 1))).sum(axis=1)
    return logits * np.float32(temperature), drawn


def test_the_temperature_is_found_and_measured_on_the_other_half() -> None:
    logits, classes = scores(4000, temperature=2.5)
    found = calibrate(logits, classes, {})
    assert found.temperature == pytest.approx(2.5, rel=0.08)
    assert found.fitted_on == found.after.images == 2000
    assert found.after.nll < found.before.nll
    assert found.after.reliability.error < 2 * found.chance < found.before.reliability.error
    assert found.after.top1 == found.before.top1
    assert calibrate(logits, classes, {}, before=1.7, keep=True).temperature == 1.7


def test_half_of_the_known_images_says_how_many_are_rejected() -> None:
    logits, classes = scores(4000, temperature=1.0)
    found = calibrate(logits, classes, {})
    assert found.threshold.score == novelty.DEFAULT_SCORE
    assert found.threshold.images == 2000
    assert 0.03 < found.rejected < 0.07
    assert found.foreign == {}


def test_the_score_that_tells_the_foreign_images_best_is_chosen() -> None:
    """Foreign images whose highest logit is as that of known ones: only the others tell them."""
    logits, classes = scores(2000, temperature=1.0)
    foreign = logits[:1000].copy()
    foreign[:, :5] = foreign.max(axis=1, keepdims=True)
    found = calibrate(logits, classes, {"many at once": foreign})
    aurocs = {name: each["many at once"] for name, each in found.aurocs.items()}
    assert aurocs[found.threshold.score] == max(aurocs.values()) > 0.9
    assert aurocs["max_logit"] < 0.6
    assert found.foreign["many at once"].images == 500
    assert found.foreign["many at once"].auroc == pytest.approx(aurocs[found.threshold.score])
    assert found.foreign["many at once"].caught > 0.5
    assert calibrate(logits, classes, {"many at once": foreign}, score="energy").threshold.score == "energy"


def test_chance_alone_makes_a_calibration_error_of_few_images() -> None:
    """The error of probabilities that are exactly right: large of few images, nearly none of many."""
    few, many = (error_by_chance(RNG.dirichlet(np.ones(10), number)) for number in (200, 50_000))
    assert many < 0.01
    assert few > 0.03


def test_an_error_without_chance_is_a_fault_and_no_fault_is_small() -> None:
    """Of probabilities that are right, and of such as claim 0.15 too much; on 300 images."""
    true = RNG.uniform(0.5, 0.85, (300, 300))
    squares = {
        fault: np.mean([debiased_error(each + fault, RNG.random(300) < each) ** 2 for each in true])
        for fault in (0.0, 0.15)
    }
    assert squares[0.15] == pytest.approx(0.15**2, rel=0.1)
    assert squares[0.0] < 0.045**2
    answers = np.stack([true[0], 1 - true[0]], axis=1)
    assert debiased_by_chance(answers) < 0.6 * error_by_chance(answers)
    with pytest.raises(ValueError, match="Received: 1"):
        debiased_error(np.zeros(1), np.zeros(1, bool))


def test_a_calibration_that_cannot_be_finished_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step that writes; afterwards it can be done again."""
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    mine = tmp_path / "mine"
    shutil.copytree(shipped.folder, mine)
    before, answers = bundles.read(mine), golden.read(bundles.read(mine))
    assert before.novelty is not None
    changed = replace(before.novelty, threshold=2.0)
    for step in ("copyfile", "write_text", "replace", "fsync"):
        with monkeypatch.context() as broken:
            owner = {"copyfile": shutil, "write_text": Path, "replace": Path, "fsync": os}[step]
            broken.setattr(owner, step, full_disk)
            with pytest.raises(OSError, match="no space"):
                writing.write(before, None, temperature=1.5, novelty=changed, drift=None)
        assert bundles.read(mine) == before
        assert all(map(same_answer, golden.read(bundles.read(mine)), answers))
    writing.write(before, None, temperature=1.5, novelty=changed, drift=None)
    after = bundles.read(mine)
    assert (after.temperature, after.novelty) == (1.5, changed)
    assert not (mine / before.golden).exists()
    assert len(golden.read(after)) == len(answers)


def test_pictures_that_cannot_be_written_leave_the_old_bundle_or_none(tmp_path: Path) -> None:
    """The description, which alone makes a bundle of a folder, comes after everything that belongs to it."""
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    mine, fresh = tmp_path / "mine", tmp_path / "fresh"
    shutil.copytree(shipped.folder, mine)
    before = bundles.read(mine)
    assert before.novelty is not None
    for out in (None, fresh):
        with pytest.raises(OSError, match="no space"):
            writing.write(before, out, temperature=1.5, novelty=before.novelty, drift=None, first=full_disk)
    assert bundles.read(mine) == before
    assert (fresh / before.weights_file).exists()
    assert not (fresh / bundles.DESCRIPTION).exists()


def full_disk(*_: object, **__: object) -> None:
    raise OSError("no space")


def same_answer(one: golden.GoldenAnswer, other: golden.GoldenAnswer) -> bool:
    return one.picture == other.picture and bool((one.probabilities == other.probabilities).all())


def test_the_reference_of_drift_has_images_and_answers() -> None:
    logits, _ = scores(300, temperature=1.0)
    made = fitting.reference(logits, {"size": np.full(300, 9.0)}, 1.0, fitting.fit_novelty(logits, {}))
    assert made.bins.keys() == {"size", "top_probability", "margin", "entropy", "novelty"}
    assert made.images == 300


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


def test_a_bundle_that_is_made_of_weights_has_the_groups_beside_them(tmp_path: Path) -> None:
    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    weights = tmp_path / "mine.safetensors"
    shutil.copy(shipped.weights_path, weights)
    shutil.copy(shipped.folder / "labels.txt", tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(shipped.recipe.to_dict()))
    (tmp_path / "groups.toml").write_text('pet = ["cat", "dog"]\n')
    found = sources.resolve(ModelSource(weights=str(weights), architecture="se_resnet20", variant="cifar_wide"))
    assert [each.name for each in found.groups] == ["pet"]
    assert shipped.novelty is not None
    out = writing.write(found, tmp_path / "made", temperature=1.5, novelty=shipped.novelty, drift=None)
    assert bundles.read(out).groups == found.groups


def test_a_calibration_beside_a_file_is_read_with_it_and_only_with_it(tmp_path: Path) -> None:
    from glimpse.models import beside

    shipped = bundles.read(bundles.EMBEDDED_DEFAULT)
    weights = tmp_path / "mine.safetensors"
    shutil.copy(shipped.weights_path, weights)
    shutil.copy(shipped.folder / "labels.txt", tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(shipped.recipe.to_dict()))
    source = ModelSource(weights=str(weights), architecture="se_resnet20", variant="cifar_wide")
    assert sources.resolve(source).temperature == 1

    path = beside.calibration_path(weights)
    assert path.name == "mine.safetensors.calibration.json"
    beside.write_calibration(path, beside.Calibration(1.5, shipped.novelty, shipped.drift), shipped.weights_digest)
    found = sources.resolve(source)
    assert (found.temperature, found.novelty, found.drift) == (1.5, shipped.novelty, shipped.drift)

    beside.write_calibration(path, beside.Calibration(1.5), "sha256:other")
    with pytest.raises(BundleError, match="is of other weights"):
        sources.resolve(source)
    for damaged in ("", "[]", "{}", '{"weights_digest": "x", "temperature": -1}'):
        path.write_text(damaged)
        with pytest.raises(BundleError, match="cannot be used"):
            sources.resolve(source)


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
