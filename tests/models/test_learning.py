"""Every architecture of the library learns with what the trainer takes where the command does not say.

Simple shapes at a small size, a few hundred steps. `make test` trains two small networks, `make test-all` all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from glimpse.models import bundle
from glimpse.models.catalogue import architectures
from glimpse.models.train import __main__ as command

SHAPES = ("circle", "square", "triangle")
QUICK = ("basic_cnn", "mnist_dnn")
# Pixels a side. Where an image is halved five times, maps are one pixel at 32, and a batch normalisation has no more
# numbers than there are images in the batch; at 64 it has four times as many.
SIZES = {
    "mnist_dnn": 28,
    "basic_cnn": 32,
    "resnet20": 32,
    "se_resnet20": 32,
    "resnet18": 32,
    "squeezenet1_0": 32,
    "squeezenet1_1": 32,
    "vgg16": 32,
    "vgg19": 32,
    "xception": 71,
    "inception_v3": 107,
    "inception_v4": 107,
    "inception_resnet_v2": 107,
}
SIZE = 64  # of all others
# At most so many passes over the 300 pictures, where they are not 6; those of small networks take seconds.
EPOCHS = dict.fromkeys(
    ("mnist_dnn", "basic_cnn", "squeezenet1_0", "squeezenet1_1", "se_inception", "resnet34-handbook"), 12
)
# Trained to the end at once: it sorts the last two shapes at the rate of the first half, which is 0 at the end of a
# shorter run.
AT_ONCE = ("se_inception",)
ENOUGH = 0.9  # top-1 on pictures that were not trained on; three classes give 0.33 to one that guesses


def draw(shape: str, rng: np.random.Generator) -> Image.Image:
    """A dark shape somewhere on white, 64 x 64 pixels."""
    image = Image.new("RGB", (64, 64), "white")
    side = int(rng.integers(32, 52))
    left, top = (int(value) for value in rng.integers(1, 64 - side, 2))
    pen, box = ImageDraw.Draw(image), (left, top, left + side, top + side)
    if shape == "circle":
        pen.ellipse(box, fill="navy")
    elif shape == "square":
        pen.rectangle(box, fill="navy")
    else:
        pen.polygon([(left, top + side), (left + side, top + side), (left + side / 2, top)], fill="navy")
    return image


def write_shapes(folder: Path, *, each: int, seed: int) -> Path:
    """So many pictures of each shape, as ``folder/shape/number.png``."""
    rng = np.random.default_rng(seed)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(each):
            draw(shape, rng).save(folder / shape / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "train", each=100, seed=1)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "unseen", each=30, seed=2)


# Variants beside the first of each architecture whose layers are of another kind, above all without normalisation.
OTHERS = (("resnet34", "handbook"), ("squeezenet1_0", "handbook"), ("googlenet", "paper"))
ALL = (*((name, variants[0]) for name, variants in architectures().items()), *OTHERS)


@pytest.mark.timeout(3600)  # ResNet-152 takes half an hour of a core
@pytest.mark.parametrize(
    ("architecture", "variant"),
    [
        pytest.param(*each, marks=pytest.mark.ci if each[0] in QUICK else pytest.mark.slow, id="-".join(each))
        for each in ALL
    ],
)
def test_it_learns_with_the_trainers_defaults(
    architecture: str, variant: str, shapes: Path, unseen: Path, tmp_path: Path
) -> None:
    size, epochs = SIZES.get(architecture, SIZE), EPOCHS.get(f"{architecture}-{variant}", EPOCHS.get(architecture, 6))
    words = ["--data", str(shapes), "--test", str(unseen), "--architecture", architecture, "--variant", variant]
    words += ["--size", str(size), "--out", str(tmp_path / "run")]
    top1 = 0.0
    # Half of them do for most networks; the rest of a run goes on from there.
    for passes in (epochs,) if architecture in AT_ONCE else (epochs // 2, epochs):
        assert command.main([*words, "--epochs", str(passes)]) == 0
        top1 = bundle.read(tmp_path / "run" / "bundle").metrics["top1"]
        if top1 > ENOUGH:
            break
    assert top1 > ENOUGH
