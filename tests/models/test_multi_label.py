"""Training from a table of labels: what is learned, measured and written; calibration and metrics by their formulas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from glimpse.models import bundle, evaluate, heads
from glimpse.models.heads import Head
from glimpse.models.prestem.recipe import Recipe
from glimpse.models.serving import load_bundle, serving_model
from glimpse.models.train import __main__ as command
from glimpse.models.train.multi_label import calibrate, data, measure, table
from glimpse.models.train.multi_label.loss import LabelCrossEntropy, guessing, weights_of

LABELS = ("blue", "green", "red")
_BLOCKS = {"red": (0, 0, 0), "green": (0, 5, 1), "blue": (5, 2, 2)}  # row, column and channel


def write_photos(folder: Path, count: int, seed: int) -> Path:
    """Dark pictures with coloured blocks, each there or not; returns the table of their labels."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = ["file,labels"]
    for number in range(count):
        pixels = rng.integers(0, 60, (8, 8, 3), np.uint8)
        shown = [label for label, share in zip(LABELS, (0.5, 0.4, 0.15), strict=True) if rng.random() < share]
        for label in shown:
            row, column, channel = _BLOCKS[label]
            pixels[row : row + 3, column : column + 3, channel] = 250
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'|'.join(shown)}")
    table = folder.with_suffix(".csv")
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures to train on, those to test with, and their tables."""
    folder = tmp_path_factory.mktemp("labelled")
    write_photos(folder / "train", 160, 0)
    write_photos(folder / "test", 60, 1)
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "labels"
    arguments = [
        *("--data", str(photos / "train"), "--labels", str(photos / "train.csv")),
        *("--test", str(photos / "test"), "--test-labels", str(photos / "test.csv")),
        *(
            "--architecture",
            "basic_cnn",
            "--size",
            "8x8",
            "--channels",
            "3",
            "--padding",
            "fill",
            "--out",
            str(out),
            "--name",
            "blocks",
        ),
        *("--epochs", "8", "--batch-size", "32", "--learning-rate", "0.01"),
    ]
    assert command.main(arguments) == 0
    return out


def test_labels_are_learned_from_a_table(run: Path) -> None:
    made = bundle.read(run / "bundle")
    assert [each.label for each in made.labels] == list(LABELS)
    assert (made.head.kind, made.novelty, made.drift) == ("multi-label", None, None)
    assert made.metrics["images"] == 60
    assert made.metrics["mean_average_precision"] > 0.9
    assert made.metrics["bce"] < 0.2


def test_its_card_has_the_figures_of_each_label(run: Path) -> None:
    text = (run / "bundle" / "MODEL_CARD.md").read_text()
    assert "It tells which of 3 labels a picture shows" in text
    assert "| label | images | average precision | precision | recall | F1 | threshold |" in text
    assert all(f"| {label} | " in text for label in LABELS)
    assert "--labels " in text
    assert "glimpse.models.evaluate --bundle" in text
    assert "top-1" not in text


def test_a_bundle_of_labels_is_measured_again(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--bundle", str(run / "bundle"), "--data", str(photos / "test")]
    assert evaluate.main([*arguments, "--labels", str(photos / "test.csv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"] == pytest.approx(told["claimed"], abs=1e-5)
    assert [each["label"] for each in told["labels"]] == list(LABELS)
    assert evaluate.main([*arguments, "--labels", str(photos / "test.csv")]) == 0
    assert "mean average precision" in capsys.readouterr().out
    assert evaluate.main(arguments) == 1
    assert "Give the labels of the images with --labels" in capsys.readouterr().err


def test_a_table_is_not_for_classes_that_exclude_each_other(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--data", str(photos / "test"), "--labels", str(photos / "test.csv")]) == 1
    assert "is no multi-label model" in capsys.readouterr().err


def test_a_table_that_says_something_else_of_an_image_has_other_contents(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "train.csv", tmp_path)
    recipe = Recipe(height=8, width=8)
    first, *lines = (photos / "train.csv").read_text().splitlines()
    changed = next(place for place, line in enumerate(lines) if line.endswith(","))  # shows none
    lines[changed] += LABELS[0]
    (tmp_path / "other.csv").write_text("\n".join([first, *lines]))
    before, again, other = (
        data.read(photos / "train", table.read(path), recipe).contents
        for path in (photos / "train.csv", tmp_path / "train.csv", tmp_path / "other.csv")
    )
    assert before == again != other


def test_what_is_served_is_a_sigmoid_of_its_own_logits(run: Path) -> None:
    made = bundle.read(run / "bundle")
    assembly = load_bundle(made)
    pixels = np.random.default_rng(2).integers(0, 256, (6, 8, 8, 3), np.uint8)
    served = keras.ops.convert_to_numpy(serving_model(assembly, made.recipe, 1.0, made.head)(pixels))
    scaled = (pixels.astype(np.float32) - made.recipe.mean) / made.recipe.std
    logits = keras.ops.convert_to_numpy(assembly.model(scaled.astype(np.float32)))
    np.testing.assert_allclose(served, made.head.probabilities(logits), rtol=0, atol=1e-5)


@pytest.mark.ci
def test_a_network_that_knows_labels_learns_those_of_another_table(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A transfer, of which the base is the bundle itself."""
    arguments = [
        *("--data", str(photos / "train"), "--labels", str(photos / "train.csv"), "--from", str(run / "bundle")),
        *("--epochs", "20", "--out", str(tmp_path / "transfer"), "--learning-rate", "0.01", "--thaw", "1"),
    ]
    assert command.main([*arguments, "--thaw-epochs", "2"]) == 0
    assert "mean average precision" in capsys.readouterr().out
    made = bundle.read(tmp_path / "transfer" / "bundle")
    assert made.head.kind == "multi-label"
    assert made.metrics["mean_average_precision"] > 0.9


def test_platt_finds_the_line_that_the_labels_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    targets = (rng.random(20_000) < heads.sigmoid((logits - 1.5) / 2)).astype(np.int64)
    temperature, offset = calibrate.platt(logits, targets)
    assert temperature == pytest.approx(2, rel=0.05)
    assert offset == pytest.approx(1.5, abs=0.1)


def test_scores_that_are_no_numbers_are_refused() -> None:
    logits, targets = np.zeros((4, 2)), np.eye(2, dtype=np.int64)[[0, 1, 0, 1]]
    logits[1, 0] = np.nan
    for what in (
        lambda: calibrate.fit(logits, targets),
        lambda: measure.measure(logits, targets, heads.multi_label(2)),
    ):
        with pytest.raises(ValueError, match="infinite or not a number for 1 of 4 images"):
            what()


@pytest.mark.parametrize("shown", [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]])
def test_a_few_images_never_ask_for_certainty(shown: list[int]) -> None:
    """Also where the logits are the wrong way round, or say nothing."""
    temperature, offset = calibrate.platt(np.array([4.0, 3.0, -3.0, -4.0]), np.array(shown))
    assert 0.05 <= temperature <= 20.001
    told = heads.sigmoid((np.array([4.0, -4.0]) - offset) / temperature)
    assert ((told > 0.05) & (told < 0.95)).all()


def test_the_threshold_is_that_with_the_best_f1() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.random(300)
    targets = (rng.random(300) < probabilities**2).astype(np.int64)

    def f1(threshold: float) -> float:
        told = probabilities >= threshold
        return 2 * float((told & (targets == 1)).sum()) / float(told.sum() + targets.sum())

    found = calibrate.best_threshold(probabilities, targets)
    assert f1(found) == pytest.approx(max(f1(each) for each in probabilities))
    assert calibrate.best_threshold(probabilities, np.zeros(300, np.int64)) == 0.5


@pytest.mark.parametrize("probabilities", [[3e-7, 2e-7, 1e-7], [1.0, 1.0, 1.0], [1 - 1e-9, 0.3, 0.2]])
def test_a_threshold_is_never_one_that_all_or_no_image_reaches(probabilities: list[float]) -> None:
    """Rounded, the middle between two tiny probabilities would be 0."""
    for targets in ([1, 1, 1], [1, 0, 0]):
        found = calibrate.best_threshold(np.array(probabilities), np.array(targets))
        assert 0 < np.float32(found) < 1


@pytest.mark.parametrize(
    ("scores", "targets", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0], 1.0),
        ([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1], (1 / 3 + 2 / 4) / 2),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 0.25),  # told together
    ],
)
def test_average_precision_is_that_of_its_definition(scores: list[float], targets: list[int], expected: float) -> None:
    assert measure.average_precision(np.array(scores), np.array(targets)) == pytest.approx(expected)


def test_figures_are_those_of_their_formulas() -> None:
    head = Head(kind="multi-label", temperatures=(1.0,) * 3, offsets=(0.0,) * 3, thresholds=(0.5,) * 3)
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    logits = np.array([[2.0, -2.0, -2.0], [2.0, -1.0, -2.0], [1.0, 2.0, -2.0]])
    found = measure.measure(logits, targets, head)
    assert found.f1[:2] == pytest.approx([2 * 2 / (3 + 2), 2 * 1 / (1 + 2)])
    assert np.isnan(found.f1[2])
    assert found.f1_micro == pytest.approx(2 * 3 / (4 + 4))
    assert found.subset_accuracy == pytest.approx(1 / 3)
    assert found.mean_average_precision == pytest.approx(1.0)
    assert found.loss == pytest.approx(found.loss_uncalibrated)


def test_a_rare_label_weighs_more_in_the_loss() -> None:
    targets = np.zeros((100, 2), np.int64)
    targets[:50, 0] = targets[:4, 1] = 1
    weights = weights_of(targets)
    assert weights.tolist() == pytest.approx([1.0, np.sqrt(24)])
    loss = LabelCrossEntropy(weights)
    even = np.zeros((100, 2), np.float32)
    expected = np.log(2) * (0.5 + 0.5 + 0.04 * np.sqrt(24) + 0.96) / 2
    assert float(loss(targets, even)) == pytest.approx(expected, rel=1e-5)
    assert guessing(targets) < expected
