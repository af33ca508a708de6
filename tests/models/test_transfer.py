"""`python -m glimpse.models.train --from BASE`, end to end on images that take seconds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from glimpse.models import bundle, evaluate
from glimpse.models.train import __main__ as command
from glimpse.models.train import fit
from glimpse.models.train.transfer import phase
from tests.conftest import SHARED
from tests.models.training import PRETRAINED, RANDOM, commands_of, run_words
from tests.models.training import transfer_options as options

from .conftest import write_images


@pytest.fixture(scope="module")
def thawed(patches: Path, test_patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of both phases."""
    out = tmp_path_factory.mktemp("transfers") / "thawed"
    assert command.main(options(patches, out, *RANDOM, "--thaw", "1", "--test", str(test_patches))) == 0
    return out


@pytest.fixture(scope="module")
def pretrained(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a head on the embedded network."""
    out = tmp_path_factory.mktemp("transfers") / "pretrained"
    more = ("--from", PRETRAINED, "--epochs", "40", "--learning-rate", "0.02")
    assert command.main(options(patches, out, *more)) == 0
    return out


def test_only_the_head_differs_from_the_base(pretrained: Path) -> None:
    base, made = bundle.read(bundle.EMBEDDED / "se_resnet20_cifar10"), bundle.read(pretrained / "bundle")
    before, after = (load_file(each.weights_path) for each in (base, made))
    changed = {name for name in after if before[name].shape != after[name].shape or (before[name] != after[name]).any()}
    assert changed == {"classifier_logits/kernel", "classifier_logits/bias"}
    assert before.keys() == after.keys()


def test_the_recipe_and_the_options_of_the_base_belong_to_the_result(pretrained: Path) -> None:
    base, made = bundle.read(bundle.EMBEDDED / "se_resnet20_cifar10"), bundle.read(pretrained / "bundle")
    assert made.recipe == base.recipe
    assert (made.architecture, made.variant, made.options) == (base.architecture, base.variant, base.options)
    assert [label.label for label in made.labels] == ["blue", "green", "red"]


def test_a_head_on_frozen_features_learns(pretrained: Path) -> None:
    rows = fit.history(pretrained)
    assert rows[-1]["accuracy"] > 0.8
    assert min(row["val_loss"] for row in rows) < 0.7 * rows[0]["val_loss"]


@pytest.mark.ci
def test_the_bundle_measures_as_its_card_says(
    thawed: Path, test_patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--bundle", str(thawed / "bundle"), "--data", str(test_patches), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == pytest.approx(found["claimed"], abs=1e-5)


def test_the_card_names_the_base(pretrained: Path, thawed: Path) -> None:
    card = (pretrained / "bundle" / "MODEL_CARD.md").read_text().replace("\n", " ")
    digest = bundle.read(bundle.EMBEDDED / "se_resnet20_cifar10").weights_digest
    assert f"transfer learning from **{PRETRAINED}**, weights `{digest}`" in card
    assert "These weights ship with Glimpse" in card
    assert "Thawed" not in card
    assert "Nobody has trained these weights" in (thawed / "bundle" / "MODEL_CARD.md").read_text().replace("\n", " ")


def test_the_history_has_the_epochs_of_both_phases(thawed: Path) -> None:
    rows = fit.history(thawed)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["thawed"] for row in rows] == [0, 0, 0, 1, 1]


@pytest.mark.ci
def test_an_interrupted_run_goes_on_to_the_same_weights(
    thawed: Path, patches: Path, test_patches: Path, tmp_path: Path
) -> None:
    out = tmp_path / "interrupted"
    given = options(patches, out, *RANDOM, "--thaw", "1", "--test", str(test_patches))
    for epochs in ("2", "2"):  # the first ends within the head's phase, the second within the other
        assert command.main([*given, "--stop-after", epochs]) == 0
        assert "**Provisional**" in (out / "bundle" / "MODEL_CARD.md").read_text()
    assert command.main(given) == 0
    assert "**Provisional**" not in (out / "bundle" / "MODEL_CARD.md").read_text()
    whole, resumed = (load_file(folder / "bundle" / bundle.WEIGHTS) for folder in (thawed, out))
    for name, tensor in whole.items():
        np.testing.assert_allclose(resumed[name], tensor, rtol=1e-3, atol=1e-5, err_msg=name)
    assert [row["epoch"] for row in fit.history(out)] == [1, 2, 3, 4, 5]


@pytest.mark.ci
def test_a_run_that_ends_before_a_checkpoint_is_kept_has_each_epoch_once(
    thawed: Path, patches: Path, test_patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    given = options(patches, out, *RANDOM, "--thaw", "1", "--test", str(test_patches))
    save = fit.save_checkpoint

    def interrupted(model: keras.Model, checkpoint: Path) -> None:
        if len(fit.history(out)) == 2 and "best" not in checkpoint.name:
            raise KeyboardInterrupt
        save(model, checkpoint)

    monkeypatch.setattr(phase, "save_checkpoint", interrupted)
    assert command.main(given) == 130
    monkeypatch.undo()
    assert command.main(given) == 0
    assert [row["epoch"] for row in fit.history(out)] == [1, 2, 3, 4, 5]
    for name, tensor in load_file(thawed / "bundle" / bundle.WEIGHTS).items():
        found = load_file(out / "bundle" / bundle.WEIGHTS)[name]
        np.testing.assert_allclose(found, tensor, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_finished_head_may_be_thawed_in_the_same_folder(
    thawed: Path, patches: Path, test_patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "later"
    given = options(patches, out, *RANDOM, "--test", str(test_patches))
    assert command.main(given) == 0
    capsys.readouterr()
    assert command.main([*given, "--thaw", "1"]) == 0
    said = capsys.readouterr().out
    assert "features:" not in said
    assert re.findall(r"^(\w+): epoch (\d)", said, re.MULTILINE) == [("thawed", "1"), ("thawed", "2")]
    whole, later = (load_file(folder / "bundle" / bundle.WEIGHTS) for folder in (thawed, out))
    for name, tensor in whole.items():
        np.testing.assert_allclose(later[name], tensor, rtol=1e-3, atol=1e-5, err_msg=name)
    assert command.main(given) == 1
    assert "plan.thaw was 1, now 0. Give another --out" in capsys.readouterr().err


def test_a_run_from_scratch_leaves_the_folder_of_a_transfer_alone(
    thawed: Path, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (thawed / "plan.json").read_text()
    given = ["--data", str(patches), "--architecture", "basic_cnn", "--size", "8x8", "--out", str(thawed)]
    assert command.main(given) == 1
    assert "holds a run with --from, and this is a run from scratch" in capsys.readouterr().err
    assert (thawed / "plan.json").read_text() == before


def test_what_an_interrupted_run_from_scratch_has_left_gives_way(patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / fit.HISTORY).write_text("epoch,loss,accuracy\n1,0.5,0.5\n")
    assert command.main(options(patches, out, *RANDOM, "--epochs", "1")) == 0
    assert [row["thawed"] for row in fit.history(out)] == [0]


def test_a_phase_ends_when_the_held_out_loss_no_longer_falls(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = (*RANDOM, "--epochs", "60", "--patience", "2", "--learning-rate", "0.05")
    assert command.main(options(patches, out, *more)) == 0
    losses = [row["val_calibrated"] for row in fit.history(out)]
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 3
    # What is kept is the best epoch, not the last one: its calibrated loss is the least.
    made = bundle.read(out / "bundle")
    assert made.metrics["nll"] == pytest.approx(min(losses), rel=1e-2)


def test_the_commands_of_a_card_run_as_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("my photos"), each=6, seed=1)
    write_images(Path("it's a test $HOME"), each=2, seed=2)
    given = options(Path("my photos"), Path("runs of today/one"), *RANDOM, "--test", "it's a test $HOME")
    given += ["--mean", "127.5", "127.5", "127.5", "--std", "63.123456789", "64", "65", "--class-weights", "none"]
    given += ["--data-note", "Mine; *really* `mine`."]
    assert command.main(given) == 0
    made = bundle.read(Path("runs of today/one/bundle"))
    capsys.readouterr()
    training, measuring = commands_of(made.folder / "MODEL_CARD.md")
    assert run_words([*measuring, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == pytest.approx(found["claimed"], abs=1e-5)
    assert run_words(training) == 0
    again = bundle.read(made.folder)
    assert (again.weights_digest, again.recipe, again.name) == (made.weights_digest, made.recipe, made.name)
    assert commands_of(made.folder / "MODEL_CARD.md") == [training, measuring]


@pytest.mark.ci
def test_without_test_images_the_card_measures_the_held_out_ones_again(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(options(patches, tmp_path / "run", *RANDOM, "--epochs", "1")) == 0
    capsys.readouterr()
    before = bundle.read(tmp_path / "run" / "bundle")
    _, measuring = commands_of(before.folder / "MODEL_CARD.md")
    assert measuring[-1] == "--export-only"
    assert run_words(measuring) == 0
    assert "epoch" not in capsys.readouterr().out
    assert bundle.read(before.folder).metrics == before.metrics


def test_a_grey_network_is_begun_with_grey_images(patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert command.main(options(patches, out, "--from", "basic_cnn:random", "--size", "8x8", "--epochs", "1")) == 0
    made = bundle.read(out / "bundle")
    assert (made.input_shape, made.recipe.padding) == ((8, 8, 1), "zero")
    card = (out / "bundle" / "MODEL_CARD.md").read_text()
    assert re.search(r"divided by [\d.]+, for grey in 0\.\.255", card)


@pytest.mark.ci
def test_the_command_of_a_card_has_the_options_of_the_architecture(patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = options(patches, out, "--from", "basic_cnn:random:7", "--size", "8x8", "--option", 'batch_norm="after"')
    given += ["--option", "width=4", "--epochs", "1", "--padding", "zero"]
    assert command.main(given) == 0
    made = bundle.read(out / "bundle")
    assert made.options == {"batch_norm": "after", "width": 4}
    training, _ = commands_of(out / "bundle" / "MODEL_CARD.md")
    assert [training[i + 1] for i, word in enumerate(training) if word == "--option"] == [
        'batch_norm="after"',
        "width=4",
    ]
    assert training[training.index("--padding") + 1] == "zero"
    assert run_words(training) == 0


def test_a_bundle_that_was_trained_here_is_a_base(thawed: Path, patches: Path, tmp_path: Path) -> None:
    assert command.main(options(patches, tmp_path / "run", "--from", str(thawed / "bundle"))) == 0
    before, after = (load_file(folder / "bundle" / bundle.WEIGHTS) for folder in (thawed, tmp_path / "run"))
    np.testing.assert_array_equal(before["stem_conv/kernel"], after["stem_conv/kernel"])


@pytest.mark.ci
def test_thawing_changes_the_last_stages_and_no_batch_normalisation(patches: Path, tmp_path: Path) -> None:
    epochs = ("--epochs", "1", "--thaw", "1", "--thaw-epochs", "1")
    assert command.main(options(patches, tmp_path / "run", "--from", PRETRAINED, *epochs)) == 0
    before = load_file(bundle.EMBEDDED / "se_resnet20_cifar10" / bundle.WEIGHTS)
    after = load_file(tmp_path / "run" / "bundle" / bundle.WEIGHTS)
    changed = {name for name in after if before[name].shape != after[name].shape or (before[name] != after[name]).any()}
    assert {name.split("_")[0] for name in changed} == {"group3", "classifier"}
    assert not [name for name in changed if "_bn/" in name]
    assert {name for name in before if name.startswith("group3_") and "_bn/" not in name} <= changed


def test_a_bundle_whose_weights_were_changed_is_refused(
    thawed: Path, patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(thawed / "bundle", tmp_path / "bundle")
    content = bytearray((folder / bundle.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / bundle.WEIGHTS).write_bytes(bytes(content))
    assert command.main(options(patches, tmp_path / "run", "--from", str(folder))) == 1
    assert "sha256" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        pytest.param(("--from", "xception:random", "--size", "71x71"), id="xception at random weights"),
        pytest.param(
            (
                *("--from", str(SHARED / "weights" / "mobilenet_v1_0.25_224_imagenet.tflite")),
                *("--architecture", "mobilenet", "--option", "alpha=0.25"),
            ),
            id="mobilenet from tflite",
        ),
        pytest.param(
            ("--from", str(SHARED / "weights" / "squeezenet1_1_imagenet_fp16.onnx"), "--architecture", "squeezenet1_1"),
            id="squeezenet from onnx, whose head is a convolution",
        ),
        pytest.param(("--from", "efficientnet_lite0", "--thaw", "2"), id="efficientnet_lite0"),
    ],
)
def test_large_networks_are_bases(
    given: tuple[str, ...], patches: Path, test_patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "/" in given[1] and not Path(given[1]).exists():
        pytest.skip("ImageNet weights are not at hand: ../shared/weights is missing")
    out = tmp_path / "run"
    assert command.main(options(patches, out, *given, "--epochs", "20", "--test", str(test_patches))) == 0
    made = bundle.read(out / "bundle")
    assert made.options == ({"alpha": 0.25} if "mobilenet" in made.architecture else {})
    if "random" not in given[1]:
        assert made.metrics["top1"] > 0.8
    capsys.readouterr()
    assert evaluate.main(["--bundle", str(made.folder), "--data", str(test_patches), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == pytest.approx(found["claimed"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_flowers_are_told_apart_by_frozen_features_and_better_by_thawed_stages(tmp_path: Path) -> None:
    """Most of what is in these photos is in 32 x 32 pixels: they were enlarged from that."""
    data = SHARED / "data" / "flowers" / "flowers.zip"
    if not data.exists():
        pytest.skip("The flowers are not at hand: ../shared/data/flowers is missing")
    out = tmp_path / "flowers"
    given = ["--data", str(data), "--from", "efficientnet_lite0", "--size", "128x128", "--out", str(out)]
    assert command.main(given) == 0
    assert bundle.read(out / "bundle").metrics["top1"] > 0.7
    frozen = min(row["val_loss"] for row in fit.history(out))
    assert command.main([*given, "--thaw", "3", "--thaw-epochs", "4"]) == 0
    assert min(row["val_loss"] for row in fit.history(out)) < frozen
    assert bundle.read(out / "bundle").metrics["top1"] > 0.75
